"""LAYERS: what a call costs more for each layer of middleware around it, and for each dependency of its handler.

Everything in one process over ``memory://``, so that the difference is not lost in that of the network; processor time,
so that what else the machine does matters less. Contenders take turns: a round is some hundred calls of each.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Final

from benches.core import BenchError, Plan, Row
from benches.load import Call, cost_in_turns
from benches.typed import Order, Receipt
from echostream import INJECTED, Depends, Middleware, Request, RpcClient, RpcServer, handler, service
from echostream.middleware import RequestNext

ID = "LAYERS"

COUNTS: Final = (1, 5, 20)
_CALLS: Final = 100
"""Calls of one contender in a round: long against the clock, short against what else disturbs the machine."""

_BARE: Final = "a call with none"


class Layer(Middleware):
    """One that does nothing but hand on."""

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return await call_next(request)

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return await call_next(request)


@service("orders")
class Orders:
    @handler
    async def place(self, order: Order) -> Receipt:
        return Receipt(id=order.qty)


def needing(count: int) -> Callable[..., Any]:
    """Return a handler with a row of dependencies, each of which needs the one before."""

    def first() -> int:
        return 0

    last: Callable[..., int] = first
    for _ in range(count - 1):

        def further(before: int) -> int:
            return before + 1

        further.__annotations__["before"] = Annotated[int, Depends(last)]
        last = further

    async def place(order: Order, *, number: int = INJECTED) -> Receipt:
        return Receipt(id=order.qty)

    place.__annotations__["number"] = Annotated[int, Depends(last)]
    return handler("place")(place)


@asynccontextmanager
async def caller(name: str, target: object, *, inside: int = 0, outside: int = 0) -> AsyncIterator[Call]:
    """Give what calls a server with so many layers around its handlers, from a client with so many around its calls."""
    server = RpcServer(f"memory://{name}", middleware=[Layer()] * inside)
    server.register(target)
    async with server, RpcClient.connect(server.addresses[0], middleware=[Layer()] * outside) as client:
        method = "orders.place" if isinstance(target, Orders) else "place"

        async def call(number: int) -> None:
            receipt = await client.request(method, Order(symbol="ACME", qty=number), returns=Receipt)
            if receipt.id != number:
                raise BenchError(f"{name}: wrong answer to call {number}")

        yield call


async def _rounds(count: int) -> dict[str, list[float]]:
    """Return the microseconds of processor time per call of each contender in each round."""
    async with AsyncExitStack() as stack:
        calls = {_BARE: await stack.enter_async_context(caller("bare", Orders()))}
        for layers in COUNTS:
            for name, options in (("server", {"inside": layers}), ("client", {"outside": layers})):
                label = f"middleware of the {name}, {layers}"
                calls[label] = await stack.enter_async_context(caller(f"{name}-{layers}", Orders(), **options))
            label = f"dependencies, {layers}"
            calls[label] = await stack.enter_async_context(caller(f"needs-{layers}", needing(layers)))
        return await cost_in_turns(calls, rounds=count, per_round=_CALLS)


def measure(plan: Plan) -> Iterator[Row]:
    times = asyncio.run(_rounds(plan.rounds * max(1, round(plan.seconds / 0.1))))
    bare = times.pop(_BARE)
    for name, found in times.items():
        row = Row(ID, f"a call with {name}", unit="us", lower_is_better=True)
        row.value, row.against, row.against_value = statistics.median(found), _BARE, statistics.median(bare)
        row.ratio = statistics.median(a / b for a, b in zip(found, bare, strict=True))
        row.rounds = [{"value": a, "against": b} for a, b in zip(found, bare, strict=True)]
        yield row
