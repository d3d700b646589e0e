"""Tests for echostream.client: ways to connect, what connecting is as an object, and the client's end.

Discovery end to end is in tests/system/test_discovery.py, servers that cannot be trusted in tests/system/.
"""

from __future__ import annotations

import asyncio
import math
import socket
import warnings
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from echostream import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    Limits,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    Status,
    event,
    handler,
    service,
)
from echostream.errors import CloseCode
from tests.serving import PATIENCE, QUIC, joined, memory_url, nothing_left, served, session_of, until


@handler("echo")
async def echo(text: str) -> str:
    return text


@service("ui")
class Ui:
    @handler
    async def ask(self, question: str) -> str:
        return f"{question}? yes"


@pytest.fixture(params=[QUIC, None], ids=["quic", "memory"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RpcServer]:
    async with served(echo, url=request.param) as server:
        yield server


def connect(server: RpcServer, **options: Any) -> Any:
    return RpcClient.connect(server.addresses[0], ca="dev", **options)


# What connecting is


async def test_connecting_can_be_awaited(server: RpcServer) -> None:
    client = await connect(server)
    assert await client.request("echo", "hi") == "hi"
    await client.close()


async def test_connecting_is_a_block_that_closes_the_client(server: RpcServer) -> None:
    with nothing_left(but_timers=True):
        async with connect(server) as client:
            assert await client.request("echo", "hi") == "hi"
            assert client.session.state == client.state == "open"
            assert client.id == session_of(server, client).id
            assert (client.principal, client.peer_address) == (None, client.session.peer_address)
        assert client.session.state == client.state == "closed"
        await until(lambda: not len(server.sessions))


async def test_connecting_is_a_coroutine_for_tasks_and_timeouts(server: RpcServer) -> None:
    connecting = connect(server)
    assert isinstance(connecting, Coroutine)
    task = asyncio.create_task(connecting)
    client = await asyncio.wait_for(connect(server), PATIENCE)
    for made in (client, await task):
        assert await made.request("echo", "hi") == "hi"
        await made.close()
    assert {str(warning.message) for warning in _unawaited(lambda: connect(server))} == {
        "coroutine 'RpcClient.connect' was never awaited"
    }


def _unawaited(make: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return caught


async def test_connecting_that_is_given_up_is_a_closed_coroutine() -> None:
    connecting = RpcClient.connect(memory_url())
    connecting.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await connecting
    raised = RpcClient.connect(memory_url())
    with pytest.raises(ZeroDivisionError):
        raised.throw(ZeroDivisionError())


async def test_the_error_of_a_block_that_never_connected_is_the_connections() -> None:
    url = memory_url()
    with pytest.raises(ConnectError) as caught:
        async with RpcClient.connect(url):
            raise AssertionError("connected")
    assert caught.value.message == f"nobody listens on {url}: listen on it first, in the same event loop"


# Addresses


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("here", "url: 'here' has no scheme, expected like quic://host:4433"),
        ("quic://", "url: 'quic://' names no host, expected like quic://host:4433"),
        ("quic://h:99999", "url: 'quic://h:99999' is not a URL (Port out of range 0-65535), expected like"),
    ],
)
def test_an_address_that_is_none_is_refused_at_once(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcClient.connect(url)
    assert caught.value.message.startswith(text)


async def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await RpcClient.connect("http://127.0.0.1:80", ca="dev")
    assert caught.value.message == "url: unknown scheme 'http', expected quic:// or memory://"


async def test_nobody_there_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with nothing_left(), pytest.raises(ConnectError) as caught:
        await RpcClient.connect(f"quic://127.0.0.1:{port}", ca="dev")
    assert caught.value.code is Status.UNAVAILABLE
    assert caught.value.message == (
        f"cannot reach quic://127.0.0.1:{port}: connection refused: no program listens on that UDP port; start the "
        "server, or check the port"
    )


async def test_silence_says_so_in_time() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"quic://127.0.0.1:{silent.getsockname()[1]}"
        with nothing_left(), pytest.raises(ConnectError) as caught:
            await RpcClient.connect(url, ca="dev", timeout=0.1)
    assert caught.value.message == (
        f"cannot reach {url} within 0.1 s: check host and port, that the server runs, and that no firewall stops UDP"
    )


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan, "5"])
def test_a_time_to_connect_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^INVALID_ARGUMENT: timeout: .* seconds$"):
        RpcClient.connect("quic://127.0.0.1:1", timeout=timeout)
    with pytest.raises(ConfigurationError, match=r"^INVALID_ARGUMENT: connect_timeout: .* seconds$"):
        RpcClient.discover("orders", connect_timeout=timeout)


