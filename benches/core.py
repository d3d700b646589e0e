"""Pairs of processes that take turns, and what a bench makes of their figures.

A contender is a server process and a client process. All contenders of a bench live at once, and one round measures
each of them, one after the other: what disturbs the machine disturbs them alike, and the ratio within a round holds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = (
    "ROOT", "BenchError", "Contender", "Figures", "Plan", "Row",
    "arena", "compare", "contest", "engines", "fastest_loop", "loops", "missing",
)  # fmt: skip

ROOT: Final = Path(__file__).parent.parent

_START_TIMEOUT: Final = 30.0
"""Seconds that a process has until it is ready."""
_END_TIMEOUT: Final = 10.0
"""Seconds that a process has to end."""
_WARM_UP_SECONDS: Final = 0.5
"""Every contender runs that long before the first round counts."""

Figures = dict[str, float]


class BenchError(Exception):
    """A bench cannot go on; the others can."""


def missing(*modules: str) -> str:
    """Return which modules are not installed and what to do, or nothing."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"not run: {', '.join(absent)} not installed; pip install 'echostream[bench]'" if absent else ""


def loops() -> tuple[str, ...]:
    """Return the event loops that can be measured."""
    return ("asyncio",) if missing("uvloop") else ("asyncio", "uvloop")


def fastest_loop() -> str:
    """Return the loop that counts where only one is measured."""
    return loops()[-1]


def engines() -> tuple[str, ...]:
    """Return the engines that are installed."""
    return ("aioquic",) if missing("qh3") else ("aioquic", "qh3")


@dataclass(frozen=True)
class Plan:
    """How long to measure, and on what."""

    rounds: int
    seconds: float
    """Of one contender's part of a round."""
    loops: Sequence[str] = field(default_factory=loops)
    """The event loops; the better one counts, for us and for the peer."""
    grace: float = 30.0
    """Seconds that a round may take longer than asked."""
    tell: Callable[[str], None] = lambda _: None
    """Hears what is done now, for people who wait."""

    @property
    def is_quick(self) -> bool:
        """Whether a rough picture is enough."""
        return self.seconds < 1


