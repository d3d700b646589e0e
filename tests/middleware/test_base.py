"""Every kind of thing passes every layer, in both directions and on both sides; and how bad middleware ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from echostream import (
    ConfigurationError,
    Context,
    DeadlineExceededError,
    EventAck,
    LocalProtocolError,
    Principal,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    StreamResetError,
    event,
    handler,
    listener,
    service,
)
from echostream.errors import ConnectionLostError
from echostream.middleware import (
    Item,
    ItemNext,
    Middleware,
    Notice,
    NoticeNext,
    Opening,
    OpeningNext,
    Request,
    RequestNext,
)
from echostream.middleware.base import compile_chains
from echostream.session.attempts import Attempts
from echostream.session.chains import NO_CHAINS
from echostream.session.pending import CallRequest
from echostream.testing import connect_in_memory
from tests.middleware.world import Desk, Scribe, everything, make_server, numbers, virtually
from tests.serving import linked, served, until

INBOUND = {
    "inbound_stream belt": 1,
    "inbound_request desk.add": 1,
    "inbound_request desk.count": 1,
    "inbound_request desk.total": 1,
    "inbound_request desk.double": 1,
    "outbound_item desk.count": 2,
    "inbound_item desk.total": 2,
    "inbound_item desk.double": 1,
    "outbound_item desk.double": 1,
    "inbound_event thing": 1,
    "inbound_item belt": 1,
    "outbound_item belt": 1,
}
"""What the side that serves sees of `everything`."""

OTHER_WAY = {"inbound": "outbound", "outbound": "inbound"}


def seen(book: list[str]) -> dict[str, int]:
    return dict(Counter(line.partition(" > ")[2] for line in book if " > " in line))


def test_a_chain_has_only_who_takes_part() -> None:
    class Timer(Middleware):
        async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
            return await call_next(request)

    assert compile_chains([]) is NO_CHAINS
    assert compile_chains([Middleware(), Middleware()]) == NO_CHAINS
    chains = compile_chains([Middleware(), Timer()])
    assert chains.inbound_request is not None
    assert chains.outbound_request is None


def test_a_class_or_something_else_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"middleware: Scribe is a class: give an object, Scribe\(\.\.\.\)"):
        RpcServer("memory://x", middleware=[Scribe])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="numbers is no middleware: derive a class from Middleware"):
        RpcClient.connect("memory://x", middleware=[numbers])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="an object of dict is no middleware"):
        RpcServer("memory://x").register(Desk(), middleware=[{}])  # type: ignore[list-item]


async def passed_on(self: Any, thing: Any, call_next: Any) -> Any:
    return await call_next(thing)


async def yielding(self: Any, thing: Any, call_next: Any) -> AsyncIterator[Any]:
    yield await call_next(thing)


async def alone(self: Any, thing: Any) -> Any: ...


ALL = (
    "inbound_request, outbound_request, inbound_event, outbound_event, inbound_stream, outbound_stream, inbound_item,"
    " outbound_item"
)


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        ({"inbound_requests": passed_on}, f"Layer.inbound_requests is never called: there are {ALL}"),
        (
            {"inbound_request": passed_on, "outbound_response": passed_on},
            f"Layer.outbound_response is never called: there are {ALL}",
        ),
        ({"dispatch": passed_on}, f"Layer does nothing: override one of {ALL}"),
        ({"inbound_event": yielding}, "Layer.inbound_event yields: `await call_next(...)` instead"),
        (
            {"inbound_request": alone},
            "Layer.inbound_request must be written as `async def inbound_request(self, request, call_next)`",
        ),
        (
            {"outbound_event": alone},
            "Layer.outbound_event must be written as `async def outbound_event(self, notice, call_next)`",
        ),
    ],
)
def test_a_layer_that_would_never_be_called_is_refused(methods: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcServer("memory://x", middleware=[type("Layer", (Middleware,), methods)()])
    assert caught.value.message == f"middleware: {text}"


def test_layers_come_in_a_list() -> None:
    layer: Any = Scribe("s", [])
    for use in (
        lambda: RpcServer("memory://x", middleware=layer),
        lambda: RpcClient.connect("memory://x", middleware=layer),
    ):
        with pytest.raises(ConfigurationError, match=r"middleware: give a list of layers: \[Scribe\(\.\.\.\)\]"):
            use()


async def test_the_server_sees_every_kind() -> None:
    book: list[str] = []
    server, _ = make_server(Scribe("s", book))
    async with connect_in_memory(server) as client:
        await everything(client)
    assert seen(book) == INBOUND


async def test_the_client_sees_every_kind() -> None:
    book: list[str] = []
    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Scribe("c", book)]) as client:
        await everything(client)
    other = {OTHER_WAY[name.partition("_")[0]] + "_" + name.partition("_")[2]: n for name, n in INBOUND.items()}
    assert seen(book) == other


async def test_the_server_calls_through_its_layers_too() -> None:
    up: list[str] = []
    down: list[str] = []
    server = RpcServer("memory://unused", middleware=[Scribe("s", up)])
    async with connect_in_memory(server, middleware=[Scribe("c", down)]) as client:
        client.register(Desk())
        [session] = server.sessions
        assert await session.request("desk.add", 1, 2, returns=int) == 3
        await session.emit("thing", 1, ack=True)
    assert seen(up) == {"outbound_request desk.add": 1, "outbound_event thing": 1}
    assert seen(down) == {"inbound_request desk.add": 1, "inbound_event thing": 1}


async def test_a_service_may_have_its_own_inside_those_of_the_server() -> None:
    book: list[str] = []

    @handler("free")
    async def free() -> None: ...

    server, _ = make_server(Scribe("outer", book), inner=[Scribe("inner", book)])
    server.register(free)
    async with connect_in_memory(server) as client:
        await client.request("desk.add", 1)
        await client.request("free")
        await client.emit("thing", 1, ack=True)
    assert book == [
        "outer > inbound_request desk.add",
        "inner > inbound_request desk.add",
        "inner < inbound_request desk.add",
        "outer < inbound_request desk.add",
        "outer > inbound_request free",
        "outer < inbound_request free",
        "outer > inbound_event thing",
        "inner > inbound_event thing",
        "inner < inbound_event thing",
        "outer < inbound_event thing",
    ]


async def test_a_service_of_a_client_or_server_may_be_the_only_one_with_layers() -> None:
    book: list[str] = []
    server, _ = make_server(inner=[Scribe("inner", book)])
    async with connect_in_memory(server) as client:
        await everything(client)
        client.register(Desk(), middleware=[Scribe("client", book)])
        [session] = server.sessions
        await session.request("desk.add", 1)
    assert seen(book) == INBOUND | {"inbound_request desk.add": 2}
    assert book[-1] == "client < inbound_request desk.add"


async def test_the_first_layer_is_the_outermost() -> None:
    book: list[str] = []
    server = RpcServer.builder().use(Scribe("a", book)).use(Scribe("b", book), Scribe("c", book)).build()
    server.register(Desk())
    async with connect_in_memory(server) as client:
        await client.request("desk.add", 1)
    assert [line[:3] for line in book] == ["a >", "b >", "c >", "c <", "b <", "a <"]


class Wrap(Middleware):
    """Puts its name around items that leave, and takes it off items that come."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def outbound_item(self, item: Item, call_next: ItemNext) -> Any:
        item.payload = [self.name, item.payload]
        return await call_next(item)

    async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
        name, item.payload = item.payload
        assert name == self.name
        return await call_next(item)