async def test_the_timeout_covers_the_hello_too() -> None:
    async def undecided(credentials: str | None) -> None:
        await asyncio.Event().wait()

    async with served(url=QUIC, authenticate=undecided) as server:
        with nothing_left(but_timers=True):
            with pytest.raises(ConnectError) as caught:
                await connect(server, timeout=0.1)
            assert caught.value.message.startswith(
                f"{server.addresses[0]} answered, but did not let this client in within 0.1 s: its authenticate="
            )
            await until(lambda: not server._admission.arriving)


async def test_connecting_that_is_cancelled_leaves_nothing() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def undecided(credentials: str | None) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with served(url=QUIC, authenticate=undecided) as server:
        with nothing_left(but_timers=True):
            task = asyncio.create_task(connect(server))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await ended.wait()
            assert not server._admission.arriving


async def test_the_address_of_the_other_end_is_known(server: RpcServer) -> None:
    async with connect(server) as client:
        url = server.addresses[0]
        assert client.session.peer_address in (url, url.removeprefix("quic://"))
        assert session_of(server, client).peer_address


# The client


async def test_a_client_is_its_session(server: RpcServer) -> None:
    async with connect(server) as client:
        assert isinstance(client.session, Session)
        assert repr(client) == f"<RpcClient <Session {client.session.id} open {client.session.peer_address}>>"
        client.register(Ui())
        assert await session_of(server, client).request("ui.ask", "sure") == "sure? yes"
        with pytest.raises(ConfigurationError, match="the service 'ui' is registered already"):
            client.session.register(Ui())


async def test_closing_twice_is_fine_and_nothing_works_afterwards(server: RpcServer) -> None:
    client = await connect(server)
    await client.close()
    await client.close()
    with pytest.raises(ConnectionLostError) as caught:
        await client.request("echo", "hi")
    assert caught.value.close_code == CloseCode.NORMAL
    assert caught.value.message.endswith("this side: its block has ended, or close() was called; connect again")
    assert client.session.ending == "connection closed by this side"
    with pytest.raises(ConnectionLostError):
        await client.emit("note", 1)


async def test_a_client_that_never_connected_says_so() -> None:
    from echostream.session.runtime import Runtime

    runtime = Runtime(Limits())
    client = RpcClient(runtime)
    assert repr(client) == "<RpcClient None>"
    with pytest.raises(ConnectionLostError) as caught:
        _ = client.session
    assert caught.value.message == "the client is not connected"
    await client.close()


async def test_a_client_notices_that_its_server_went() -> None:
    async with served(echo, url=QUIC) as server, joined(server) as client:
        await server.stop()
        lost = await asyncio.wait_for(client.session.wait_closed(), PATIENCE)
        assert lost is not None
        assert (lost.close_code, lost.message) == (
            CloseCode.SHUTDOWN,
            "connection closed by the peer: server is shutting down",
        )


async def test_limits_of_the_client_are_told_to_the_server() -> None:
    async with served(echo) as server, joined(server, limits=Limits(max_concurrent_calls=3)) as client:
        assert session_of(server, client).peer.protocol.link.peer_limits.max_concurrent_calls == 3


async def test_a_client_and_a_session_serve_bound_methods_under_a_name() -> None:
    class Counter:
        def __init__(self, count: int) -> None:
            self.count = count

        async def read(self) -> int:
            return self.count

    async with served(echo) as server, joined(server) as client:
        client.register(Counter(1).read, name="count.here")
        session = session_of(server, client)
        session.register(Counter(2).read, name="count.there")
        assert (await session.request("count.here"), await client.request("count.there")) == (1, 2)


# Slips of beginners


async def test_a_forgotten_await_is_named(server: RpcServer) -> None:
    connecting = connect(server)
    with pytest.raises(AttributeError, match="not connected yet, so there is no 'proxy': write `async with"):
        connecting.proxy  # noqa: B018
    with pytest.raises(TypeError, match="a plain `with` cannot wait for the connection: write `async with"), connecting:
        pass
    connecting.close()


async def test_an_object_instead_of_a_class_and_the_other_way_round_are_named(server: RpcServer) -> None:
    @service("thing")
    class Thing:
        @handler
        async def use(self) -> None: ...

    @event("thing.used")
    class Used: ...

    async with connect(server) as client:
        with pytest.raises(ConfigurationError, match=r"Thing object given: give the class, client.proxy\(Thing\)"):
            client.proxy(Thing())
        with pytest.raises(ConfigurationError, match=r"Used is a class: give an object, Used\(...\)"):
            await client.emit(Used)


def test_an_address_that_is_no_text_is_named() -> None:
    with pytest.raises(ConfigurationError, match="8080 is no text, expected like 'quic://host:4433'"):
        RpcServer(8080)  # type: ignore[arg-type]


async def test_a_service_that_was_not_registered_is_named(server: RpcServer) -> None:
    async with connect(server) as client:
        with pytest.raises(RpcError, match=r"no service 'todo' is registered here: was server.register\("):
            await client.request("todo.add")
