"""SESSIONS: what a call costs the server, and a session its memory, with 1 to 10,000 sessions. Both must stay flat.

Calls go round all sessions, 64 at a time and one per session, so that nothing of a session is warm by chance. The
guests are light; what a call costs is processor time of the server.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import resource
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benches.control import answering, asking
from benches.core import Contender, Figures, Plan, Row, arena, engines
from benches.load import allow_files
from benches.raw_crowd import Guest, crowd
from benches.slow_reader import resident_bytes
from benches.typed import Orders
from benches.worker import Round
from echostream import Limits, RpcServer
from echostream.config import QuicSettings
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import ResponseFrame
from echostream.protocol.payload import PayloadCodec
from echostream.transport.base import Connection
from echostream.transport.quic import transport

ID = "SESSIONS"

_COUNTS: Final = (1, 10, 100, 1000, 3000, 10_000)
_QUICK_COUNTS: Final = (1, 10, 100)
_AT_A_TIME: Final = 64
_COMPARED: Final = 100
"""Sessions from which on nothing may grow: with fewer there are no 64 calls at a time."""
_BYTES_PER_SESSION: Final = 256 << 10
"""Of both processes together, for the guess of how many sessions this machine carries."""
_GRACE: Final = 300.0
"""Seconds for 7,000 handshakes on a busy machine."""
_PATIENT: Final = functools.partial(
    QuicSettings, idle_timeout=3600.0, keepalive_interval=600.0, max_connections_per_address=16_384,
    max_tickets_per_server=0,
)  # fmt: skip
"""All come from one address, and their probes are not what is measured."""
_payload: Final = PayloadCodec(Limits())
_codec: Final = FrameCodec(_payload)


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    vars(transport)["QuicSettings"] = _PATIENT
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Orders())

    def tell(question: str) -> float:
        if question == "cpu":
            return time.process_time()
        gc.collect()
        return resident_bytes()

    async with server, answering(tell) as control:
        yield {"url": server.addresses[0], "control": control}


class Caller(Guest):
    """A guest that makes one call at a time."""

    __slots__ = ("_answer", "_number", "_rest")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._answer: asyncio.Future[bytes] | None = None
        self._number = 1
        self._rest = b""

    async def call(self) -> None:
        """Place an order and check its receipt."""
        number = self._number = self._number + 2
        arguments = _payload.encode([[{"symbol": "ACME", "qty": number}], {}])
        self._answer = asyncio.get_running_loop().create_future()
        self.connection.write(0, _codec.request(number, b"orders.place", arguments, timeout_ns=10_000_000_000))
        self.connection.flush()
        frame = _codec.decode(answer := await self._answer, 0, len(answer))
        if not isinstance(frame, ResponseFrame) or _payload.decode(frame.payload) != {"id": number}:
            raise ValueError(f"wrong answer to call {number}: {frame}")

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        super().stream_data(stream_id, data, fin)
        if self._answer is None:
            return
        self._rest += data
        if len(self._rest) >= 4 + int.from_bytes(self._rest[:4]):
            answer, self._rest = self._rest, b""
            self._answer.set_result(answer)


@asynccontextmanager
async def connect(engine: str, url: str, control: int) -> AsyncIterator[Round]:
    allow_files(_COUNTS[-1])
    async with AsyncExitStack() as stack:
        ask = await stack.enter_async_context(asking(control))
        callers: list[Caller] = []
        before = 0.0

        async def measure(*, sessions: int, seconds: float) -> Figures:
            nonlocal before
            if not callers:
                before = await ask("memory")
            more = sessions - len(callers)
            if more > 0:
                callers.extend(await stack.enter_async_context(crowd(url, engine, more, Caller, _PATIENT())))
            memory = await ask("memory") - before
            started = await ask("cpu")
            calls = await _call_round(callers, seconds)
            return {"cpu": (await ask("cpu") - started) / calls, "memory": memory / len(callers)}

        yield measure


async def _call_round(callers: list[Caller], seconds: float) -> int:
    """Let all call in turn, 64 at a time, each at least once."""
    line = deque(callers)
    until, calls = time.perf_counter() + seconds, 0

    async def keep_calling() -> None:
        nonlocal calls
        while calls < len(callers) or time.perf_counter() < until:
            calls += 1
            caller = line.popleft()
            await caller.call()
            line.append(caller)

    await asyncio.gather(*(keep_calling() for _ in range(min(_AT_A_TIME, len(callers)))))
    return calls


def _possible(counts: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Return the counts that this machine carries, and what is in the way of the others."""
    most, why = counts[-1], ""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if not allow_files(most):
        most, why = files - 200, f"{files} files a process"
    available = Path("/proc/meminfo")
    if available.exists():
        free = next(int(line.split()[1]) for line in available.open() if line.startswith("MemAvailable")) << 10
        if free // _BYTES_PER_SESSION < most:
            most, why = free // _BYTES_PER_SESSION, f"{free >> 20} MiB of free memory"
    return tuple(dict.fromkeys(min(count, most) for count in counts)), why


def measure(plan: Plan) -> Iterator[Row]:
    counts, limit = _possible(_QUICK_COUNTS if plan.is_quick else _COUNTS)
    for engine in engines():
        contender = Contender(engine, f"{__name__}:serve", f"{__name__}:connect", plan.loops[-1], {"engine": engine})
        costs: list[Figures] = []
        memory: list[Figures] = []
        with arena([contender], replace(plan, grace=_GRACE)) as contest:
            for count in counts:
                rounds = contest(sessions=count)[engine]
                costs.append({"x": count, "y": statistics.median(figures["cpu"] for figures in rounds) * 1e6})
                memory.append({"x": count, "y": rounds[0]["memory"] / 1024})
        said = f" (the machine's limit: {limit})" if limit else ""
        for what, points in (("processor time of a call", costs), ("memory of a session", memory)):
            row = Row(ID, f"{what} with {counts[-1]} sessions{said} against {_COMPARED}, {engine}", unit="x")
            row.lower_is_better, row.floor, row.goal, row.points = True, 2, 1.25, points
            reference = next(point["y"] for point in points if point["x"] >= min(_COMPARED, counts[-1]))
            row.value = points[-1]["y"] / reference
            yield row.judge()