@pytest.mark.parametrize("inner", [(), (Wrap("c"), Wrap("d"))], ids=["one list", "a service's too"])
async def test_items_pass_the_layers_as_calls_and_answers_do(inner: Sequence[Middleware]) -> None:
    server, desk = make_server(Wrap("a"), Wrap("b"), inner=inner)
    layers = [
        *inner[::-1],
        Wrap("b"),
        Wrap("a"),
    ]  # what is outermost at the handler is next to the network, so it is last
    async with connect_in_memory(server, middleware=layers) as client:
        proxy = client.proxy(Desk)
        assert [item async for item in proxy.double(numbers(1, 2))] == [2, 4]
        assert await proxy.total(numbers(1, 2)) == 3
        async with client.open_stream("belt") as sender:
            await sender.send(7)
            assert await sender.receiver.recv() == 7
        assert desk.heard == [7]


class Change(Middleware):
    """Changes everything a little."""

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        request.args[:] = [value + 10 if isinstance(value, int) else value for value in request.args]
        request.metadata["seen"] = "yes"
        request.state["by"] = "Change"
        assert request.context is not None
        request.context.principal = Principal("somebody")
        reply = await call_next(request)
        return reply + 100 if isinstance(reply, int) else reply

    async def inbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        notice.payload = [notice.payload]
        return await call_next(notice)

    async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
        item.payload += 1
        return await call_next(item) * 10

    async def outbound_item(self, item: Item, call_next: ItemNext) -> Any:
        item.payload = -item.payload
        return await call_next(item)


