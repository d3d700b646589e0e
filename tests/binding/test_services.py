"""Whole classes: names on the wire, generic bases, listeners, streams and events."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel

from echostream.binding import EventBinding, bind_event, bind_listener, bind_service, bind_stream
from echostream.errors import InvalidArgumentError
from echostream_derive import (
    SignatureError,
    event,
    handler,
    listener,
    listener_spec,
    service,
    service_spec,
    stream,
    stream_spec,
)

T = TypeVar("T")
K = TypeVar("K")
ItemT = TypeVar("ItemT")


class StreamReceiver(Generic[ItemT]):
    pass


class Order(BaseModel):
    symbol: str


class Page(BaseModel, Generic[T]):
    items: list[T]


@event("price.changed")
class PriceChanged(BaseModel):
    price: float


@event("opaque")
class Opaque:
    pass


class Crud(Generic[K, T]):
    @handler
    async def get(self, key: K) -> T | None:
        return None

    @handler
    async def put(self, item: Annotated[T, "note"], others: list[T] | None = None) -> dict[K, T]:
        return {}

    @handler
    async def page(self, number: int) -> Page[T]:
        return Page(items=[])

    @handler
    async def count(self, kinds: list[Literal["a", "b"]]) -> int:
        return len(kinds)


class Listed(Crud[int, list[T]], Generic[T]):
    @handler
    async def first(self) -> T:
        raise NotImplementedError


@service("orders")
class Orders(Crud[int, Order]):
    pass


@service("lists")
class Lists(Listed[Order]):
    pass


@service("bare", version="2.0.0")
class Bare(Crud):  # type: ignore[type-arg]
    @listener(PriceChanged)
    async def on_class(self, payload: Any) -> None: ...

    @listener("price.changed")
    def on_known_name(self, payload: PriceChanged) -> None: ...

    @listener("price.*")
    def on_pattern(self, payload: PriceChanged) -> None: ...

    @listener("other")
    def on_other(self, payload: OnlyForCheckers) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @stream("typed")
    async def on_typed(self, receiver: StreamReceiver[Order]) -> None: ...

    @stream("bytes")
    async def on_bytes(self, receiver: StreamReceiver, ctx: object) -> None: ...  # type: ignore[type-arg]


def types_of(cls: type, attribute: str) -> tuple[Any, ...]:
    binding = bind_service(cls).by_attribute[attribute]
    return (*(item.codec.annotation for item in binding._arguments._positional), binding.output_codec.annotation)


def test_methods_have_their_names_on_the_wire() -> None:
    binding = bind_service(Orders)
    assert (binding.name, binding.version, binding.spec.cls) == ("orders", "1.0.0", Orders)
    assert list(binding.methods) == ["orders.get", "orders.put", "orders.page", "orders.count"]
    assert binding.by_attribute["get"] is binding.methods["orders.get"]


def test_type_variables_are_what_the_subclass_says() -> None:
    assert types_of(Orders, "get") == (int, Order | None)
    assert types_of(Orders, "put") == (Annotated[Order, "note"], list[Order] | None, dict[int, Order])
    assert types_of(Orders, "page") == (int, Page[Order])
    assert types_of(Orders, "count") == (list[Literal["a", "b"]], int)


def test_each_class_of_the_chain_has_its_own_variables() -> None:
    assert types_of(Lists, "get") == (int, list[Order] | None)
    assert types_of(Lists, "first") == (Order,)


def test_a_variable_that_nobody_fills_takes_anything() -> None:
    assert bind_service(Bare).by_attribute["get"].decode_arguments([{"a": 1}], {}) == ([{"a": 1}], {})


def test_a_class_is_compiled_once_and_a_description_each_time() -> None:
    assert bind_service(Orders) is bind_service(Orders)
    assert bind_service(service_spec(Orders)).methods.keys() == bind_service(Orders).methods.keys()


def test_a_strict_service_is_strict_everywhere() -> None:
    @service("strict", strict=True)
    class Strict:
        @handler
        async def add(self, a: int) -> int:
            return a

    with pytest.raises(InvalidArgumentError, match="/a: input should be a valid integer"):
        bind_service(Strict).methods["strict.add"].decode_arguments(["1"], {})


def test_a_service_with_a_bad_type_is_refused() -> None:
    @service("bad")
    class Bad:
        @handler
        async def put(self, thing: Opaque) -> None: ...

    line = Bad.put.__code__.co_firstlineno
    with pytest.raises(SignatureError) as caught:
        bind_service(Bad)
    assert str(caught.value).startswith(f"{__file__}:{line}: bad.put: parameter 'thing': Opaque cannot be validated")


def test_a_class_that_is_no_service_is_refused() -> None:
    with pytest.raises(SignatureError, match="Order: is not a service; decorate it with @service"):
        bind_service(Order)


# Listeners and streams.


def test_a_listener_gets_the_model_by_class_or_known_name() -> None:
    found = {item.spec.attribute: item.event for item in bind_service(Bare).listeners}
    assert found["on_class"] is found["on_known_name"] is bind_event(PriceChanged)
    assert found["on_pattern"] is None
    assert found["on_other"] is None


def test_a_stream_has_the_type_of_its_items_where_it_is_said() -> None:
    typed, raw = bind_service(Bare).streams
    assert typed.item is not None
    assert typed.item.validate({"symbol": "A"}) == Order(symbol="A")
    assert (raw.item, raw.spec.accepts_context) == (None, True)


@pytest.mark.parametrize(("declared", "shown"), [(bytes, "bytes"), (list[int], "list"), (Order, "Order")])
def test_an_item_in_the_place_of_the_receiver_is_refused(declared: Any, shown: str) -> None:
    async def on_stream(data: Any) -> None: ...

    on_stream.__annotations__["data"] = declared
    with pytest.raises(SignatureError) as caught:
        bind_stream(stream_spec(on_stream, "mic"))
    told = f"a stream's items come one by one; write StreamReceiver[{shown}] instead of {shown}, and iterate over it"
    assert str(caught.value).endswith(f"on_stream: {told}")


@pytest.mark.parametrize("declared", [Any, object, StreamReceiver, StreamReceiver[bytes], AsyncIterator[bytes]])
def test_what_may_be_a_receiver_is_taken_for_one(declared: Any) -> None:
    async def on_stream(receiver: Any) -> None: ...

    on_stream.__annotations__["receiver"] = declared
    assert bind_stream(stream_spec(on_stream, "mic")).spec.name == "mic"


def test_callbacks_are_compiled_alone_too() -> None:
    def callback(payload: object) -> None: ...
    async def on_stream(receiver: StreamReceiver[Opaque]) -> None: ...

    assert bind_listener(listener_spec(callback, PriceChanged)).event is bind_event(PriceChanged)
    assert bind_listener(listener_spec(print, "price.changed")).event is None
    with pytest.raises(SignatureError) as caught:
        bind_stream(stream_spec(on_stream, "mic"), owner=None)
    assert "on_stream: the items: Opaque cannot be validated" in str(caught.value)


# Events.


@event("moved")
@dataclasses.dataclass
class Moved:
    at: dt.date


def test_an_event_goes_out_and_comes_back() -> None:
    binding = bind_event(PriceChanged)
    assert isinstance(binding, EventBinding)
    assert (binding.name, binding.cls) == ("price.changed", PriceChanged)
    assert binding.encode(PriceChanged(price=1.5)) == {"price": 1.5}
    assert binding.decode({"price": 1.5}) == PriceChanged(price=1.5)
    assert bind_event(Moved).decode({"at": "2024-01-02"}) == Moved(dt.date(2024, 1, 2))
    assert repr(binding) == "<EventBinding price.changed PriceChanged>"


def test_an_event_that_does_not_fit_is_refused_both_ways() -> None:
    binding = bind_event(PriceChanged)
    with pytest.raises(
        InvalidArgumentError, match=r"^price.changed: INVALID_ARGUMENT: invalid price.changed: /price: "
    ):
        binding.decode({"price": "high"})
    with pytest.raises(InvalidArgumentError, match=r"invalid price.changed: /: input should be a valid dictionary or"):
        binding.encode(7)


def test_a_class_that_is_no_event_is_refused() -> None:
    class Special(PriceChanged):
        pass

    with pytest.raises(SignatureError) as caught:
        bind_event(Special)
    label = "Special"
    assert str(caught.value) == f'<{__name__}>: {label}: is not an event; decorate it with @event("...")'


def test_an_event_that_cannot_be_validated_is_refused_where_it_stands() -> None:
    with pytest.raises(SignatureError) as caught:
        bind_event(Opaque)
    assert str(caught.value).startswith(f"{__file__}:")
    assert ": Opaque: Opaque cannot be validated (Unable to generate" in str(caught.value)
