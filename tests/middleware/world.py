"""A service with every kind of thing to be in the middle of, and middleware that writes down what passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from echostream import INJECTED, Context, RpcClient, RpcServer, handler, listener, service, stream
from echostream.middleware import (
    Item,
    ItemNext,
    Middleware,
    Notice,
    NoticeNext,
    Opening,
    OpeningNext,
    Request,
    RequestNext,
)
from echostream.session.streams import StreamReceiver
from echostream.testing import SimNetwork


@service("desk")
class Desk:
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.ran = 0

    @handler(idempotent=True)
    async def add(self, a: int, b: int = 0) -> int:
        self.ran += 1
        return a + b

    @handler
    async def count(self, up_to: int) -> AsyncIterator[int]:
        self.ran += 1
        for number in range(up_to):
            yield number

    @handler
    async def total(self, items: AsyncIterator[int]) -> int:
        self.ran += 1
        return sum([item async for item in items])

    @handler
    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    @handler
    async def nap(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @handler
    async def who(self, *, ctx: Context = INJECTED) -> list[str]:
        return [ctx.principal.name if ctx.principal else "nobody", str(dict(ctx.metadata)), str(ctx.state)]

    @listener("thing")
    async def on_thing(self, payload: Any) -> None:
        self.heard.append(payload)

    @stream("belt")
    async def on_belt(self, receiver: StreamReceiver[Any]) -> None:
        async for item in receiver:
            self.heard.append(item)
            await receiver.sender.send(item)


class Scribe(Middleware):
    """Writes down what passes, on the way in and on the way out."""

    def __init__(self, name: str, book: list[str]) -> None:
        self.name = name
        self.book = book

    async def _pass(self, kind: str, thing: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        name = getattr(thing, "method", None) or thing.name
        self.book.append(f"{self.name} > {kind} {name}")
        try:
            return await call_next(thing)
        finally:
            self.book.append(f"{self.name} < {kind} {name}")

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return await self._pass("inbound_request", request, call_next)

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return await self._pass("outbound_request", request, call_next)

    async def inbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        return await self._pass("inbound_event", notice, call_next)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        return await self._pass("outbound_event", notice, call_next)

    async def inbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        return await self._pass("inbound_stream", opening, call_next)

    async def outbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        return await self._pass("outbound_stream", opening, call_next)

    async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
        return await self._pass("inbound_item", item, call_next)

    async def outbound_item(self, item: Item, call_next: ItemNext) -> Any:
        return await self._pass("outbound_item", item, call_next)


def make_server(*layers: Middleware, inner: Sequence[Middleware] = (), **options: Any) -> tuple[RpcServer, Desk]:
    desk = Desk()
    server = RpcServer("memory://unused", middleware=layers, **options)
    server.register(desk, middleware=inner)
    return server, desk


def virtually(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario in virtual time, where an hour takes a moment."""

    async def run(_: SimNetwork) -> None:
        await scenario()

    SimNetwork().run(run)


async def numbers(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


async def everything(client: RpcClient) -> None:
    """Use every kind of thing once."""
    desk = client.proxy(Desk)
    assert await desk.add(1, b=2) == 3
    assert [item async for item in desk.count(2)] == [0, 1]
    assert await desk.total(numbers(1, 2)) == 3
    assert [item async for item in desk.double(numbers(1))] == [2]
    await client.emit("thing", {"x": 1}, ack=True)
    async with client.open_stream("belt") as sender:
        await sender.send(7)
        assert await sender.receiver.recv() == 7
