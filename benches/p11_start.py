"""P11: what it takes to begin: the import, and a server that accepts."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from benches.core import ROOT, BenchError, Figures, Plan, Row

ID = "P11"

_IMPORT: Final = """
import time
before = time.perf_counter()
import echostream
seconds = time.perf_counter() - before
"""
_SERVER: Final = """
import asyncio, time
from pydantic import BaseModel
from echostream import RpcServer, handler, service

class Order(BaseModel):
    quantity: int

@service("orders")
class Orders:
    @handler
    async def place(self, order: Order) -> Order:
        return order

async def main():
    server = RpcServer("quic://127.0.0.1:0")
    server.register(Orders())
    async with server:
        return time.monotonic()

seconds = asyncio.run(main()) - started
"""
_TELL: Final = """
import json, pathlib, re, resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = pathlib.Path("/proc/self/status")
if status.exists():  # Linux counts what the parent had in ru_maxrss, too
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
print(json.dumps({"ms": seconds * 1e3, "MiB": peak / 1024}))
"""


def measure(plan: Plan) -> Iterator[Row]:
    for name, program, limits in (
        ("import echostream", _IMPORT, {"ms": (110, 60), "MiB": (32, 25)}),
        ("process start to accepting server", _SERVER, {"ms": (450, 250), "MiB": (65, 50)}),
    ):
        _run(program)  # writes the byte code, makes the certificate
        rounds = [_run(program) for _ in range(2 * plan.rounds)]
        for unit, (floor, goal) in limits.items():
            row = Row(ID, f"{name}, {'memory' if unit == 'MiB' else 'time'}", unit=unit, lower_is_better=True)
            row.floor, row.goal = floor, goal
            row.value = statistics.median(figures[unit] for figures in rounds)
            row.rounds = [{"value": figures[unit]} for figures in rounds]
            yield row.judge()


def _run(program: str) -> Figures:
    # The monotonic clock of Linux and macOS is the same in every process.
    text = f"started = {time.monotonic()!r}\n{program}{_TELL}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},  # with byte code, as an installed package has it
        timeout=30,
        check=False,
    )
    if done.returncode:
        raise BenchError(done.stderr.strip().splitlines()[-1])
    figures: Figures = json.loads(done.stdout)
    return figures
