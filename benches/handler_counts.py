"""HANDLERS: what a call costs a server that has 1 to 10,000 handlers. It must stay flat.

In one process over ``memory://``, processor time, the servers in turn, as in `layers.py`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from benches.core import BenchError, Figures, Plan, Row
from benches.load import Call, cost_in_turns
from echostream import RpcClient, RpcServer, handler

ID = "HANDLERS"

_COUNTS: Final = (1, 10, 100, 1000, 10_000)
_CALLS: Final = 100
"""In a round, each to another handler as far as there are so many."""


@asynccontextmanager
async def caller(count: int) -> AsyncIterator[Call]:
    """Give what calls a server with so many handlers."""
    server = RpcServer(f"memory://handlers-{count}")
    server.register(*map(_make, range(count)))
    step = max(1, count // _CALLS)
    async with server, RpcClient.connect(server.addresses[0]) as client:

        async def call(number: int) -> None:
            index = number * step % count
            if await client.request(f"add{index}", number, returns=int) != number + index:
                raise BenchError(f"wrong answer of handler {index}")

        yield call


def _make(index: int) -> Any:
    @handler(f"add{index}")
    async def add(number: int) -> int:
        return number + index

    return add


async def _rounds(count: int) -> dict[int, list[float]]:
    """Return the microseconds of processor time per call, by the number of handlers."""
    async with AsyncExitStack() as stack:
        calls = {count: await stack.enter_async_context(caller(count)) for count in _COUNTS}
        return await cost_in_turns(calls, rounds=count, per_round=_CALLS)


def measure(plan: Plan) -> Iterator[Row]:
    times = asyncio.run(_rounds(plan.rounds * max(1, round(plan.seconds / 0.1))))
    points: list[Figures] = [{"x": count, "y": statistics.median(found)} for count, found in times.items()]
    row = Row(ID, f"a call to one of {_COUNTS[-1]} handlers against the only one", unit="x", points=points)
    row.lower_is_better, row.floor, row.goal = True, 1.5, 1.1
    row.value = statistics.median(a / b for a, b in zip(times[_COUNTS[-1]], times[_COUNTS[0]], strict=True))
    yield row.judge()
