"""Tests of the shop, as you would write them for a service of yours: ``pytest examples/shop``."""

import asyncio

import pytest

from echostream import RpcClient, RpcServer
from echostream.testing import ClientFactory, ServerFactory, SimNetwork, connect_in_memory

from .contract import Line, Orders, OutOfStock, Stock, StockLow, UnknownArticle
from .orders import OrderDesk
from .stock import Shelf, StockService


def shelves() -> dict[str, Shelf]:
    return {"tea": Shelf(cents=450, left=12), "cup": Shelf(cents=900, left=3)}


def stock_server(heard: list[StockLow] | None = None) -> RpcServer:
    server = RpcServer()
    server.register(StockService(shelves(), server.broadcast if heard is None else heard.append))
    return server


def tea(quantity: int) -> Line:
    return Line(article="tea", quantity=quantity)


def cups(quantity: int) -> Line:
    return Line(article="cup", quantity=quantity)


async def test_a_handler_is_a_plain_method() -> None:
    heard: list[StockLow] = []
    stock = StockService(shelves(), heard.append)
    assert await stock.take(tea(2)) == 900
    assert heard == []
    assert await stock.take(cups(1)) == 900
    assert heard == [StockLow(article="cup", left=2)]
    with pytest.raises(OutOfStock, match="3 x cup wanted, 2 left"):
        await stock.take(cups(3))


async def test_errors_cross_the_wire_as_their_own_class() -> None:
    async with connect_in_memory(stock_server()) as client:
        with pytest.raises(UnknownArticle, match="no rum here, only cup, tea"):
            await client.proxy(Stock).take(Line(article="rum", quantity=1))


async def test_an_order_that_fails_leaves_the_shelves_as_they_were() -> None:
    desk = RpcServer()
    async with connect_in_memory(stock_server()) as to_stock:
        desk.register(OrderDesk(to_stock.proxy(Stock)))
        async with connect_in_memory(desk) as client:
            orders = client.proxy(Orders)
            with pytest.raises(OutOfStock, match="4 x cup wanted, 3 left"):
                await orders.place([tea(2), cups(4)])
            assert (await orders.place([tea(12), cups(3)])).cents == 12 * 450 + 3 * 900


@pytest.mark.es_network(loss=0.1, delay=0.05, jitter=0.05)
async def test_no_article_is_sold_twice_on_a_bad_network(
    es_network: SimNetwork, es_server: ServerFactory, es_client: ClientFactory
) -> None:
    heard: list[StockLow] = []
    with es_network.host("stock"):
        server = RpcServer("quic://stock:4433")
        server.register(StockService(shelves(), heard.append))
        await server.start()

    async def customer(number: int) -> int:
        with es_network.host(f"customer{number}"):
            async with RpcClient.connect("quic://stock:4433", fingerprint=server.fingerprint) as client:
                try:
                    return await client.proxy(Stock, timeout=60.0).take(tea(5))
                except OutOfStock:
                    return 0

    paid = await asyncio.gather(*map(customer, range(4)))
    assert sorted(paid) == [0, 0, 2250, 2250]
    assert heard == [StockLow(article="tea", left=2)]
    await server.stop()
