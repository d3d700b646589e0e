"""A client that knows contracts only, and what type checkers make of it. Read by test_checkers.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol, assert_type

from pydantic import BaseModel

from echostream import RpcClient, handler, service


class Order(BaseModel):
    symbol: str
    qty: int


class Receipt(BaseModel):
    id: int


@service("orders")
class OrdersContract(Protocol):
    @handler
    async def place(self, order: Order) -> Receipt: ...

    @handler
    def watch(self, symbol: str) -> AsyncIterator[float]: ...


@service("orders")
class AbstractOrders(ABC):
    @handler
    @abstractmethod
    async def place(self, order: Order) -> Receipt: ...

    @handler
    @abstractmethod
    def watch(self, symbol: str) -> AsyncIterator[float]: ...


async def talk(client: RpcClient) -> None:
    by_protocol = client.proxy(OrdersContract)
    assert_type(by_protocol, OrdersContract)
    assert_type(await by_protocol.place(Order(symbol="ACME", qty=5)), Receipt)
    async for price in by_protocol.watch("ACME"):
        assert_type(price, float)
    async with client.stream(by_protocol.watch, "ACME") as prices:
        assert_type(await anext(aiter(prices)), float)
    by_abc = client.proxy(AbstractOrders)
    assert_type(by_abc, AbstractOrders)
    assert_type(await by_abc.place(Order(symbol="ACME", qty=5)), Receipt)
    assert_type(await client.call(by_abc.place, Order(symbol="ACME", qty=5)), Receipt)
    async for price in by_abc.watch("ACME"):
        assert_type(price, float)
