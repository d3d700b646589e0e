"""The order desk: takes all lines of an order off the shelves of the stock, or none."""

from itertools import count

from echostream import handler, service

from .contract import Line, Order, OutOfStock, Stock, UnknownArticle


@service("orders", version="1.0.0")
class OrderDesk:
    def __init__(self, stock: Stock) -> None:
        self._stock = stock  # a proxy of a service elsewhere, or a stand-in in a test
        self._numbers = count(1)

    @handler(raises=[OutOfStock, UnknownArticle])
    async def place(self, lines: list[Line]) -> Order:
        cents, taken = 0, list[Line]()
        try:
            for line in lines:
                cents += await self._stock.take(line)
                taken.append(line)
        except BaseException:  # a line that cannot be had, a stock that is gone, a customer who no longer waits
            for line in taken:
                await self._stock.put_back(line)
            raise
        return Order(id=next(self._numbers), lines=lines, cents=cents)
