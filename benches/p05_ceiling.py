"""P5: typed unary calls against what the same engine, endpoint and loop carry with nothing above them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from benches.core import Contender, Plan, Row, compare, contest, missing
from benches.p01_unary import engine_modules
from benches.raw_echo import Echo, Server
from benches.worker import Round
from echostream.transport.base import Address, Connection
from echostream.transport.quic import QuicTransport
from echostream.transport.tls import ClientTls, ServerTls

ID = "P5"


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    transport = QuicTransport(engine=engine)
    listener = await transport.listen(Address.parse("quic://127.0.0.1:0"), accept=Server, tls=ServerTls.load())
    yield {"url": listener.url}
    await listener.close()


@asynccontextmanager
async def connect(engine: str, url: str) -> AsyncIterator[Round]:
    transport, tls = QuicTransport(engine=engine), ClientTls.load(ca="dev")

    async def measure(*, in_flight: int, seconds: float) -> dict[str, float]:
        sides: list[Echo] = []

        def accept(connection: Connection) -> Echo:
            sides.append(Echo(connection))
            return sides[0]

        await transport.dial(Address.parse(url), accept=accept, tls=tls)
        echo = sides[0]
        echo.start(in_flight)
        started = time.perf_counter()
        await asyncio.sleep(seconds)
        rate = echo.count / (time.perf_counter() - started)
        if echo.ended.done():
            raise ValueError(f"the raw echo broke off: {echo.ended.result()}")
        cuts = statistics.quantiles(echo.times, n=100)
        echo.connection.close(3000)
        await echo.ended
        return {"rate": rate, "p50": cuts[49], "p99": cuts[98]}

    yield measure


def measure(plan: Plan) -> Iterator[Row]:
    for engine, floor, goal in (("aioquic", 0.5, 0.74), ("qh3", 0.35, 0.53)):
        rows = [_row(plan, engine, loop, floor, goal) for loop in plan.loops]
        yield max(rows, key=lambda row: row.value or 0)  # the better loop, as in P1


def _row(plan: Plan, engine: str, loop: str, floor: float, goal: float) -> Row:
    row = Row(ID, "typed unary calls against the raw echo, 64 in flight", unit="calls/s", floor=floor, goal=goal)
    row.note = missing(*engine_modules(engine))
    if not row.note:
        options = {"engine": engine}
        typed = Contender(f"{engine} {loop}", "benches.typed:serve", "benches.typed:connect", loop, options)
        raw = Contender(f"raw echo {loop}", f"{__name__}:serve", f"{__name__}:connect", loop, options)
        results = contest([typed, raw], plan, in_flight=64)
        compare(row, {typed.name: results[typed.name]}, {raw.name: results[raw.name]}, "rate")
    return row
