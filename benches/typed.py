"""EchoStream in the benches of typed calls: a small order and its receipt, pydantic in and out, a deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pydantic import BaseModel

from benches.load import drive
from benches.worker import Round
from echostream import RpcClient, RpcServer, handler, service

__all__ = ("TIMEOUT", "Order", "Orders", "Receipt", "connect", "serve", "serving")

TIMEOUT = 10.0
"""Seconds; every contender's calls carry it."""


class Order(BaseModel):
    symbol: str
    qty: int


class Receipt(BaseModel):
    id: int


@service("orders")
class Orders:
    @handler
    async def place(self, order: Order) -> Receipt:
        return Receipt(id=order.qty)


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    async with serving(Orders(), engine) as found:
        yield found


@asynccontextmanager
async def connect(engine: str, url: str) -> AsyncIterator[Round]:
    async with RpcClient.connect(url, ca="dev", engine=engine) as client:
        orders = client.proxy(Orders, timeout=TIMEOUT)

        async def call(number: int) -> bool:
            receipt = await orders.place(Order(symbol="ACME", qty=number))
            return receipt.id == number

        yield partial(drive, call)


@asynccontextmanager
async def serving(service: object, engine: str) -> AsyncIterator[dict[str, Any]]:
    """Serve one service; what its client needs to know is its URL."""
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(service)
    async with server:
        yield {"url": server.addresses[0]}
