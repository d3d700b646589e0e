"""G6: how wrong receivers with clocks of their own are over real sockets on this machine, also under load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import median
from typing import Any, Final, Self

from benches.realtime.table import Figure, Plan, percentile

__all__ = ("ID", "measure")

ID: Final = "G6"
_ENGINES: Final = ("aioquic", "qh3")
_CALLS: Final = 2000
"""Calls in a second that the server serves meanwhile."""
_CLOCKS: Final = ((77.0, 40.0), (-3.5, -60.0), (900.0, 12.0))
"""Seconds ahead and drift in ppm of the receivers, which all run at once."""
_RUNS_PER_SEED: Final = 0.1
"""A run takes 20 s of real time, and there are four of them: as many as seeds would be half an hour."""
_SECONDS: Final = 15.0
_QUICK_SECONDS: Final = 4.0
_P99_GOAL: Final = 50.0
_SPREAD_GOAL: Final = 25.0
_PATIENCE: Final = 60.0


def measure(plan: Plan) -> Iterator[Figure]:
    """Both engines, without and with load; one run for ten seeds."""
    runs = max(1, round(plan.seeds * _RUNS_PER_SEED))
    seconds = _SECONDS if plan.seeds * _RUNS_PER_SEED >= 1 else _QUICK_SECONDS
    for engine in _ENGINES:
        for rate in (0, _CALLS):
            name = f"{engine}, {f'while it serves {rate:,} calls/s' if rate else 'idle'}"
            if find_spec(engine) is None:
                yield Figure(ID, name, why=f"not run: {engine} is not installed")
                continue
            found: list[dict[str, Any]] = []
            for number in range(runs):
                plan.tell(f"{name}, run {number + 1} of {runs}")
                found += _run(engine, rate, seconds)
            yield from _figures(name, found)


def _figures(name: str, found: list[dict[str, Any]]) -> Iterator[Figure]:
    errors = [abs(error) for receiver in found for error in receiver["errors"]]
    spreads = [abs(best - median(receiver["best"])) for receiver in found for best in receiver["best"]]
    details = {
        "p50": percentile(errors, 0.5),
        "max": max(errors),
        "outside_bound": sum(receiver["outside"] for receiver in found) / len(errors),
        "drift_error_ppm": max(abs(receiver["drift_error"]) for receiver in found),
        "round_trip": median(receiver["round_trip"] for receiver in found),
    }
    yield Figure(ID, f"clock error on loopback, p99, {name}", percentile(errors, 0.99), goal=_P99_GOAL, details=details)
    yield Figure(ID, f"best of 8 probes, p95 from their median, {name}", percentile(spreads, 0.95), goal=_SPREAD_GOAL)


def _run(engine: str, rate: int, seconds: float) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        server = stack.enter_context(_Child("serve", engine=engine))
        where = {"engine": engine} | server.answer()
        receivers = [
            stack.enter_context(_Child("receive", **where, offset_s=offset, drift_ppm=drift))
            for offset, drift in _CLOCKS
        ]
        caller = stack.enter_context(_Child("load", **where, rate=rate)) if rate else None
        for child in receivers if caller is None else [*receivers, caller]:
            child.answer()
        if caller is not None:
            caller.ask(seconds=seconds + 6)
        for child in receivers:
            child.ask(seconds=seconds)
        return [child.answer() for child in receivers]


class _Child:
    """One of the processes; a dialogue in lines of JSON."""

    def __init__(self, program: str, **options: Any) -> None:
        place = f"benches.realtime.loopback:{program}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benches.worker", "asyncio", place, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=_PATIENCE)

    def ask(self, **arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next line.

        Raises:
            OSError: the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError("a process of the bench has ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer
