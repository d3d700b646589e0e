"""SLOW: a reader that stops, and then reads slowly: the writer waits, and neither side grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benches.core import Contender, Figures, Plan, Row, contest, engines
from benches.worker import Round
from echostream import RpcClient, RpcServer, StreamReceiver, service, stream

ID = "SLOW"

SECONDS: Final = 30.0
"""A third of it the reader stands still, two thirds it reads."""

_PIECE: Final = bytes(range(256)) * 256
_WHOLE: Final = 256 << 20
_BEFORE_STOP: Final = 1 << 20
_RATE: Final = 1_000_000
"""Bytes a second of the slow reader."""
_SAMPLE: Final = 0.1
_LIMIT_MIB: Final = 32.0


def resident_bytes() -> int:
    """Return the memory of this process; where the system does not tell, the most that it ever had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@service("slow")
class Slow:
    """Its reader takes 1 MiB, waits for `go_on`, and takes 1 MB/s from then on."""

    def __init__(self) -> None:
        self.going_on = asyncio.Event()
        self.read = 0

    @stream("upload")
    async def upload(self, receiver: StreamReceiver[bytes]) -> None:
        self.going_on.clear()
        self.read = 0
        started = 0.0
        async for item in receiver:
            self.read += len(item)
            if self.read < _BEFORE_STOP:
                continue
            if not started:
                await self.going_on.wait()
                started = time.perf_counter()
            await asyncio.sleep(max(0.0, (self.read - _BEFORE_STOP) / _RATE - (time.perf_counter() - started)))


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    from echostream import handler

    slow = Slow()

    @handler("slow.go_on")
    async def go_on() -> None:
        slow.going_on.set()

    @handler("slow.state")
    async def state() -> tuple[int, int]:
        return resident_bytes(), slow.read

    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(slow, go_on, state)
    async with server:
        yield {"url": server.addresses[0]}


@asynccontextmanager
async def connect(engine: str, url: str) -> AsyncIterator[Round]:
    async with RpcClient.connect(url, ca="dev", engine=engine) as client:

        async def measure(*, seconds: float) -> Figures:
            return await _watch(client, seconds / 3, seconds * 2 / 3)

        yield measure


async def _watch(client: RpcClient, still: float, reading: float) -> Figures:
    """Write to the reader while it stands still and while it reads; how much did either side grow?"""
    sent = 0

    async def write() -> None:
        nonlocal sent
        async with client.open_stream("upload") as sender:
            for _ in range(_WHOLE // len(_PIECE)):
                await sender.send(_PIECE)
                sent += len(_PIECE)

    async def most(duration: float) -> tuple[int, int]:
        """The most memory that each side had in a while."""
        ours = theirs = 0
        until = time.perf_counter() + duration
        while time.perf_counter() < until:
            await asyncio.sleep(_SAMPLE)
            there, _ = await client.request("slow.state", returns=tuple[int, int])
            ours, theirs = max(ours, resident_bytes()), max(theirs, there)
        return ours, theirs

    ours_before, (theirs_before, _) = resident_bytes(), await client.request("slow.state", returns=tuple[int, int])
    writer = asyncio.get_running_loop().create_task(write())
    ours, theirs = await most(still)
    waiting_at = sent
    await asyncio.sleep(_SAMPLE)
    if writer.done() or sent != waiting_at:
        raise ValueError(f"the writer does not wait: {sent} bytes are sent")
    grown = max(ours - ours_before, theirs - theirs_before)
    await client.request("slow.go_on")
    ours_later, theirs_later = await most(reading)
    _, read = await client.request("slow.state", returns=tuple[int, int])
    writer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writer
    return {
        "waits_at": waiting_at / 1e6,
        "grew": grown / 2**20,
        "grew_reading": max(ours_later - ours, theirs_later - theirs) / 2**20,
        "rate": (read - _BEFORE_STOP) / reading / 1e6,
    }


def contenders() -> list[Contender]:
    return [Contender(name, f"{__name__}:serve", f"{__name__}:connect", options={"engine": name}) for name in engines()]


def measure(plan: Plan) -> Iterator[Row]:
    seconds = SECONDS if plan.seconds >= 1 else SECONDS / 5
    for name, (figures,) in contest(contenders(), Plan(rounds=1, seconds=seconds)).items():
        for key, what in (("grew", "while the reader stands still"), ("grew_reading", "more, at 1 MB/s after that")):
            row = Row(ID, f"growth of either side {what}, {name}", unit="MiB", lower_is_better=True)
            row.value, row.floor, row.goal = figures[key], _LIMIT_MIB, _LIMIT_MIB / 4
            row.rounds = [figures]
            yield row.judge()
