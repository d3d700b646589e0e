"""A server with one of everything that can be described."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from echostream import (
    INJECTED,
    Context,
    Depends,
    RpcError,
    RpcServer,
    Status,
    StreamReceiver,
    event,
    handler,
    listener,
    service,
    stream,
)

UNTOLD = object()


class Item(BaseModel):
    """What is sold."""

    name: str
    price: float = Field(default=1.0, description="in euros")


class Order(BaseModel):
    items: list[Item]
    when: datetime | None = None


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]


@dataclass
class Receipt:
    id: int
    order: Order


class SoldOut(RpcError, code=Status.FAILED_PRECONDITION, reason="shop.sold_out"):
    """Nothing of it is left."""


@event("price.changed")
class PriceChanged(BaseModel):
    """A price is another one now."""

    item: Item


@event("shop.opened")
class Opened(BaseModel):
    at: datetime


@event("wish.made")
class Wish(BaseModel):
    """Somebody wants something."""

    name: str


async def today() -> str:
    return "Monday"


@service("shop", version="2.1.0")
class Shop:
    """Sells things.

    All of them.
    """

    @handler(raises=[SoldOut], timeout=2.0, requires="shop:buy")
    async def buy(self, order: Order, /, note: str = "", *, ctx: Context = INJECTED, gift: bool = False) -> Receipt:
        """Buy what is in the order."""
        return Receipt(1, order)

    @handler(safe=True)
    async def watch(
        self, name: str, *, today: Annotated[str, Depends(today)] = INJECTED
    ) -> AsyncIterator[PriceChanged]:
        yield PriceChanged(item=Item(name=name))

    @handler
    async def total(self, prices: AsyncIterator[float]) -> float:
        return sum([price async for price in prices])

    @handler
    async def haggle(self, start: float, offers: AsyncIterator[float]) -> AsyncIterator[float]:
        async for offer in offers:
            yield offer

    @handler
    async def pay(self, how: Annotated[Card | Cash, Field(discriminator="kind")]) -> dict[str, tuple[int, str]]:
        return {}

    @handler
    async def odd(self, what: Any = UNTOLD, call: Callable[[], int] | None = None) -> None: ...

    @listener(Wish)
    async def on_wish(self, wish: Wish) -> None: ...

    @listener("price.*")
    async def on_price(self, payload: object) -> None:
        """Keep up with the others."""

    @stream("catalogue")
    async def on_catalogue(self, receiver: StreamReceiver[Item]) -> None:
        """Take in a whole catalogue."""


@service("till", emits=[PriceChanged])
class Till:
    @handler(idempotent=True)
    async def empty(self) -> bytes:
        return b""


@handler("ping")
async def ping() -> str:
    return "pong"


@stream("raw")
async def raw(receiver: StreamReceiver[Any]) -> None: ...


def on_anything(payload: object) -> None: ...


def make_server(*urls: str, **options: Any) -> RpcServer:
    server = RpcServer(*urls or ("memory://shop",), **options)
    server.register(Shop(), Till(), ping, raw)
    server.on("anything", on_anything)
    return server
