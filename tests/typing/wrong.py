"""What type checkers must refuse: each line with an ignored error, and no other. Read by test_checkers.py."""

from __future__ import annotations

from echostream import Context, Depends, RpcClient, RpcServer
from tests.typing.contract import AbstractOrders, Order, OrdersContract
from tests.typing.program import Orders, PriceChanged, Timer


async def talk(client: RpcClient, ctx: Context) -> None:
    orders = client.proxy(Orders)
    await orders.place("ACME")  # type: ignore[arg-type]
    await orders.place()  # type: ignore[call-arg]
    await orders.place(Order(symbol="ACME", qty=5))  # type: ignore[arg-type]
    await orders.add("1")  # type: ignore[arg-type]
    await orders.add(1, c=2)  # type: ignore[call-arg]
    await orders.find(1, db="mine")  # type: ignore[arg-type]
    RpcServer(middleware=[Timer])  # type: ignore[list-item]
    Depends(1)  # type: ignore[arg-type]
    Depends(Orders, scope="forever")  # type: ignore[arg-type]
    await orders.cancel(7, ctx)  # type: ignore[call-arg]
    await orders.cancel(7, ctx="mine")  # type: ignore[arg-type]
    orders.watch(7)  # type: ignore[arg-type]
    await orders.total([1, 2])  # type: ignore[arg-type]
    client.call(orders.place, "ACME")  # type: ignore[arg-type]
    client.call(orders.place)  # type: ignore[call-arg]
    client.call(orders.watch, "ACME")  # type: ignore[arg-type]
    client.stream(orders.watch, 7)  # type: ignore[call-overload]
    client.stream(orders.place, "ACME")  # type: ignore[call-overload]
    await client.emit("hello", room="a")  # type: ignore[call-overload]
    client.on(PriceChanged, 7)  # type: ignore[call-overload]
    client.on(PriceChanged)(7)  # type: ignore[type-var]
    client.on(7)  # type: ignore[call-overload]
    receipt: str = await client.call(orders.add, 1)  # type: ignore[arg-type]
    contract = client.proxy(OrdersContract)
    await contract.place("ACME")  # type: ignore[arg-type]
    await contract.place()  # type: ignore[call-arg]
    await contract.place(Order(symbol="ACME", qty=5), ctx=ctx)  # type: ignore[call-arg]
    abstract = client.proxy(AbstractOrders)
    await abstract.place(Order(symbol="ACME", qty=5), ctx=ctx)  # type: ignore[call-arg]
    await abstract.cancel(7)  # type: ignore[attr-defined]
    client.proxy(orders)  # type: ignore[arg-type]
    print(receipt)
