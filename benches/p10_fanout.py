"""P10: one `broadcast` to 1,000 sessions, against the raw endpoint writing the same bytes to 1,000 connections.

A delivery counts when its guest has read it, and every guest checks that nothing is missing and all is in order. The
guests are the same light ones for both, so that it is the server that is measured. Two broadcasts are under way at a
time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.control import Ask, answering, asking
from benches.core import Contender, Figures, Plan, Row, compare, contest, missing
from benches.p01_unary import engine_modules
from benches.raw_crowd import Greeter, Guest, crowd, listen
from benches.worker import Round
from echostream import RpcServer
from echostream.config import Limits
from echostream.protocol.codec import FrameCodec
from echostream.protocol.payload import PayloadCodec
from echostream.transport.base import Connection

ID = "P10"

SESSIONS: Final = 1000
_QUICK_SESSIONS: Final = 100
_UNDER_WAY: Final = 2
_EVENT: Final = "tick"
_PAYLOAD_BYTES: Final = 64
_NUMBER_BYTES: Final = 8
_STALLED: Final = 10.0
"""Seconds without a delivery after which something is lost."""


def _payload(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES) * (_PAYLOAD_BYTES // _NUMBER_BYTES)


_codec: Final = FrameCodec(PayloadCodec(Limits()))


def _frame(number: int) -> bytes:
    """Return what an event looks like on the wire."""
    return _codec.event(2 * number + 2, _EVENT.encode(), _payload(number), raw=True)


_FRAME_BYTES: Final = len(_frame(0))


@asynccontextmanager
async def serve(engine: str, count: int) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    numbers = itertools.count()

    def broadcast(_question: str) -> float:
        return server.broadcast(_EVENT, _payload(next(numbers))).sent

    async with server, answering(broadcast) as control:
        yield {"url": server.addresses[0], "control": control}


class _RawMember(Greeter):
    """A connection with a one-way stream for events, like a session's."""

    __slots__ = ("_stream_id",)

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stream_id: int | None = None

    def send(self, data: bytes) -> None:
        if self._stream_id is None:
            self._stream_id = self.connection.open_stream(unidirectional=True)
            assert self._stream_id is not None
        self.connection.write(self._stream_id, data)
        self.connection.flush()


@asynccontextmanager
async def serve_raw(engine: str, count: int) -> AsyncIterator[dict[str, Any]]:
    members: list[_RawMember] = []
    numbers = itertools.count()

    def accept(connection: Connection) -> _RawMember:
        members.append(_RawMember(connection))
        return members[-1]

    def broadcast(_question: str) -> float:
        data = _frame(next(numbers))
        for member in members:
            member.send(data)
        return len(members)

    listener = await listen(engine, accept)
    async with answering(broadcast) as control:
        yield {"url": listener.url, "control": control}
    await listener.close()


class _Listener(Guest):
    """A guest that reads events and checks them."""

    __slots__ = ("_next", "_on_event", "_rest")

    def __init__(self, connection: Connection, on_event: Callable[[], None]) -> None:
        super().__init__(connection)
        self._on_event = on_event
        self._next = 0
        self._rest = b""

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if not stream_id & 2:
            super().stream_data(stream_id, data, fin)
            return
        data = self._rest + data
        while len(data) >= _FRAME_BYTES:
            frame, data = data[:_FRAME_BYTES], data[_FRAME_BYTES:]
            if frame[-_PAYLOAD_BYTES:] != _payload(self._next):
                raise ValueError(f"event {self._next} is missing or out of order")
            self._next += 1
            self._on_event()
        self._rest = data


class _Arrivals:
    """Counts what all guests got, and wakes who waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    def add(self) -> None:
        self.count += 1
        if self.count >= self._wanted:
            self._reached.set()

    async def wait(self, count: int) -> None:
        self._wanted = count
        if self.count < count:
            self._reached.clear()
            async with asyncio.timeout(_STALLED):
                await self._reached.wait()


@asynccontextmanager
async def connect(engine: str, count: int, url: str, control: int) -> AsyncIterator[Round]:
    arrivals = _Arrivals()
    async with (
        asking(control) as ask,
        crowd(url, engine, count, lambda connection: _Listener(connection, arrivals.add)) as guests,
    ):

        async def measure(*, seconds: float) -> Figures:
            return await _fan_out(ask, arrivals, len(guests), seconds)

        yield measure


async def _fan_out(ask: Ask, arrivals: _Arrivals, guests: int, seconds: float) -> Figures:
    first, asked = arrivals.count, 0
    answers: list[asyncio.Future[float]] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        answers.append(ask("broadcast"))
        asked += 1
        await arrivals.wait(first + max(0, asked - _UNDER_WAY + 1) * guests)
    await arrivals.wait(first + asked * guests)
    elapsed = time.perf_counter() - started
    if {await answer for answer in answers} != {guests} or arrivals.count != first + asked * guests:
        raise ValueError(f"{arrivals.count - first} deliveries of {asked} broadcasts to {guests} guests")
    return {"rate": asked * guests / elapsed}


def measure(plan: Plan) -> Iterator[Row]:
    count = _QUICK_SESSIONS if plan.is_quick else SESSIONS
    for engine, loop in ((engine, plan.loops[-1]) for engine in ("aioquic", "qh3")):
        row = Row(ID, f"broadcast to {count} sessions", unit="deliveries/s", floor=0.55, goal=0.8)
        row.note = missing(*engine_modules(engine))
        if not row.note:
            options = {"engine": engine, "count": count}
            ours = Contender(f"{engine} {loop}", f"{__name__}:serve", f"{__name__}:connect", loop, options)
            raw = Contender("raw endpoint", f"{__name__}:serve_raw", f"{__name__}:connect", loop, options)
            results = contest([ours, raw], plan)
            compare(row, {ours.name: results[ours.name]}, {raw.name: results[raw.name]}, "rate")
        yield row
