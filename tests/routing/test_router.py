"""Tests for echostream.routing.router: what may be registered, under which names, all of it or nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import pytest
from pydantic import BaseModel

from echostream import Context, RpcServer, SignatureError, StreamReceiver, event, handler, listener, service, stream
from echostream.errors import ConfigurationError
from echostream.routing.router import Router
from tests.serving import linked


@event("clock.tick")
@dataclass
class Tick:
    """An event without fields."""


@service("clock")
class ClockService:
    @handler
    async def now(self) -> int:
        return 7

    @handler("tz")
    async def zone(self) -> str:
        return "UTC"

    @listener(Tick)
    async def on_tick(self, tick: Tick) -> None: ...

    @stream("clock.log")
    async def on_log(self, receiver: StreamReceiver) -> None: ...


@handler("echo")
async def echo(text: str) -> str:
    return text


@listener("any.thing")
async def on_thing(payload: object) -> None: ...


@stream("free")
async def on_free(receiver: StreamReceiver, ctx: Context) -> None: ...


def names(router: Router) -> list[str]:
    return [route.name for route in router.methods()]


def refused(router: Router, *targets: object, name: str | None = None) -> str:
    before = (names(router), list(router.streams()), dict(router.services), router.listeners.version)
    with pytest.raises(ConfigurationError) as caught:
        router.register(*targets, name=name)
    assert before == (names(router), list(router.streams()), dict(router.services), router.listeners.version)
    return str(caught.value.reason)


def test_a_service_brings_its_methods_streams_and_listeners() -> None:
    router = Router()
    router.register(ClockService())
    assert names(router) == ["clock.now", "clock.tz"]
    assert [name for name, _ in router.streams()] == ["clock.log"]
    assert list(router.services) == ["clock"]
    assert len(router.listeners.match("clock.tick")) == 1
    assert repr(router) == "<Router 2 methods 1 streams>"


def test_free_functions_are_registered_by_their_marks() -> None:
    router = Router()
    router.register(echo, on_thing, on_free)
    route = router.method("echo")
    assert route is not None
    assert route.function is echo
    assert len(router.listeners.match("any.thing")) == 1
    assert router.stream("free") is not None
    assert router.method("nothing") is None
    assert router.stream("nothing") is None


def test_a_bound_method_is_registered_under_a_name() -> None:
    class Adder:
        def __init__(self, base: int) -> None:
            self.base = base

        async def add(self, number: int) -> int:
            return self.base + number

    router = Router()
    router.register(Adder(1).add, name="one.add")
    router.register(Adder(2).add, name="two.add")
    assert names(router) == ["one.add", "two.add"]


async def test_bound_methods_keep_their_objects() -> None:
    class Adder:
        def __init__(self, base: int) -> None:
            self.base = base

        async def add(self, number: int) -> int:
            return self.base + number

    async with linked() as (server, client):
        server.register(Adder(1).add, name="one.add")
        server.register(Adder(2).add, name="two.add")
        assert await client.request("one.add", 10) == 11
        assert await client.request("two.add", 10) == 12


def test_a_marked_method_of_an_object_is_registered_alone() -> None:
    router = Router()
    router.register(ClockService().now, name="what.time")
    assert names(router) == ["what.time"]
    assert not router.services


def test_a_class_is_refused_where_an_object_is_meant() -> None:
    assert refused(Router(), ClockService) == "ClockService is a class: give an object, ClockService()"


@pytest.mark.parametrize(
    ("target", "shown"),
    [(7, "7"), (print, "print"), (object, "object"), ("text", "'text'"), (Tick, "Tick")],
)
def test_what_is_neither_service_nor_marked_is_refused(target: object, shown: str) -> None:
    assert refused(Router(), target) == (
        f"{shown} is neither an object of a @service class nor marked with @handler, @listener or @stream"
    )


def test_a_service_whose_methods_are_not_marked_is_refused() -> None:
    @service("empty")
    class Empty:
        async def now(self) -> int:
            return 1

    assert refused(Router(), Empty()) == (
        "Empty serves nothing: mark its methods with @handler, @listener or @stream, or name the events that it sends,"
        " @service(emits=[...])"
    )


def test_a_service_that_only_sends_events_is_one() -> None:
    @event("ticked")
    class Ticked(BaseModel): ...

    @service("ticker", emits=[Ticked])
    class Ticker: ...

    router = Router()
    router.register(Ticker())
    assert refused(router, Ticker()) == "the service 'ticker' is registered already: every name serves once"


def test_an_unmarked_function_is_refused_without_a_name() -> None:
    async def plain(number: int) -> int:
        return number

    assert refused(Router(), plain).startswith("test_an_unmarked_function_is_refused_without_a_name.<locals>.plain is")
    router = Router()
    router.register(plain, name="plain")
    assert names(router) == ["plain"]


def test_a_name_is_for_one_function() -> None:
    assert refused(Router(), echo, on_thing, name="x") == "'x' names one function, got 2: register one at a time"
    assert refused(Router(), name="x") == "'x' names one function, got 0: register one at a time"
    assert refused(Router(), ClockService(), name="x") == "the service ClockService has its name from @service"


def test_taken_names_are_refused() -> None:
    router = Router()
    router.register(ClockService(), echo, on_free)
    assert refused(router, ClockService()) == "the service 'clock' is registered already: every name serves once"
    assert refused(router, echo) == "the method 'echo' is registered already: every name serves once"
    assert refused(router, on_free) == "the stream 'free' is registered already: every name serves once"
    assert refused(router, echo, name="clock.now") == (
        "the method 'clock.now' is registered already: every name serves once"
    )


def test_names_that_a_service_would_take_are_refused() -> None:
    router = Router()
    router.register(echo, name="clock.now")
    assert refused(router, ClockService()) == "the method 'clock.now' is registered already: every name serves once"

    @stream("clock.log")
    async def log(receiver: StreamReceiver) -> None: ...

    router = Router()
    router.register(log)
    assert refused(router, ClockService()) == "the stream 'clock.log' is registered already: every name serves once"


def test_all_of_a_registration_counts_or_nothing() -> None:
    router = Router()
    assert refused(router, echo, on_thing, 7).startswith("7 is neither")
    router.register(echo, on_thing)
    assert names(router) == ["echo"]


def test_the_same_name_twice_in_one_registration_is_refused() -> None:
    assert refused(Router(), echo, echo) == "the method 'echo' is registered already: every name serves once"
    assert refused(Router(), on_free, on_free) == "the stream 'free' is registered already: every name serves once"
    assert refused(Router(), ClockService(), ClockService()) == (
        "the service 'clock' is registered already: every name serves once"
    )


def test_listeners_may_share_an_event() -> None:
    router = Router()
    router.register(on_thing, ClockService())
    router.register(on_thing)
    assert len(router.listeners.match("any.thing")) == 2


def test_a_type_that_cannot_be_validated_is_refused_whole() -> None:
    class Opaque:
        pass

    @handler("good")
    async def good() -> None: ...

    @handler("bad")
    async def bad(value: Opaque) -> None: ...

    router = Router()
    with pytest.raises(SignatureError, match="parameter 'value'"):
        router.register(good, bad)
    assert names(router) == []


def test_a_sessions_own_routes_come_before_its_servers() -> None:
    parent = Router()
    parent.register(ClockService(), echo)
    child = Router(parent)

    @handler("echo")
    async def mine(text: str) -> str:
        return text.upper()

    child.register(mine)
    own, common = child.method("echo"), child.method("clock.now")
    assert own is not None
    assert own.function is mine
    assert common is not None
    assert child.stream("clock.log") is not None
    assert [route.name for route in child.methods()].count("echo") == 2
    assert [name for name, _ in child.streams()] == ["clock.log"]
    assert parent.method("echo") is not own


def test_near_names_are_few_and_alike() -> None:
    router = Router()
    router.register(ClockService(), echo, on_free)
    assert router.near("clock.mow") == ["clock.now"]
    assert router.near("ecko") == ["echo"]
    assert router.near("#") == []
    assert router.near_streams("fre") == ["free"]
    for index in range(10):
        router.register(echo, name=f"name{index}")
    assert len(router.near("name")) == 3


class Contract(Protocol):
    @handler("hello")
    async def greet(self, name: str) -> str: ...

    @handler
    def count(self, to: int) -> AsyncIterator[int]: ...


@service("greeter")
class Greeter(Contract):
    """Implements the contract without repeating its marks."""

    async def greet(self, name: str) -> str:
        return f"hello {name}"

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


@service("store")
class StoreContract(ABC):
    @handler
    @abstractmethod
    async def get(self, key: str) -> str: ...


class MemoryStore(StoreContract):
    async def get(self, key: str) -> str:
        return f"value of {key}"


class LoudStore(MemoryStore):
    async def get(self, key: str) -> str:
        return (await super().get(key)).upper()

    @handler
    async def size(self) -> int:
        return 3


async def test_marks_are_inherited_from_contracts() -> None:
    async with linked(Greeter()) as (_, client):
        greeter = client.proxy(Greeter)
        assert await greeter.greet("Ada") == "hello Ada"
        assert await client.request("greeter.hello", "Ada") == "hello Ada"
        assert [number async for number in greeter.count(3)] == [0, 1, 2]


@pytest.mark.parametrize(("store", "answer"), [(MemoryStore(), "value of a"), (LoudStore(), "VALUE OF A")])
async def test_services_are_inherited(store: StoreContract, answer: str) -> None:
    async with linked(store) as (_, client):
        assert await client.proxy(StoreContract).get("a") == answer


async def test_a_subclass_may_serve_more() -> None:
    async with linked(LoudStore()) as (_, client):
        assert await client.proxy(LoudStore).size() == 3


def test_a_server_refuses_what_its_router_refuses() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcServer("memory://refusing").register(ClockService)
    assert str(caught.value) == ("INVALID_ARGUMENT: register: ClockService is a class: give an object, ClockService()")
