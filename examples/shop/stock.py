"""The stock: what lies on the shelves. It tells everybody who listens when something runs low."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from echostream import handler, service

from .contract import Line, OutOfStock, StockLow, UnknownArticle

LOW = 5


@dataclass
class Shelf:
    cents: int
    left: int
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


@service("stock", version="1.0.0")
class StockService:
    def __init__(self, shelves: Mapping[str, Shelf], announce: Callable[[StockLow], object]) -> None:
        self._shelves = shelves
        self._announce = announce

    @handler(raises=[OutOfStock, UnknownArticle])
    async def take(self, line: Line) -> int:
        shelf = self._shelf(line.article)
        if shelf.left < line.quantity:
            raise OutOfStock(f"{line.quantity} x {line.article} wanted, {shelf.left} left")
        await self._change(shelf, -line.quantity)
        if shelf.left < LOW:
            self._announce(StockLow(article=line.article, left=shelf.left))
        return shelf.cents * line.quantity

    @handler
    async def put_back(self, line: Line) -> None:
        await self._change(self._shelf(line.article), line.quantity)

    @handler(raises=[UnknownArticle])
    async def watch(self, article: str) -> AsyncIterator[int]:
        shelf = self._shelf(article)
        while True:
            yield (left := shelf.left)
            async with shelf.changed:
                await shelf.changed.wait_for(lambda: shelf.left != left)

    def _shelf(self, article: str) -> Shelf:
        if article not in self._shelves:
            raise UnknownArticle(f"no {article} here, only {', '.join(sorted(self._shelves))}")
        return self._shelves[article]

    @staticmethod
    async def _change(shelf: Shelf, by: int) -> None:
        shelf.left += by
        async with shelf.changed:
            shelf.changed.notify_all()
