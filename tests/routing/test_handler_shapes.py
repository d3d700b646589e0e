"""Every shape of handler may use what asyncio offers: timeout, TaskGroup, current_task, context variables.

A handler whose steps are driven by anything but a real Task breaks all four.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from echostream import INJECTED, Context, RpcClient, StreamReceiver, handler, listener, service, stream
from tests.serving import QUIC, linked

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@asynccontextmanager
async def using_everything(own: str) -> AsyncGenerator[None]:
    """Use all four around a block, so that every step of the block happens inside them."""
    task = asyncio.current_task()
    assert task is not None
    token = tenant.set(own)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
    async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
        children = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        yield
    assert [child.result() for child in children] == [0, 1, 2]
    assert asyncio.current_task() is task
    assert tenant.get() == own
    tenant.reset(token)
    assert tenant.get() == "nobody"


@service("shapes")
class Shapes:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    @handler
    async def unary(self, text: str, *, ctx: Context = INJECTED) -> str:
        async with using_everything(text):
            await asyncio.sleep(0)
            assert Context.current() is ctx
            return text

    @handler
    async def out(self, text: str) -> AsyncIterator[str]:
        async with using_everything(text):
            for _ in range(3):
                await asyncio.sleep(0)
                yield text

    @handler
    async def into(self, items: AsyncIterator[str]) -> str:
        async with using_everything("into"):
            return " ".join([item async for item in items])

    @handler
    async def both(self, items: AsyncIterator[str]) -> AsyncIterator[str]:
        async with using_everything("both"):
            async for item in items:
                yield item

    @listener("shapes.note")
    async def on_note(self, payload: Any, ctx: Context) -> None:
        async with using_everything("note"):
            assert Context.current() is ctx
            self.heard.append(payload)

    @stream("shapes")
    async def on_stream(self, receiver: StreamReceiver, ctx: Context) -> None:
        async with using_everything("stream"):
            assert Context.current() is ctx
            self.heard.append([item async for item in receiver])


async def words() -> AsyncIterator[str]:
    for word in ("a", "b"):
        await asyncio.sleep(0)
        yield word


async def use_all(client: RpcClient, shapes: Shapes, number: int) -> None:
    proxy = client.proxy(Shapes)
    assert await proxy.unary(f"{number}") == f"{number}"
    assert [item async for item in proxy.out(f"{number}")] == [f"{number}"] * 3
    assert await proxy.into(words()) == "a b"
    assert [item async for item in proxy.both(words())] == ["a", "b"]
    ack = await client.emit("shapes.note", number, ack=True)
    assert (ack.listeners, ack.failed) == (1, 0)
    async with client.open_stream("shapes") as sender:
        await sender.send(number)


@pytest.mark.parametrize("url", [QUIC, None])
async def test_every_shape_works_with_asyncio(url: str | None) -> None:
    shapes = Shapes()
    async with linked(shapes, url=url) as (_, client):
        await asyncio.gather(*(use_all(client, shapes, number) for number in range(10)))
        assert tenant.get() == "nobody"
    assert sorted(item for item in shapes.heard if isinstance(item, int)) == list(range(10))
    assert sorted(item[0] for item in shapes.heard if isinstance(item, list)) == list(range(10))
