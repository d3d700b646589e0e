"""What the services of the shop promise each other and their customers. Clients need this module and no other."""

from collections.abc import AsyncIterator
from typing import Protocol

from pydantic import BaseModel, Field

from echostream import RpcError, Status, event, handler, service


class Line(BaseModel):
    article: str
    quantity: int = Field(ge=1, le=1000)


class Order(BaseModel):
    id: int
    lines: list[Line]
    cents: int


class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="shop.out_of_stock"):
    """Not that many are left."""


class UnknownArticle(RpcError, code=Status.NOT_FOUND, reason="shop.unknown_article"):
    """The shop has no such thing."""


@event("stock.low")
class StockLow(BaseModel):
    article: str
    left: int


@service("stock", version="1.0.0")
class Stock(Protocol):
    @handler(raises=[OutOfStock, UnknownArticle])
    async def take(self, line: Line) -> int:
        """Take articles off the shelf; return what they cost, in cents."""
        ...

    @handler
    async def put_back(self, line: Line) -> None:
        """Put articles back onto the shelf."""
        ...

    @handler(raises=[UnknownArticle])
    def watch(self, article: str) -> AsyncIterator[int]:
        """Tell how many are left, now and after each change."""
        ...


@service("orders", version="1.0.0")
class Orders(Protocol):
    @handler(raises=[OutOfStock, UnknownArticle])
    async def place(self, lines: list[Line]) -> Order:
        """Order all of the lines, or nothing."""
        ...