async def test_layers_change_what_passes() -> None:
    server, desk = make_server(Change())
    async with connect_in_memory(server) as client:
        proxy = client.proxy(Desk)
        assert await proxy.add(1, b=5) == 116
        assert await proxy.who() == ["somebody", "{'seen': 'yes'}", "{'by': 'Change'}"]
        assert await proxy.total(numbers(1, 2)) == 150
        assert [item async for item in proxy.double(numbers(1))] == [-40]
        await client.emit("thing", 1, ack=True)
        async with client.open_stream("belt") as sender:
            await sender.send(7)
            assert await sender.receiver.recv() == -80
    assert desk.heard == [[1], 80]


class Outward(Middleware):
    """Changes what the client sends."""

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        request.metadata["tenant"] = "blue"
        request.args[:1] = [request.args[0] + 1] if request.args else []
        return await call_next(request)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        notice.payload = "changed"
        return await call_next(notice)


async def test_a_client_changes_what_it_sends() -> None:
    server, desk = make_server()
    async with connect_in_memory(server, middleware=[Outward()]) as client:
        proxy = client.proxy(Desk)
        assert await proxy.add(1) == 2
        assert (await proxy.who())[1] == "{'tenant': 'blue'}"
        assert await client.request("desk.add", 5, returns=int) == 6
        assert [item async for item in proxy.count(1)] == [0, 1]
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 0)
    assert desk.heard == ["changed"]


async def test_a_broadcast_passes_once_for_all() -> None:
    class Shout(Middleware):
        async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
            assert notice.session is None
            notice.payload = notice.payload.upper()
            return await call_next(notice)

    heard: list[Any] = []
    async with served(middleware=[Shout()]) as server:
        url = server.addresses[0]
        async with RpcClient.connect(url) as one, RpcClient.connect(url) as two:
            for client in (one, two):
                client.on("news", heard.append)
            assert server.broadcast("news", "fire").sent == 2
            await until(lambda: len(heard) == 2)
    assert heard == ["FIRE", "FIRE"]


async def test_a_broadcast_can_be_stopped_and_cannot_wait() -> None:
    class Stop(Middleware):
        async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
            if notice.name == "secret":
                return None
            await asyncio.sleep(1)
            return await call_next(notice)

    async with linked(middleware=[Middleware(), Stop(), Scribe("s", [])]) as (server, _):
        assert server.broadcast("secret", 1).sent == 0
        with pytest.raises(LocalProtocolError, match=r"Stop\.outbound_event waits for something, but a broadcast"):
            server.broadcast("news", 1)


