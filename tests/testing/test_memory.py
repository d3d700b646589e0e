"""Clients in memory: who is started and stopped, and where a handler's bug shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from echostream import (
    INJECTED,
    ConnectionLostError,
    Context,
    Limits,
    LocalProtocolError,
    Principal,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    StreamReceiver,
    StreamResetError,
    handler,
    service,
    stream,
)
from echostream.testing import connect_in_memory
from echostream.testing.memory import Unexpected
from tests.serving import nothing_left, served


@service("orders")
class Orders:
    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def fail(self) -> None:
        raise ZeroDivisionError("bug")

    @handler
    async def refuse(self) -> None:
        raise RpcError(Status.NOT_FOUND, "no such order")

    @handler
    async def begin(self) -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError("late bug")

    @handler
    async def ask(self, *, ctx: Context = INJECTED) -> int:
        return await ctx.session.request("ui.number", returns=int)

    @stream("orders.bytes")
    async def on_bytes(self, receiver: StreamReceiver[bytes]) -> None:
        await receiver.recv()
        raise ZeroDivisionError("stream bug")


def make_server(**options: object) -> RpcServer:
    server = RpcServer("quic://127.0.0.1:0", **options)  # type: ignore[arg-type]
    server.register(Orders())
    return server


async def test_a_server_is_started_for_the_block_without_sockets() -> None:
    server = make_server()
    server.enable_discovery("orders")
    with nothing_left():
        for _ in range(2):
            async with connect_in_memory(server) as client:
                assert server.addresses[0].startswith("memory://in-memory-")
                orders = client.proxy(Orders)
                assert await orders.add(1, b=2) == 3
            assert server.addresses == []


async def test_two_clients_of_one_server() -> None:
    server = make_server()
    async with connect_in_memory(server) as first, connect_in_memory(server) as second:
        assert len(server.sessions) == 2
        assert await first.proxy(Orders).add(1) + await second.proxy(Orders).add(2) == 3


async def test_a_running_server_goes_on_after_the_block() -> None:
    async with served(Orders()) as server:
        async with connect_in_memory(server) as client:
            assert await client.proxy(Orders).add(1) == 1
        assert server.addresses != []


async def test_a_server_that_runs_elsewhere_is_told() -> None:
    async with make_server() as server:
        with pytest.raises(LocalProtocolError, match=r"runs at quic://127.0.0.1:\d+: connect to it there"):
            async with connect_in_memory(server):
                pass


async def test_a_client_that_is_not_let_in_stops_the_server() -> None:
    server = make_server(authenticate=lambda credentials: Principal("ada") if credentials == "right" else None)
    with pytest.raises(RpcError, match="credentials are not accepted"):
        async with connect_in_memory(server, credentials="wrong"):
            pass
    assert server.addresses == []
    async with connect_in_memory(server, credentials="right", limits=Limits(max_concurrent_calls=1)) as client:
        assert await client.proxy(Orders).add(1) == 1


async def test_a_bug_of_a_handler_is_raised_where_it_was_called() -> None:
    async with connect_in_memory(make_server()) as client:
        orders = client.proxy(Orders)
        with pytest.raises(ZeroDivisionError, match="bug"):
            await orders.fail()
        items = orders.begin()
        assert await anext(items) == 1
        with pytest.raises(ZeroDivisionError, match="late bug"):
            await anext(items)
        with pytest.raises(RpcError, match="no such order"):
            await orders.refuse()


async def test_a_bug_of_the_client_is_raised_too() -> None:
    @handler("ui.number")
    async def number() -> int:
        raise KeyError("client bug")

    async with connect_in_memory(make_server()) as client:
        client.register(number)
        with pytest.raises(KeyError, match="client bug"):
            await client.proxy(Orders).ask()


async def test_a_bug_that_no_call_waits_for_is_raised_at_the_end() -> None:
    def listen(_payload: object) -> None:
        raise ZeroDivisionError("listener bug")

    server = make_server()
    server.on("price", listen)
    block = connect_in_memory(server)
    client = await block.__aenter__()
    assert (await client.emit("price", 1, ack=True)).failed == 1
    with pytest.raises(ZeroDivisionError, match="listener bug"):
        await block.__aexit__(None, None, None)

    block = connect_in_memory(server)
    client = await block.__aenter__()
    sender = await client.open_stream("orders.bytes").__aenter__()
    await sender.send(b"a")
    with pytest.raises(StreamResetError):
        await sender.receiver.recv()
    with pytest.raises(ZeroDivisionError, match="stream bug"):
        await block.__aexit__(None, None, None)


async def test_the_test_s_own_error_comes_first() -> None:
    def listen(_payload: object) -> None:
        raise ZeroDivisionError("listener bug")

    server = make_server()
    server.on("price", listen)
    block = connect_in_memory(server)
    client = await block.__aenter__()
    await client.emit("price", 1, ack=True)
    mine = LookupError("mine")
    assert not await block.__aexit__(LookupError, mine, None), "it goes on"


async def test_bugs_may_look_as_they_do_to_clients() -> None:
    async with connect_in_memory(make_server(), raise_server_exceptions=False) as client:
        with pytest.raises(RpcError, match="internal error") as caught:
            await client.proxy(Orders).fail()
        assert caught.value.code is Status.INTERNAL
        assert caught.value.details == {}


async def test_the_connection_ends_with_the_block() -> None:
    async with connect_in_memory(make_server()) as client:
        pass
    assert isinstance(client, RpcClient)
    with pytest.raises(ConnectionLostError):
        await client.request("orders.add", 1)


def test_what_nobody_takes_is_bounded() -> None:
    unexpected = Unexpected()
    details = [unexpected.keep(ValueError(n)) for n in range(1025)]
    assert unexpected.take(details[0]) is None
    assert unexpected.take(details[1]) is not None
    assert unexpected.keep(asyncio.CancelledError()) == {}
    assert unexpected.take({}) is None
