"""Hooks and plugins of a server: when they run, in which order, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from echostream import (
    INJECTED,
    ConfigurationError,
    Context,
    LocalProtocolError,
    Middleware,
    Plugin,
    Principal,
    Request,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    Status,
    StreamReceiver,
    handler,
    listener,
    service,
    stream,
)
from echostream.middleware import RequestNext
from echostream.plugin import Host
from echostream.testing import SimNetwork, connect_in_memory
from tests.serving import memory_url, nothing_left, until


@service("desk")
class Desk:
    @handler
    async def fail(self) -> None:
        raise ZeroDivisionError("bug")

    @handler
    async def refuse(self) -> None:
        raise RpcError(Status.NOT_FOUND, "no such thing")

    @handler
    async def nap(self) -> None:
        await asyncio.sleep(3600)

    @listener("thing")
    async def on_thing(self, payload: Any) -> None:
        raise KeyError(payload)

    @stream("belt")
    async def on_belt(self, receiver: StreamReceiver[int]) -> None:
        raise OSError("torn")


@pytest.fixture
def book() -> list[str]:
    return []


def hooked(book: list[str], **options: Any) -> RpcServer:
    server = RpcServer(memory_url(), **options)
    server.register(Desk())

    @server.on_start
    async def start() -> None:
        assert server.addresses == []
        book.append("start")

    @server.on_start
    def start_too() -> None:
        book.append("start too")

    @server.on_stop
    def stop() -> None:
        book.append("stop")

    @server.on_stop
    async def stop_first() -> None:
        assert len(server.sessions) == 0
        book.append("stop first")

    @server.on_connect
    async def connect(session: Session) -> None:
        assert session in server.sessions
        book.append(f"connect {session.principal.name if session.principal else 'nobody'}")

    @server.on_disconnect
    def disconnect(session: Session) -> None:
        assert session.ending
        book.append("disconnect")

    @server.on_error
    async def error(error: Exception, context: Context | None) -> None:
        book.append(f"{type(error).__name__} in {context.method if context else 'a hook'}")

    return server


async def test_hooks_run_in_their_order(book: list[str]) -> None:
    server = hooked(book)
    with nothing_left():
        for _ in range(2):
            async with server, RpcClient.connect(server.addresses[0]) as client:
                await client.ping()
            assert book == [
                "start", "start too", "connect nobody", "disconnect", "stop first", "stop",
            ]  # fmt: skip
            book.clear()


async def test_unexpected_errors_are_told_and_answers_are_not(book: list[str]) -> None:
    async with hooked(book) as server, RpcClient.connect(server.addresses[0]) as client:
        book.clear()
        for method in ("desk.fail", "desk.refuse", "nowhere"):
            with pytest.raises(RpcError):
                await client.request(method)
        await client.emit("thing", 1, ack=True)
        await client.open_stream("belt")
        await until(lambda: len(book) >= 3)
    assert [line for line in book if " in " in line] == [
        "ZeroDivisionError in desk.fail",
        "KeyError in thing",
        "OSError in belt",
    ]


async def test_who_was_not_let_in_never_came(book: list[str]) -> None:
    def authenticate(credentials: str | None) -> Principal | None:
        return Principal("ann") if credentials == "key" else None

    async with hooked(book, authenticate=authenticate) as server:
        with pytest.raises(RpcError):
            await RpcClient.connect(server.addresses[0])
        async with RpcClient.connect(server.addresses[0], credentials="key"):
            pass
    assert book[2:4] == ["connect ann", "disconnect"]


async def test_a_hook_that_fails_stops_nobody_else(book: list[str], caplog: pytest.LogCaptureFixture) -> None:
    server = hooked(book)

    @server.on_connect
    def bad_connect(session: Session) -> None:
        raise ValueError("connect")

    @server.on_disconnect
    async def bad_disconnect(session: Session) -> None:
        raise ValueError("disconnect")

    @server.on_stop
    async def bad_stop() -> None:
        raise ValueError("stop")

    @server.on_error
    def bad_error(error: Exception, context: Context | None) -> None:
        raise ValueError("error")

    async with server, RpcClient.connect(server.addresses[0]) as client:
        with pytest.raises(RpcError):
            await client.request("desk.fail")
    assert {"stop first", "stop"} <= set(book)
    assert book.count("ValueError in a hook") >= 2
    for name in ("bad_connect", "bad_disconnect", "bad_stop", "bad_error"):
        assert f"{name} raised" in caplog.text


async def test_a_start_that_fails_is_no_start(book: list[str]) -> None:
    server = hooked(book)

    @server.on_start
    async def bad_start() -> None:
        raise OSError("no database")

    with nothing_left():
        with pytest.raises(OSError, match="no database"):
            await server.start()
        assert server.addresses == []
    assert book == ["start", "start too"]


async def test_a_start_that_is_not_done_can_be_stopped(book: list[str]) -> None:
    server = hooked(book)
    waits = asyncio.Event()

    @server.on_start
    async def hang() -> None:
        waits.set()
        await asyncio.Event().wait()

    with nothing_left():
        starting = asyncio.create_task(server.start())
        await waits.wait()
        await asyncio.gather(server.stop(), server.stop())
        with pytest.raises(LocalProtocolError, match="the server was stopped before it had started"):
            await starting
        assert not starting.cancelled()
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert (server.addresses, book) == ([], ["start", "start too"] * 2)


async def test_a_hook_of_the_start_cannot_stop_the_server() -> None:
    server = RpcServer(memory_url())
    server.on_start(server.stop)
    with nothing_left(), pytest.raises(LocalProtocolError, match="raise an error in the hook"):
        await server.start()


def test_a_hook_that_hangs_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_: SimNetwork) -> None:
        server = RpcServer("memory://unused")

        @server.on_stop
        async def hang() -> None:
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        async with connect_in_memory(server):
            start = loop.time()
        assert loop.time() - start == pytest.approx(5.0, abs=0.1)

    SimNetwork().run(scenario)
    assert "hang raised" in caplog.text


async def test_the_server_runs_inside_its_lifespan(book: list[str]) -> None:
    @asynccontextmanager
    async def lifespan(server: RpcServer) -> AsyncGenerator[None]:
        task = asyncio.current_task()
        book.append(f"opens, {len(server.addresses)} addresses")
        yield
        assert asyncio.current_task() is task
        book.append("closes")

    server = hooked(book, lifespan=lifespan)
    with nothing_left():
        for _ in range(2):
            async with server:
                pass
            assert book == ["opens, 0 addresses", "start", "start too", "stop first", "stop", "closes"]
            book.clear()


async def test_a_lifespan_that_fails_keeps_the_server_from_starting() -> None:
    @asynccontextmanager
    async def lifespan(server: RpcServer) -> AsyncGenerator[None]:
        raise OSError("no database")
        yield

    with pytest.raises(OSError, match="no database"):
        await RpcServer("memory://unused", lifespan=lifespan).start()


# Plugins.


class Layer(Middleware):
    def __init__(self, book: list[str], name: str) -> None:
        self.book = book
        self.name = name

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        self.book.append(self.name)
        return await call_next(request)


@handler("whoami")
async def whoami(*, ctx: Context = INJECTED) -> str:
    return ctx.session.id


class Everything(Plugin):
    def __init__(self, book: list[str]) -> None:
        self.book = book

    def targets(self) -> Iterable[object]:
        return [whoami, Desk()]

    def middleware(self) -> Iterable[Middleware]:
        return [Layer(self.book, "plugin's layer")]

    async def on_start(self, server: Host, /) -> None:
        server.on("hello", lambda payload: self.book.append(f"heard {payload}"))
        self.book.append("start")

    async def on_stop(self, server: Host, /) -> None:
        self.book.append(f"stop with {len(server.sessions)}")

    async def on_connect(self, session: Session, /) -> None:
        self.book.append("connect")

    async def on_disconnect(self, session: Session, /) -> None:
        self.book.append("disconnect")

    async def on_error(self, error: Exception, context: Context | None, /) -> None:
        self.book.append(f"error {error!r}")


@pytest.mark.parametrize("way", ["keyword", "builder"])
async def test_a_plugin_brings_handlers_middleware_and_hooks(book: list[str], way: str) -> None:
    plugin, layer, url = Everything(book), Layer(book, "server's layer"), memory_url()
    if way == "keyword":
        server = RpcServer(url, plugins=[plugin], middleware=[layer])
    else:
        server = RpcServer.builder().bind(url).use(layer).plugin(plugin).build()
    async with server, RpcClient.connect(url) as client:
        assert await client.request("whoami") == client.id
        with pytest.raises(RpcError):
            await client.request("desk.fail")
        await client.emit("hello", 1, ack=True)
    layers = ["plugin's layer", "server's layer"]
    assert book == [
        "start", "connect", *layers, *layers, "error ZeroDivisionError('bug')", "heard 1", "disconnect", "stop with 0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_conect", "on_connect"),
        ("on_disconnected", "on_disconnect"),
        ("on_startup", "on_start"),
        ("target", "targets"),
    ],
)
def test_a_misspelt_hook_is_refused(name: str, meant: str) -> None:
    async def hook(self: Plugin, *_: Any) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        RpcServer(plugins=[type("Visitors", (Plugin,), {name: hook})()])
    assert caught.value.message == (
        f"plugins: Visitors.{name} is never called: did you mean {meant}? (your own begin with _)"
    )


def test_handlers_helpers_and_values_of_a_plugin_are_no_hooks() -> None:
    class Visitors(Plugin):
        on_connects = 0

        def targets(self) -> Iterable[object]:
            return [self.on_starts]

        @listener("starts")
        async def on_starts(self, payload: int) -> None: ...

        def _on_conect(self) -> None: ...

        def on_price(self, price: float) -> None: ...

    RpcServer(plugins=[Visitors()])


def test_what_is_no_plugin_or_no_function_is_refused() -> None:
    for wrong, shown in ((Plugin, "Plugin"), (Desk(), "Desk")):
        with pytest.raises(ConfigurationError, match=f"plugins: {shown} is no object of a Plugin class"):
            RpcServer("memory://unused", plugins=[wrong])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match=r"on_start: None is no function: write @server\.on_start above one"):
        RpcServer("memory://unused").on_start(None)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("kind", "function", "given"),
    [
        ("on_start", lambda server: None, r"\(\)"),
        ("on_stop", lambda server: None, r"\(\)"),
        ("on_connect", lambda: None, r"\(session\)"),
        ("on_disconnect", lambda one, two: None, r"\(session\)"),
        ("on_error", lambda error: None, r"\(error, context\)"),
    ],
)
def test_a_hook_that_cannot_be_called_is_refused_at_once(kind: str, function: Any, given: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind}: .*<lambda> cannot be called with {given}: write it so"):
        getattr(RpcServer("memory://unused"), kind)(function)


async def plain_generator(server: RpcServer) -> AsyncGenerator[None]:
    yield


@pytest.mark.parametrize(
    ("lifespan", "text"),
    [
        (plain_generator, "plain_generator needs @asynccontextmanager above it"),
        (lambda: None, r".*<lambda> is no function of the server: write lifespan\(server\)"),
        ("text", r"'text' is no function of the server: write lifespan\(server\)"),
    ],
)
def test_a_lifespan_that_is_none_is_refused_at_once(lifespan: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lifespan: {text}"):
        RpcServer("memory://unused", lifespan=lifespan)


def test_plugins_come_in_a_list() -> None:
    one: Any = Plugin()
    with pytest.raises(ConfigurationError, match=r"plugins: give a list of plugins: \[Plugin\(\.\.\.\)\]"):
        RpcServer("memory://unused", plugins=one)


async def test_hooks_for_errors_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("echostream.plugin.MAX_ERROR_HOOKS", 2)
    gate, told = asyncio.Event(), list[str]()
    server = RpcServer(memory_url())
    server.register(Desk())

    @server.on_error
    async def slow(error: Exception, context: Context | None) -> None:
        told.append(repr(error))
        await gate.wait()

    async with server, RpcClient.connect(server.addresses[0]) as client:
        for _ in range(3):
            with pytest.raises(RpcError):
                await client.request("desk.fail")
        await until(lambda: len(told) == 2)
        assert "! 2 hooks for errors run already (MAX_ERROR_HOOKS): one error is logged only" in caplog.text
        gate.set()
        await until(lambda: server._hooks._errors == 0)
        with pytest.raises(RpcError):
            await client.request("desk.fail")
        await until(lambda: len(told) == 3)


async def test_a_plugin_without_hooks_adds_none() -> None:
    server = RpcServer("memory://unused", plugins=[Plugin()])
    assert not any(server._hooks._functions.values())