async def test_the_metadata_of_the_answer_is_seen_after_call_next() -> None:
    seen_there: list[Any] = []

    class Look(Middleware):
        async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
            reply = await call_next(request)
            seen_there.append((request.initial_metadata, request.trailing_metadata, request.items_received))
            return reply

    class Say(Middleware):
        async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
            assert request.context is not None
            request.context.set_initial_metadata(first="1")
            request.context.set_trailing_metadata(last="2")
            return await call_next(request)

    server, _ = make_server(Say())
    async with connect_in_memory(server, middleware=[Look()]) as client:
        desk = client.proxy(Desk)
        call = client.call(desk.add, 1)
        assert await call == 1
        assert (call.initial_metadata, call.trailing_metadata) == ({"first": "1"}, {"last": "2"})
        assert [item async for item in desk.count(3)] == [0, 1, 2]
        assert await client.call(desk.total, numbers(1)) == 1
    metadata = {"first": "1"}, {"last": "2"}
    assert seen_there == [(*metadata, 0), (*metadata, 3), (*metadata, 0)]


# Middleware that answers by itself.


class Cache(Middleware):
    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return None if request.returns_items else 42

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return None if request.returns_items else 42


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_layer_may_answer_in_the_place_of_the_handler(side: str) -> None:
    server, desk = make_server(*([Cache()] if side == "server" else []))
    async with connect_in_memory(server, middleware=[Cache()] if side == "client" else []) as client:
        proxy = client.proxy(Desk)
        assert await proxy.add(1) == 42
        assert [item async for item in proxy.count(3)] == []
        assert await proxy.total(numbers(1)) == 42
    assert desk.ran == 0


async def test_unknown_methods_pass_the_layers_too() -> None:
    book: list[str] = []
    server, _ = make_server(Scribe("s", book))
    async with connect_in_memory(server) as client:
        with pytest.raises(RpcError, match=r"unknown method 'desk\.ad'; did you mean desk\.add") as caught:
            await client.request("desk.ad", 1)
    assert caught.value.code is Status.UNIMPLEMENTED
    assert book == ["s > inbound_request desk.ad", "s < inbound_request desk.ad"]


async def test_permissions_hold_against_the_principal_that_a_layer_found() -> None:
    @service("vault")
    class Vault:
        @handler(requires="open")
        async def open(self) -> str:
            return "gold"

    class Let(Middleware):
        async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
            assert request.context is not None
            name = request.metadata.get("name")
            if isinstance(name, str):
                request.context.principal = Principal(name, frozenset({"open"} if name == "ann" else ()))
            return await call_next(request)

    for where in ("server", "service"):
        server = RpcServer("memory://unused", middleware=[Let()] if where == "server" else [])
        server.register(Vault(), middleware=[Let()] if where == "service" else [])
        async with connect_in_memory(server) as client:
            assert await client.request("vault.open", metadata={"name": "ann"}) == "gold"
            for metadata, code in (({"name": "bob"}, Status.PERMISSION_DENIED), ({}, Status.UNAUTHENTICATED)):
                with pytest.raises(RpcError) as caught:
                    await client.request("vault.open", metadata=metadata)
                assert caught.value.code is code


# Middleware that does wrong.


class Raise(Middleware):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def _raise(self, thing: Any, call_next: Any) -> Any:
        raise self.error

    inbound_request = outbound_request = inbound_event = outbound_event = inbound_item = outbound_item = _raise


SHAPES: dict[str, Callable[[Any], Any]] = {
    "unary": lambda desk: desk.add(1),
    "items out": lambda desk: collected(desk.count(2)),
    "items in": lambda desk: desk.total(numbers(1)),
    "both": lambda desk: collected(desk.double(numbers(1))),
}


