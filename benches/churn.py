"""CHURN: sessions opened, used and closed for ten minutes. The server's memory must be flat after the first third.

The first third fills what is kept on purpose and bounded: session tickets, ids of former connections.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from benches.control import answering, asking
from benches.core import Contender, Figures, Plan, Row, arena, engines
from benches.slow_reader import resident_bytes
from benches.typed import TIMEOUT, Order, Orders
from benches.worker import Round
from echostream import RpcClient, RpcServer

ID = "CHURN"

SECONDS: Final = 600.0
_QUICK_SECONDS: Final = 6.0
_SAMPLES: Final = 60
_AT_A_TIME: Final = 8


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Orders())

    def tell(_question: str) -> float:
        gc.collect()
        return resident_bytes()

    async with server, answering(tell) as control:
        yield {"url": server.addresses[0], "control": control}


@asynccontextmanager
async def connect(engine: str, url: str, control: int) -> AsyncIterator[Round]:
    async with asking(control) as ask:

        async def measure(*, seconds: float) -> Figures:
            """Open and close for a while; return how many, and the server's memory then."""
            until, count = time.perf_counter() + seconds, 0

            async def come_and_go() -> None:
                nonlocal count
                while time.perf_counter() < until:
                    async with RpcClient.connect(url, ca="dev", engine=engine) as client:
                        receipt = await client.proxy(Orders, timeout=TIMEOUT).place(Order(symbol="ACME", qty=count))
                        if not 0 <= receipt.id <= count:
                            raise ValueError(f"wrong answer: {receipt}")
                    count += 1

            await asyncio.gather(*(come_and_go() for _ in range(_AT_A_TIME)))
            return {"count": count, "memory": await ask("memory") / 2**20}

        yield measure


def measure(plan: Plan) -> Iterator[Row]:
    seconds = _QUICK_SECONDS if plan.is_quick else SECONDS
    samples = _SAMPLES // 10 if plan.is_quick else _SAMPLES
    contenders = [
        Contender(engine, f"{__name__}:serve", f"{__name__}:connect", plan.loops[-1], {"engine": engine})
        for engine in engines()
    ]
    each = replace(plan, rounds=samples, seconds=seconds / samples / len(contenders))
    with arena(contenders, each) as contest:
        for name, rounds in contest().items():
            count = round(sum(figures["count"] for figures in rounds))
            row = Row(ID, f"growth over {count} sessions, after the first third, {name}", unit="MiB")
            row.lower_is_better, row.floor, row.goal = True, 8, 2
            row.points = [{"x": seconds * (i + 1) / samples, "y": item["memory"]} for i, item in enumerate(rounds)]
            row.value = rounds[-1]["memory"] - rounds[samples // 3]["memory"]
            yield row.judge()
