"""Runs the shop: ``python -m examples.shop``, all in one program; or each part in a terminal of its own.

``python -m examples.shop stock``, ``python -m examples.shop orders``, ``python -m examples.shop customer``: nobody
knows an address, they find each other on the local network. The customer prints what was ordered, what is left, and
what could not be had; Ctrl-C stops the services.
"""

import asyncio
import logging
import sys
from contextlib import suppress

from echostream import RpcClient, RpcServer

from .contract import Line, Orders, OutOfStock, Stock, StockLow
from .orders import OrderDesk
from .stock import Shelf, StockService


def stock_server() -> RpcServer:
    server = RpcServer("quic://127.0.0.1:0")
    shelves = {"tea": Shelf(cents=450, left=12), "cup": Shelf(cents=900, left=3)}
    server.register(StockService(shelves, server.broadcast))
    server.enable_discovery("shop.stock")
    return server


async def order_server(client: RpcClient) -> RpcServer:
    server = RpcServer("quic://127.0.0.1:0")
    server.register(OrderDesk(client.proxy(Stock)))
    server.enable_discovery("shop.orders")
    return server


async def shop() -> None:
    async with RpcClient.discover("shop.orders") as desk, RpcClient.discover("shop.stock") as stock:
        stock.on(StockLow, lambda low: print(f"only {low.left} x {low.article} left"))
        orders = desk.proxy(Orders)
        async with stock.stream(stock.proxy(Stock).watch, "tea") as tea:
            print(f"{await anext(tea)} x tea on the shelf")
            order = await orders.place([Line(article="tea", quantity=2), Line(article="cup", quantity=1)])
            print(f"order {order.id}: {order.cents / 100:.2f}")
            print(f"{await anext(tea)} x tea on the shelf")
        try:
            await orders.place([Line(article="tea", quantity=2), Line(article="cup", quantity=5)])
        except OutOfStock as error:  # the class of the contract, through two services
            print(error.message)


async def main(part: str = "all") -> None:
    if part == "customer":
        await shop()
        return
    logging.basicConfig(level=logging.INFO if part != "all" else logging.ERROR)
    if part == "stock":
        await stock_server().serve()
    elif part == "orders":
        async with RpcClient.discover("shop.stock", timeout=30.0) as client:
            await (await order_server(client)).serve()
    else:
        async with stock_server(), RpcClient.discover("shop.stock") as client, await order_server(client):
            await shop()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
