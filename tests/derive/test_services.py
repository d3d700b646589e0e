"""Marks are inherited by method name along the MRO; contracts carry them for implementations."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from echostream_derive import (
    CallShape,
    SignatureError,
    handler,
    handler_spec,
    is_service,
    listener,
    listener_spec,
    service,
    service_spec,
    stream,
    stream_spec,
)


@service("orders", version="2.0.0", strict=True)
class Contract(Protocol):
    @handler(timeout=2.0)
    async def place(self, symbol: str) -> int: ...

    @handler
    def watch(self, symbol: str) -> AsyncIterator[float]: ...

    @listener("price.*")
    def on_price(self, payload: object) -> None: ...

    @stream("microphone")
    async def on_microphone(self, receiver: object) -> None: ...


class Implementation(Contract):
    async def place(self, symbol: str, count: int = 1) -> int:
        return count

    async def watch(self, symbol: str) -> AsyncIterator[float]:
        yield 1.0

    async def on_price(self, payload: object, ctx: object = None) -> None: ...  # type: ignore[override]


def test_an_implementation_is_the_service_of_its_contract() -> None:
    spec = service_spec(Implementation)
    assert is_service(Implementation)
    assert (spec.name, spec.version, spec.strict, spec.cls) == ("orders", "2.0.0", True, Implementation)


def test_an_override_inherits_the_mark_and_shows_its_own_signature() -> None:
    place = service_spec(Implementation).handlers["place"]
    assert (place.name, place.timeout, place.timeout_set) == ("place", 2.0, True)
    assert place.function is Implementation.place
    assert [item.name for item in place.parameters] == ["symbol", "count"]
    assert service_spec(Contract).handlers["place"].function is Contract.place


def test_a_plain_streaming_method_of_a_contract_is_served_by_a_generator() -> None:
    assert service_spec(Contract).handlers["watch"].shape is CallShape.SERVER_STREAMING
    assert service_spec(Implementation).handlers["watch"].shape is CallShape.SERVER_STREAMING


def test_listeners_and_streams_are_inherited_too() -> None:
    spec = service_spec(Implementation)
    [on_price] = spec.listeners
    assert (on_price.event, on_price.is_async, on_price.function) == ("price.*", True, Implementation.on_price)
    [microphone] = spec.streams
    assert (microphone.name, microphone.function) == ("microphone", Contract.on_microphone)


def test_an_abstract_class_is_a_contract_as_well() -> None:
    @service("files")
    class Files(abc.ABC):
        @handler
        @abc.abstractmethod
        async def size(self, name: str) -> int: ...

    class Disk(Files):
        async def size(self, name: str) -> int:
            return 0

    assert service_spec(Disk).handlers["size"].function is Disk.size


def test_a_subclass_may_be_a_service_of_its_own() -> None:
    @service("orders.v2")
    class Second(Implementation):
        @handler
        async def cancel(self, order_id: int) -> None: ...

    spec = service_spec(Second)
    assert (spec.name, spec.version, spec.strict) == ("orders.v2", "1.0.0", False)
    assert list(spec.handlers) == ["place", "watch", "cancel"]


def test_a_subclass_takes_a_method_out() -> None:
    class Less(Implementation):
        place = None  # type: ignore[assignment]

    assert list(service_spec(Less).handlers) == ["watch"]


def test_an_override_keeps_a_given_name() -> None:
    class Shop:
        @handler("put")
        async def store(self, name: str) -> None: ...

    @service("shop")
    class Better(Shop):
        async def store(self, name: str, *, count: int = 1) -> None: ...

    assert service_spec(Better).handlers["store"].name == "put"


def test_a_mark_of_its_own_replaces_the_inherited_one() -> None:
    class Other(Implementation):
        @handler("put", timeout=5.0)
        async def place(self, symbol: str, count: int = 1) -> int:
            return count

    place = service_spec(Other).handlers["place"]
    assert (place.name, place.timeout) == ("put", 5.0)


def test_a_second_name_for_a_method_is_a_second_handler() -> None:
    @service("shop")
    class Shop:
        @handler
        async def buy(self, name: str) -> int:
            return len(name)

        purchase = buy

        @handler("give")
        async def donate(self, name: str) -> int:
            return len(name)

    spec = service_spec(Shop)
    assert {key: item.name for key, item in spec.handlers.items()} == {
        "buy": "buy",
        "purchase": "purchase",
        "donate": "give",
    }


def test_a_class_made_anew_by_another_decorator_keeps_its_mark() -> None:
    @dataclasses.dataclass(slots=True)
    @service("shop")
    class Shop:
        limit: int = 3

        @handler
        async def buy(self, name: str) -> int:
            return len(name)

    assert service_spec(Shop).cls is Shop


def test_an_override_of_another_shape_is_refused() -> None:
    class Wrong(Contract):
        async def watch(self, symbol: str) -> float:  # type: ignore[override]
            return 1.0

    line = Wrong.watch.__code__.co_firstlineno
    with pytest.raises(SignatureError) as caught:
        service_spec(Wrong)
    assert str(caught.value) == (
        f"{__file__}:{line}: Wrong.watch: is unary, but Contract.watch that it overrides is server streaming; "
        "take over its AsyncIterator parameter and result"
    )


def test_an_override_that_is_no_method_is_refused() -> None:
    class Wrong(Contract):
        place = 7  # type: ignore[assignment]

    with pytest.raises(SignatureError, match=r": Wrong.place: is overridden by something that is no method$"):
        service_spec(Wrong)


def test_an_override_of_a_stream_stays_async() -> None:
    class Wrong(Contract):
        def on_microphone(self, receiver: object) -> None: ...  # type: ignore[override]

    with pytest.raises(SignatureError, match=r": Wrong.on_microphone: is a plain function; write async def on_micro"):
        service_spec(Wrong)


def test_a_class_without_a_mark_is_no_service() -> None:
    class Shop:
        pass

    assert not is_service(Shop)
    with pytest.raises(SignatureError) as caught:
        service_spec(Shop)
    where, _, said = str(caught.value).partition(": ")
    assert said == 'Shop: is not a service; decorate it with @service("shop")'
    file, _, line = where.rpartition(":")
    assert (file, Path(file).read_text("utf-8").splitlines()[int(line) - 1].strip()) == (__file__, "class Shop:")
    with pytest.raises(SignatureError, match=f"^<{__name__}>: Made: is not a service"):  # it has no source
        service_spec(type("Made", (), {}))


# Free functions and bound methods.


async def echo(text: str) -> str:
    return text


@handler("say.hello", timeout=1.0)
async def hello(text: str) -> str:
    return text


class Tool:
    async def run(self, count: int) -> int:
        return count

    @handler(timeout=3.0)
    async def stop(self) -> None: ...


def test_a_plain_function_can_be_described() -> None:
    spec = handler_spec(echo)
    assert (spec.name, spec.timeout_set, spec.function) == ("echo", False, echo)


def test_a_marked_function_keeps_its_options_under_another_name() -> None:
    assert (handler_spec(hello).name, handler_spec(hello).timeout) == ("say.hello", 1.0)
    assert (handler_spec(hello, "greet").name, handler_spec(hello, "greet").timeout) == ("greet", 1.0)


def test_a_bound_method_is_described_without_self_and_stays_bound() -> None:
    tool = Tool()
    spec = handler_spec(tool.run, "tool.run")
    assert spec.name == "tool.run"
    assert [item.name for item in spec.parameters] == ["count"]
    assert spec.function == tool.run
    assert (handler_spec(tool.stop).name, handler_spec(tool.stop).timeout) == ("stop", 3.0)


@pytest.mark.parametrize("thing", [Tool, 7, Tool()])
def test_something_else_is_no_handler(thing: object) -> None:
    with pytest.raises(SignatureError, match=r"is not a function; register a function or a bound method$"):
        handler_spec(thing)  # type: ignore[arg-type]


def test_a_bad_name_for_a_function_is_refused() -> None:
    with pytest.raises(SignatureError, match=r": echo: bad name 'a b'; write letters, digits and _ with single dots"):
        handler_spec(echo, "a b")
    with pytest.raises(SignatureError, match=r": echo: the name 'echostream.echo' is reserved; start with"):
        handler_spec(echo, "echostream.echo")


def test_callbacks_given_by_name_are_described() -> None:
    assert listener_spec(print, "*").event == "*"
    assert stream_spec(echo, "mic").name == "mic"

    async def nothing() -> None: ...

    with pytest.raises(
        SignatureError, match=r"takes no receiver; write nothing\(receiver\) or nothing\(receiver, ctx\)"
    ):
        stream_spec(nothing, "mic")
    with pytest.raises(SignatureError, match=r": bad name 'm c'; write"):
        stream_spec(echo, "m c")
