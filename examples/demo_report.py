"""What demo.py shows to people: a progress bar while it runs, and a table of what was done and how long it took."""

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Self


@dataclass
class Step:
    what: str
    result: str = ""
    seconds: float = 0.0
    ok: bool = False


class Steps(list[Step]):
    def __init__(self) -> None:
        super().__init__()
        self._begin = time.perf_counter()

    @contextmanager
    def step(self, what: str) -> Generator[Step]:
        """Time a step; its block says the result, or raises."""
        step = Step(what)
        self.append(step)
        begin = time.perf_counter()
        try:
            yield step
            step.ok = True
        except BaseException as error:
            step.result = f"failed: {str(error) or type(error).__name__}"
            raise
        finally:
            step.seconds = time.perf_counter() - begin

    def as_json(self, failure: str | None) -> str:
        steps = [asdict(step) for step in self]
        report = {"ok": failure is None, "error": failure, "seconds": self._seconds, "steps": steps}
        return json.dumps(report, indent=2)

    def as_table(self) -> str:
        rows = [("what", "result", "time"), *((step.what, step.result, _duration(step.seconds)) for step in self)]
        what, result, took = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{row[0]:{what}}  {row[1]:{result}}  {row[2]:>{took}}" for row in rows]
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            colours = ["1", *("32" if step.ok else "31" for step in self)]  # bold, green, red
            lines = [f"\x1b[{c}m{line[:what]}\x1b[0m{line[what:]}" for c, line in zip(colours, lines, strict=True)]
        done = sum(step.ok for step in self)
        return "\n".join([*lines, f"{done} of {len(self)} steps done in {_duration(self._seconds)}"])

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._begin


class Bar:
    """A progress bar on stderr where that is a terminal, drawn ten times a second."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._begin = time.perf_counter()
        self._drawn = 0.0
        self._visible = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw(" " * 70)

    def show(self, done_bytes: int) -> None:
        now = time.perf_counter()
        if now - self._drawn >= 0.1:
            self._drawn = now
            part, speed = done_bytes / self._total, done_bytes / 1e6 / (now - self._begin)
            self._draw(f"sending [{'#' * int(40 * part):40}] {part:4.0%} {speed:5.0f} MB/s")

    def _draw(self, text: str) -> None:
        if self._visible:
            print(f"{text}\r", end="", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