async def collected(items: Any) -> list[Any]:
    return [item async for item in items]


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_layer_of_the_server_raises_is_the_answer(shape: str) -> None:
    server, desk = make_server(Raise(RpcError(Status.ABORTED, "not today")))
    async with connect_in_memory(server) as client:
        with pytest.raises(RpcError, match="not today") as caught:
            await SHAPES[shape](client.proxy(Desk))
        assert caught.value.code is Status.ABORTED
    assert desk.ran == 0


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_layer_of_the_server_did_not_mean_to_raise_stays_there(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = make_server(Raise(ValueError("hunter2")))
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(RpcError, match="internal error") as caught:
            await SHAPES[shape](client.proxy(Desk))
        assert caught.value.code is Status.INTERNAL
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_layer_of_the_client_raises_is_raised_there(shape: str) -> None:
    server, desk = make_server()
    async with connect_in_memory(server, middleware=[Raise(KeyError("mine"))]) as client:
        for _ in range(2):
            with pytest.raises(KeyError, match="mine"):
                await SHAPES[shape](client.proxy(Desk))
        with pytest.raises(KeyError, match="mine"):
            await client.emit("thing", 1)
    assert desk.ran == 0


async def test_a_listener_whose_layer_raises_counts_as_failed(caplog: pytest.LogCaptureFixture) -> None:
    server, desk = make_server(Raise(KeyError("mine")))
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 1)
    assert desk.heard == []
    assert "Desk.on_thing of event thing raised" in caplog.text


async def test_an_item_whose_layer_raises_ends_its_call_or_stream() -> None:
    class Refuse(Middleware):
        async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
            raise RpcError(Status.OUT_OF_RANGE, "no items today")

    server, _ = make_server(Refuse())
    async with connect_in_memory(server) as client:
        with pytest.raises(RpcError, match="no items today"):
            await client.proxy(Desk).total(numbers(1))
        sender = await client.open_stream("belt")
        await sender.send(1)
        with pytest.raises(Exception, match="no items today"):
            await sender.receiver.recv()
    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Refuse()]) as client:
        with pytest.raises(RpcError, match="no items today"):
            await collected(client.proxy(Desk).count(3))


class Hang(Middleware):
    def __init__(self) -> None:
        self.cancelled = 0

    async def _hang(self, thing: Any, call_next: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    inbound_request = outbound_request = inbound_event = outbound_event = _hang


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_that_hangs_ends_at_the_deadline(side: str, shape: str) -> None:
    hang = Hang()

    async def scenario() -> None:
        server, desk = make_server(*([hang] if side == "server" else []))
        async with connect_in_memory(server, middleware=[hang] if side == "client" else []) as client:
            loop = asyncio.get_running_loop()
            start = loop.time()
            with pytest.raises(DeadlineExceededError, match="no answer within 3 s"):
                await SHAPES[shape](client.proxy(Desk, timeout=3.0))
            assert loop.time() - start == pytest.approx(3.0, abs=0.05)
            await asyncio.sleep(0.1)
            assert (hang.cancelled, desk.ran) == (1, 0)

    virtually(scenario)


def test_a_layer_that_hangs_around_an_event_ends_with_its_timeout() -> None:
    async def scenario() -> None:
        server, _ = make_server()
        async with connect_in_memory(server, middleware=[Hang()]) as client:
            for ack in (True, False):
                with pytest.raises(DeadlineExceededError, match="within 3 s"):
                    await client.emit("thing", 1, ack=ack, timeout=3.0)

    virtually(scenario)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_that_hangs_without_a_deadline_ends_with_the_connection(shape: str) -> None:
    async def scenario() -> None:
        server, _ = make_server()
        async with connect_in_memory(server, middleware=[Hang()]) as client:
            task = asyncio.create_task(SHAPES[shape](client.proxy(Desk, timeout=None)))
            await asyncio.sleep(1)
            await client.close()
            with pytest.raises(ConnectionLostError):
                await task

    virtually(scenario)


class Twice(Middleware):
    def __init__(self) -> None:
        self.second: list[Exception] = []

    async def _twice(self, thing: Any, call_next: Any) -> Any:
        await call_next(thing)
        return await call_next(thing)

    inbound_request = inbound_event = outbound_request = outbound_event = _twice


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_handler_runs_once_whatever_its_layers_do(shape: str, caplog: pytest.LogCaptureFixture) -> None:
    server, desk = make_server(Twice())
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(RpcError) as caught:
            await SHAPES[shape](client.proxy(Desk))
        assert caught.value.code is Status.INTERNAL
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 1)
    assert desk.ran <= 1
    assert desk.heard == [1]
    assert "call_next was called twice, but a handler runs once; let the caller retry" in caplog.text
    assert "call_next was called twice, but a listener runs once" in caplog.text


