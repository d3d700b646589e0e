"""A server that the commands are tried on; `echostream serve` runs it in a process of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import date
from enum import Enum
from typing import Annotated

from pydantic import BaseModel, Field

from echostream import (
    INJECTED,
    Context,
    Principal,
    RpcError,
    RpcServer,
    Status,
    TokenAuthentication,
    event,
    handler,
    listener,
    service,
)


class Order(BaseModel):
    symbol: str
    qty: int = 1
    due: date | None = None


@event("price.changed")
class PriceChanged(BaseModel):
    symbol: str
    price: float


class Size(Enum):
    SMALL = 1
    LARGE = 2


@service("shop", version="1.2.0")
class Shop:
    """Sells things."""

    @handler
    async def place(self, order: Order, note: str = "", *, urgent: bool = False) -> Order:
        """Place an order.

        It is answered with itself.
        """
        return order

    @handler
    async def say(self, text: str) -> str:
        return text

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def count(self, upto: int) -> AsyncIterator[int]:
        for number in range(1, upto + 1):
            yield number

    @handler
    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @handler
    async def scale(self, by: int, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield by * number

    @handler
    async def told(self, *, ctx: Context = INJECTED) -> dict[str, str]:
        return {key: str(value) for key, value in ctx.metadata.items()}

    @handler
    async def label(self, text: str | None, size: Size = Size.SMALL) -> str:
        return f"{text!r} {size.name}"

    @handler
    async def size_of(self, data: bytes, at_most: Annotated[int, Field(le=10, description="the limit")] = 9) -> int:
        return len(data)

    @handler
    async def upper(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        async for line in lines:
            yield line.upper()

    @handler
    async def raw(self) -> bytes:
        return b"\x00\xff"

    @handler
    async def refuse(self) -> None:
        raise RpcError(Status.NOT_FOUND, "there is no such thing")

    @handler
    async def shout(self) -> str:
        return "\x9b31m\u202ered"

    @handler
    async def shout_no(self) -> None:
        raise RpcError(Status.NOT_FOUND, "\x1b[31mred")

    @handler
    async def hang(self) -> None:
        logging.getLogger("shop").info("hanging")
        await asyncio.Event().wait()

    @handler
    async def work(self, *, ctx: Context = INJECTED) -> str:
        for done in range(3):
            await ctx.progress(done, total=2, message=f"step {done}")
            await asyncio.sleep(0.15)
        return "done"

    @handler
    async def prices(self, count: int, *, ctx: Context = INJECTED) -> int:
        for session in server.sessions:
            for number in range(count):
                await session.emit(PriceChanged(symbol="ACME", price=number))
        return len(server.sessions)

    @listener("wish.*")
    async def on_wish(self, payload: object) -> None: ...

    @listener(PriceChanged)
    async def on_price(self, changed: PriceChanged) -> None: ...

    @listener("broken")
    async def on_broken(self, payload: object) -> None:
        raise ValueError("as the test wants it")


@handler("ping")
async def ping() -> str:
    return "pong"


def authenticate(credentials: str | None) -> Principal | None:
    return Principal("ann") if credentials == "secret" else None


server = RpcServer("quic://127.0.0.1:0")
server.register(Shop(), ping)

closed = RpcServer("quic://127.0.0.1:0", authenticate=authenticate)
closed.register(ping)


guarded = RpcServer("quic://127.0.0.1:0", middleware=[TokenAuthentication({"key": Principal("ann")})])
guarded.register(Shop())


def make() -> RpcServer:
    return server


async def make_later() -> RpcServer:
    return server


def make_for(name: str) -> RpcServer:
    return server


def make_nothing() -> None: ...