@dataclass(frozen=True)
class Contender:
    """Who takes part: functions of `worker.Workload`, as ``module:function``."""

    name: str
    server: str
    client: str
    loop: str = "asyncio"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of both functions."""


@dataclass
class Row:
    """One line of the table, one object of the JSON."""

    id: str
    name: str
    value: float | None = None
    unit: str = ""
    against: str | None = None
    against_value: float | None = None
    ratio: float | None = None
    floor: float | None = None
    goal: float | None = None
    met: bool | None = None
    """Whether the floor is reached; None when it was not run."""
    rounds: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    note: str = ""
    """Why it was not run."""
    lower_is_better: bool = False
    points: list[Figures] = field(default_factory=list[Figures])
    """Of a curve: ``x`` and what was found there."""

    def judge(self) -> Row:
        """Compare with floor and goal: the ratio where there is a peer, else the value."""
        figure = self.ratio if self.ratio is not None else self.value
        if figure is not None and self.floor is not None:
            self.met = self.reaches(self.floor)
        return self

    def reaches(self, limit: float) -> bool:
        """Whether the figure is at least as good as `limit`."""
        figure = self.ratio if self.ratio is not None else self.value
        if figure is None:
            return False
        return figure <= limit if self.lower_is_better else figure >= limit


def contest(contenders: Sequence[Contender], plan: Plan, **arguments: Any) -> dict[str, list[Figures]]:
    """Measure all contenders in alternating rounds.

    Args:
        contenders: who takes part.
        plan: how long.
        arguments: for every round of every client, besides ``seconds``.

    Raises:
        BenchError: a process failed.
    """
    with arena(contenders, plan) as measure:
        return measure(**arguments)


@contextmanager
def arena(contenders: Sequence[Contender], plan: Plan) -> Iterator[Callable[..., dict[str, list[Figures]]]]:
    """Keep contenders for several contests, each with arguments of its own; see `contest`."""
    with ExitStack() as stack:
        plan.tell("starts " + ", ".join(contender.name for contender in contenders))
        servers = [stack.enter_context(_process(contender, contender.server, {})) for contender in contenders]
        stack.callback(_dismiss, servers)
        clients: dict[str, _Process] = {}
        for contender, server in zip(contenders, servers, strict=True):
            ready = server.wait_ready()
            clients[contender.name] = stack.enter_context(_process(contender, contender.client, ready))
        for client in clients.values():
            client.wait_ready()
        stack.callback(_dismiss, clients.values())

        def measure(**arguments: Any) -> dict[str, list[Figures]]:
            results: dict[str, list[Figures]] = {name: [] for name in clients}
            for name, client in clients.items():
                plan.tell(f"warms up {name}")
                client.measure(min(plan.seconds, _WARM_UP_SECONDS), plan.grace, arguments)
            for number in range(plan.rounds):
                for name, client in clients.items():
                    plan.tell(f"round {number + 1} of {plan.rounds}: {name}")
                    results[name].append(client.measure(plan.seconds, plan.grace, arguments))
            return results

        yield measure


def compare(row: Row, ours: Mapping[str, Sequence[Figures]], theirs: Mapping[str, Sequence[Figures]], key: str) -> Row:
    """Fill in a row: the best of us against the best of them, by median; the ratio is the median of the rounds'."""
    name, values = _best(ours, key, lower=row.lower_is_better)
    against, against_values = _best(theirs, key, lower=row.lower_is_better)
    row.name = f"{row.name}, {name}"
    row.against = against
    row.value = statistics.median(values)
    row.against_value = statistics.median(against_values)
    row.ratio = statistics.median(a / b for a, b in zip(values, against_values, strict=True))
    row.rounds = [{"value": a, "against": b} for a, b in zip(values, against_values, strict=True)]
    return row.judge()


def _best(results: Mapping[str, Sequence[Figures]], key: str, *, lower: bool) -> tuple[str, list[float]]:
    series = {name: [figures[key] for figures in rounds] for name, rounds in results.items()}
    choose = min if lower else max
    name = choose(series, key=lambda name: statistics.median(series[name]))
    return name, series[name]


class _Process:
    """A worker: lines of JSON in and out."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: Path) -> None:
        self._name = name
        self._process = process
        self._errors = errors
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_ready(self) -> dict[str, Any]:
        return self._take(_START_TIMEOUT)

    def dismiss(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def measure(self, seconds: float, grace: float, arguments: Mapping[str, Any]) -> Figures:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"seconds": seconds, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure("ended") from None
        return self._take(seconds + grace)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    def _take(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise self._failure(f"gave no answer within {timeout:g} s") from None
        if not line:
            raise self._failure("ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self, what: str) -> BenchError:
        lines = self._errors.read_text(errors="replace").splitlines()
        said = [line.strip(" |") for line in lines if re.search(r"\w", line)]  # not the frame around a group of errors
        return BenchError(f"{self._name} {what}" + (f": {said[-1]}" if said else ""))


def _dismiss(workers: Iterable[_Process]) -> None:
    """Let workers end, all at once; each is waited for where it was started."""
    for worker in workers:
        worker.dismiss()


@contextmanager
def _process(contender: Contender, function: str, extra: Mapping[str, Any]) -> Iterator[_Process]:
    """Start a worker; it is ready some time later. At the end close its input and wait."""
    options = json.dumps({**contender.options, **extra})
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr"
        with errors.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "benches.worker", contender.loop, function, options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its children
            )
        worker = _Process(f"{contender.name} ({function})", process, errors)
        try:
            yield worker
        finally:
            worker.dismiss()
            try:
                process.wait(_END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