async def test_a_caller_tries_again_with_each_call_next() -> None:
    server, desk = make_server()
    async with connect_in_memory(server, middleware=[Twice()]) as client:
        proxy = client.proxy(Desk)
        assert await proxy.add(1) == 1
        assert desk.ran == 2
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 0)
        assert desk.heard == [1, 1]
        with pytest.raises(LocalProtocolError, match="but the items that the call sends can be read once only"):
            await proxy.total(numbers(1))
        with pytest.raises(LocalProtocolError, match="call_next was called again, but items have come"):
            await collected(proxy.count(2))
        assert await collected(proxy.count(0)) == []


class Forget(Middleware):
    """Forgets to return what it got."""

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        await call_next(request)

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        await call_next(request)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        await call_next(notice)


SWALLOWED = "desk.add: a middleware returned None in the place of the answer; write `return await call_next"


async def test_a_forgotten_return_is_named_at_the_client() -> None:
    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Forget()]) as client:
        with pytest.raises(LocalProtocolError) as caught:
            await client.proxy(Desk).add(1)
        assert SWALLOWED in caught.value.message
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 0)


async def test_a_forgotten_return_is_named_in_the_log_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    server, _ = make_server(Forget())
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(RpcError, match="internal error"):
            await client.proxy(Desk).add(1)
        assert await collected(client.proxy(Desk).count(2)) == [0, 1]
    assert SWALLOWED in caplog.text


class Value(Middleware):
    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        await call_next(request)
        return 7

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        await call_next(request)
        return 7


async def test_a_value_in_the_place_of_items_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    server, _ = make_server(Value())
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(RpcError, match="internal error"):
            await collected(client.proxy(Desk).count(2))
    assert "desk.count returns items, but a middleware returned int: see outbound_item" in caplog.text
    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Value()]) as client:
        with pytest.raises(LocalProtocolError, match="returned int: see inbound_item"):
            await collected(client.proxy(Desk).count(2))


class Calm(Middleware):
    """Hides every error of the other side."""

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        try:
            return await call_next(request)
        except RpcError:
            return None


async def test_a_layer_may_hide_an_error() -> None:
    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Calm()]) as client:
        assert await client.request("nowhere") is None
        async with client.stream("nowhere") as items:
            assert [item async for item in items] == []


# Ends.


def test_dropping_the_items_ends_call_and_chain() -> None:
    book: list[str] = []

    async def scenario() -> None:
        server, _ = make_server()
        async with connect_in_memory(server, middleware=[Scribe("c", book)]) as client:
            async for item in client.proxy(Desk).count(1_000_000):
                assert item == 0
                break
            await asyncio.sleep(0.1)
            assert book[-1] == "c < outbound_request desk.count"
            async with client.stream(client.proxy(Desk).count, 1_000_000) as items:
                assert await anext(aiter(items)) == 0
            assert book.count("c < outbound_request desk.count") == 2
            [session] = server.sessions
            await asyncio.sleep(0.1)
            assert len(session.tasks) == 0

    virtually(scenario)


