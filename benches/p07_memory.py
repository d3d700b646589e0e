"""P7: what an idle session costs the server's memory above the engine's own connection.

The ceiling is the same endpoint and engine with as many connections, which exchanged the same bytes, and nobody above
them. Each round has fresh servers: memory that was used once is not given back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.control import answering, asking
from benches.core import Contender, Figures, Plan, Row, contest, missing
from benches.p01_unary import engine_modules
from benches.raw_crowd import Greeter, Guest, crowd, listen
from benches.slow_reader import resident_bytes
from benches.typed import Orders
from benches.worker import Round
from echostream import RpcServer

ID = "P7"

SESSIONS: Final = 500
_QUICK_SESSIONS: Final = 250
_SETTLE_SECONDS: Final = 1.0
"""Until what a handshake leaves behind has gone."""


@asynccontextmanager
async def serve(engine: str, count: int) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Orders())
    async with server, answering(lambda question: _tell(question, len(server.sessions))) as control:
        yield {"url": server.addresses[0], "control": control}


@asynccontextmanager
async def serve_raw(engine: str, count: int) -> AsyncIterator[dict[str, Any]]:
    connections: list[Greeter] = []  # as a server knows its sessions

    def accept(connection: Any) -> Greeter:
        connections.append(Greeter(connection))
        return connections[-1]

    listener = await listen(engine, accept)
    async with answering(lambda question: _tell(question, len(connections))) as control:
        yield {"url": listener.url, "control": control}
    await listener.close()


def _tell(question: str, count: int) -> float:
    if question == "count":
        return count
    gc.collect()
    return resident_bytes()


@asynccontextmanager
async def connect(engine: str, count: int, url: str, control: int) -> AsyncIterator[Round]:
    async with asking(control) as ask:

        async def measure(*, seconds: float) -> Figures:
            before, there = await ask("memory"), await ask("count")
            async with crowd(url, engine, count if seconds >= 1 else 16, Guest) as guests:
                await asyncio.sleep(min(seconds, _SETTLE_SECONDS))
                if await ask("count") - there < len(guests):
                    raise ValueError(f"of {len(guests)} guests {await ask('count') - there} are in")
                return {"bytes": (await ask("memory") - before) / len(guests)}

        yield measure


def measure(plan: Plan) -> Iterator[Row]:
    for engine in ("aioquic", "qh3"):
        row = Row(ID, f"idle session above the engine's connection, {engine}", unit="KiB", lower_is_better=True)
        row.floor, row.goal, row.note = 12, 5, missing(*engine_modules(engine))
        if not row.note:
            _fill(row, plan, engine)
        yield row


def _fill(row: Row, plan: Plan, engine: str) -> None:
    options = {"engine": engine, "count": _QUICK_SESSIONS if plan.is_quick else SESSIONS}
    ours = Contender(engine, f"{__name__}:serve", f"{__name__}:connect", options=options)
    raw = Contender(f"{engine} alone", f"{__name__}:serve_raw", f"{__name__}:connect", options=options)
    once = dataclasses.replace(plan, rounds=1, seconds=_SETTLE_SECONDS)
    for _ in range(1 if plan.is_quick else plan.rounds):
        results = contest([ours, raw], once)
        session, connection = (results[contender.name][0]["bytes"] / 1024 for contender in (ours, raw))
        row.rounds.append({"value": session - connection, "against": connection})
    row.value = statistics.median(figures["value"] for figures in row.rounds)
    row.against, row.against_value = raw.name, statistics.median(figures["against"] for figures in row.rounds)
    row.judge()
