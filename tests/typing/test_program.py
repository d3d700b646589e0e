"""The programs that type checkers accept do what they say when they run."""

from __future__ import annotations

import pytest

from echostream import Principal, RpcError, RpcServer, Status
from tests.serving import joined, linked, served
from tests.typing import contract, program


async def test_program_runs() -> None:
    everything = Principal("Ada", frozenset({"orders:write"}))
    async with (
        served(program.Orders(), program.echo, authenticate=lambda _: everything) as server,
        joined(server) as client,
    ):
        client.register(program.Ui())
        orders = client.proxy(program.Orders)
        assert await orders.place(program.Order(symbol="ACME", qty=5)) == program.Receipt(id=1)
        assert await orders.add(1) == 1
        assert await orders.add(1, b=2) == 3
        assert [tick.price async for tick in orders.watch("ACME")] == [1.0]
        assert await orders.total(program.numbers()) == 1
        assert [word async for word in orders.echo_all(program.words())] == ["a"]
        assert await client.request("echo", "hi", returns=str, timeout=1.0) == "hi"
        changes: list[program.PriceChanged] = []
        client.on(program.PriceChanged, changes.append)
        await client.proxy(program.Orders, timeout=30.0, metadata={"tenant": "a"}).cancel(7)
        assert changes == [program.PriceChanged(symbol="ACME", price=1.0)]
        async with client.stream("orders.watch", "ACME", returns=program.PriceChanged) as ticks:
            assert await anext(aiter(ticks)) == changes[0]
        ack = await client.emit(program.PriceChanged(symbol="ACME", price=2.0), ack=True)
        assert (ack.listeners, ack.failed) == (1, 0)
        async with client.open_stream("microphone") as sender:
            await sender.send(b"pcm")


async def test_a_proxy_refuses_a_passed_context() -> None:
    async with linked(program.Orders()) as (_, client):
        with pytest.raises(TypeError) as caught:
            await client.proxy(program.Orders).cancel(7, ctx=None)  # type: ignore[arg-type]
    assert str(caught.value) == "orders.cancel() fills in 'ctx' on the other side; leave it out"


@pytest.mark.parametrize("kind", [contract.OrdersContract, contract.AbstractOrders])
async def test_contract_is_enough_to_call(kind: type[contract.OrdersContract | contract.AbstractOrders]) -> None:
    async with linked(program.Orders()) as (_, client):
        orders = client.proxy(kind)
        assert await orders.place(contract.Order(symbol="ACME", qty=5)) == contract.Receipt(id=1)
        with pytest.raises(RpcError) as caught:
            await anext(aiter(orders.watch("ACME")))
    assert caught.value.code is Status.INTERNAL


async def test_builder_of_the_program_builds_a_server() -> None:
    server = program.build()
    assert isinstance(server, RpcServer)
    assert repr(server) == "<RpcServer stopped 0 sessions>"