def test_a_cancelled_call_cancels_its_layers_on_both_sides() -> None:
    ended: list[str] = []

    class Watch(Middleware):
        async def _watch(self, request: Request, call_next: RequestNext) -> Any:
            try:
                return await call_next(request)
            except asyncio.CancelledError:
                ended.append("there" if isinstance(request.context, Context) else "here")
                raise

        inbound_request = outbound_request = _watch

    async def scenario() -> None:
        server, _ = make_server(Watch())
        async with connect_in_memory(server, middleware=[Watch()]) as client:
            call = client.call(client.proxy(Desk).nap, 60.0)
            await asyncio.sleep(1)
            call.cancel()
            await asyncio.sleep(0.1)
            assert sorted(ended) == ["here", "there"]

    virtually(scenario)


async def test_a_lost_connection_is_seen_by_the_layers() -> None:
    seen_there: list[type[BaseException]] = []

    class Watch(Middleware):
        async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
            try:
                return await call_next(request)
            except BaseException as error:
                seen_there.append(type(error))
                raise

    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Watch()]) as client:
        task = asyncio.create_task(client.proxy(Desk, timeout=None).nap(60.0))
        items = client.proxy(Desk).double(endless())
        assert await anext(items) == 2
        await client.close()
        for waiting in (task, anext(items)):
            with pytest.raises(ConnectionLostError):
                await waiting
    assert seen_there == [ConnectionLostError, ConnectionLostError]


async def endless() -> Any:
    yield 1
    await asyncio.Event().wait()


async def test_concurrent_calls_keep_apart() -> None:
    class Tag(Middleware):
        async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
            await asyncio.sleep(0)
            request.state["arg"] = request.args[0]
            reply = await call_next(request)
            assert request.state["arg"] == request.args[0]
            return reply

    server, _ = make_server(Tag())
    async with connect_in_memory(server) as client:
        answers = await asyncio.gather(*(client.proxy(Desk).add(number) for number in range(100)))
    assert answers == list(range(100))


async def test_events_keep_their_order_through_slow_layers() -> None:
    class Slow(Middleware):
        async def inbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
            if notice.payload % 2:
                await asyncio.sleep(0.001)
            return await call_next(notice)

    server, desk = make_server(Slow())
    async with connect_in_memory(server) as client:
        for number in range(10):
            await client.emit("thing", number)
        await client.emit("thing", 10, ack=True)
    assert desk.heard == list(range(11))


@event("point")
@dataclass
class Point:
    x: int


async def test_an_event_that_does_not_fit_its_class_counts_as_failed(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []

    @listener(Point)
    def on_point(point: Point) -> None:
        heard.append(point.x)

    async with linked(on_point, middleware=[Scribe("s", [])]) as (_, client):
        assert await client.emit("point", {"x": "far"}, ack=True) == EventAck(1, 1)
        assert await client.emit("point", {"x": 1}, ack=True) == EventAck(1, 0)
    assert heard == [1]
    assert "on_point of event point raised" in caplog.text


async def test_what_layers_changed_is_no_longer_safe_in_early_data() -> None:
    server, _ = make_server()
    async with connect_in_memory(server) as client:

        def safe(**changes: Any) -> bool:
            request = CallRequest("desk.add", ([1], {}), 1.0, safe=True)
            attempts = Attempts(client.session, request, idempotent=True)
            for name, value in changes.items():
                setattr(attempts.view, name, value)
            return attempts.begin(attempts.view).safe

        assert safe()
        assert safe(metadata={"tenant": "blue"})
        assert not safe(method="desk.nap")
        assert not safe(metadata={"authorization": "Bearer key"})


def test_a_layer_that_does_not_mind_the_deadline_leaves_the_caller_as_it_was() -> None:
    class Stubborn(Middleware):
        async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 42

    async def scenario() -> None:
        server, _ = make_server()
        async with connect_in_memory(server, middleware=[Stubborn()]) as client:
            assert await client.proxy(Desk, timeout=1.0).add(1) == 42
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    virtually(scenario)


def test_a_caller_cancelled_while_its_layers_hang_is_cancelled() -> None:
    async def scenario() -> None:
        server, _ = make_server()
        async with connect_in_memory(server, middleware=[Hang()]) as client:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(1.0):
                    await client.proxy(Desk, timeout=5.0).add(1)
            assert not isinstance(caught.value, RpcError)

    virtually(scenario)


class Forgetful(Middleware):
    """Forgets to return the item, which is not the sender's fault."""

    async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
        await call_next(item)


async def test_a_forgotten_return_of_an_item_is_named(caplog: pytest.LogCaptureFixture) -> None:
    text = "desk.{}: a middleware returned None in the place of an item; write `return await call_next(item)`"
    server, _ = make_server(Forgetful())
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(RpcError, match="internal error; its cause is in the log"):
            await client.proxy(Desk).total(numbers(1))
    assert text.format("total") in caplog.text
    server, _ = make_server()
    async with connect_in_memory(server, middleware=[Forgetful()]) as client:
        with pytest.raises(LocalProtocolError) as caught:
            await anext(client.proxy(Desk).count(1 + 1))
        assert caught.value.message == text.format("count")


class _Taker(Middleware):
    """Takes streams as often as it is told to, or raises before."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times = times
        self.error = error

    async def inbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        if self.error is not None:
            raise self.error
        for _ in range(self.times):
            await call_next(opening)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (_Taker(0), "the middleware did not hand on the stream"),
        (_Taker(1, RpcError(Status.ABORTED, "no more")), "no more"),
        (_Taker(1, ValueError("secret")), "internal error; its cause is in the log"),
    ],
)
@pytest.mark.parametrize("inner", [False, True], ids=["of the server", "of the service"])
async def test_a_layer_may_refuse_a_stream_before_it_is_taken(layer: Middleware, text: str, inner: bool) -> None:
    server, desk = make_server(*(() if inner else (layer,)), inner=[layer] if inner else [])
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(RpcError, match=text):
            await client.open_stream("belt")
        assert await client.proxy(Desk).add(1) == 1
    assert desk.heard == []


async def test_the_handler_of_a_stream_runs_once(caplog: pytest.LogCaptureFixture) -> None:
    server, desk = make_server(_Taker(2))
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        with pytest.raises(StreamResetError, match="internal error"):
            async with client.open_stream("belt") as sender:
                await sender.send(1)
    assert "stream belt: call_next was called twice, but a handler runs once" in caplog.text
    assert desk.heard == [1]


def test_a_layer_that_hangs_takes_no_stream() -> None:
    class Hang(Middleware):
        async def inbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
            await asyncio.sleep(60)
            return await call_next(opening)

    async def scenario() -> None:
        server, desk = make_server(Hang())
        async with connect_in_memory(server) as client:
            with pytest.raises(TimeoutError, match="stream not accepted within 1 s"):
                await client.open_stream("belt", timeout=1.0)
            await asyncio.sleep(60)
            assert await client.proxy(Desk).add(1) == 1
            [session] = server.sessions
            assert (desk.heard, len(session.tasks)) == ([], 0)

    virtually(scenario)


class _Opener(Middleware):
    """Opens streams as often as it is told to, and raises afterwards if it is told to."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times = times
        self.error = error

    async def outbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        for _ in range(self.times):
            await call_next(opening)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (_Opener(0), r"did not open the stream; write `return await call_next\(opening\)`"),
        (_Opener(2), "opened the stream twice"),
        (_Opener(1, RpcError(Status.ABORTED, "no more")), "no more"),
    ],
)
async def test_a_layer_opens_a_stream_once_or_nothing_of_it_stays(layer: Middleware, text: str) -> None:
    server, desk = make_server()
    async with connect_in_memory(server, middleware=[layer], raise_server_exceptions=False) as client:
        with pytest.raises((RpcError, LocalProtocolError), match=text):
            await client.open_stream("belt")
        assert await client.proxy(Desk).add(1) == 1  # the session goes on
        await until(lambda: not server.sessions or not next(iter(server.sessions)).peer.protocol.streams.streams)
    assert desk.heard == []
