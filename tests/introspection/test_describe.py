"""Tests for echostream.introspection.describe: all that is registered is described, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import jsonschema
import pytest

from echostream import RpcServer, event, handler, service
from echostream.introspection.describe import describe
from echostream.introspection.model import MethodDescription, ServiceDescription
from echostream.routing.router import Router
from echostream_derive import HandlerSpec, ListenerSpec, SignatureError, StreamSpec, marks_of, service_spec
from tests.introspection.examples import EXAMPLES, services_of, serving
from tests.introspection.shop import Shop, make_server


@pytest.fixture(scope="module")
def shop() -> list[ServiceDescription]:
    return make_server().describe()


@pytest.fixture(scope="module")
def methods(shop: list[ServiceDescription]) -> dict[str, MethodDescription]:
    return {method.name: method for item in shop for method in item.methods}


def test_services_come_in_their_order_and_the_nameless_one_last(shop: list[ServiceDescription]) -> None:
    assert [(item.name, item.version, item.doc) for item in shop] == [
        ("shop", "2.1.0", "Sells things.\n\nAll of them."),
        ("till", "1.0.0", ""),
        ("", "", ""),
    ]
    assert [[method.name for method in item.methods] for item in shop] == [
        ["shop.buy", "shop.watch", "shop.total", "shop.haggle", "shop.pay", "shop.odd"],
        ["till.empty"],
        ["ping"],
    ]


def test_a_method_tells_all_that_a_caller_must_know(methods: dict[str, MethodDescription]) -> None:
    buy = methods["shop.buy"]
    assert (buy.doc, buy.timeout, buy.requires, buy.safe) == ("Buy what is in the order.", 2.0, "shop:buy", False)
    assert buy.positional == ["order", "note"]
    assert list(buy.arguments["properties"]) == ["order", "note", "gift"]  # and no context
    assert buy.arguments["required"] == ["order"]
    assert buy.arguments["properties"]["gift"] == {"type": "boolean", "default": False}
    assert [(item.reason, item.code, item.doc) for item in buy.errors] == [
        ("shop.sold_out", "FAILED_PRECONDITION", "Nothing of it is left.")
    ]


def test_the_shape_and_the_items_of_a_method_are_told(methods: dict[str, MethodDescription]) -> None:
    shapes = {name: (item.sends_items, item.returns_items, item.input_item) for name, item in methods.items()}
    assert shapes["shop.buy"] == (False, False, None)
    assert shapes["shop.watch"] == (False, True, None)
    assert shapes["shop.total"] == (True, False, {"type": "number"})
    assert shapes["shop.haggle"] == (True, True, {"type": "number"})
    assert methods["shop.haggle"].positional == ["start"]


def test_a_schema_accepts_what_fits_and_refuses_what_does_not(methods: dict[str, MethodDescription]) -> None:
    checker = jsonschema.Draft202012Validator(methods["shop.buy"].arguments)
    assert checker.is_valid({"order": {"items": [{"name": "tea"}]}, "gift": True})
    assert not checker.is_valid({"order": {"items": [{"price": 1}]}})
    assert not checker.is_valid({"order": {"items": []}, "unknown": 1})
    answer = jsonschema.Draft202012Validator(methods["shop.buy"].result)
    assert answer.is_valid({"id": 1, "order": {"items": [{"name": "tea", "price": 1.0}], "when": None}})
    assert not answer.is_valid({"id": 1, "order": {"items": [{"name": "tea"}], "when": 1}})


def test_what_json_schema_has_no_words_for_is_left_open(methods: dict[str, MethodDescription]) -> None:
    properties = methods["shop.odd"].arguments["properties"]
    assert properties["what"] == {}  # an object() is no default that could be told
    assert properties["call"]["default"] is None


def test_events_are_those_listened_to_and_those_that_may_be_sent(shop: list[ServiceDescription]) -> None:
    events = [(item.name, event.name, event.direction, event.doc) for item in shop for event in item.events]
    assert events == [
        ("shop", "wish.made", "received", "Somebody wants something."),
        ("shop", "price.*", "received", "Keep up with the others."),
        ("shop", "price.changed", "sent", "A price is another one now."),
        ("shop", "shop.opened", "sent", ""),
        ("", "anything", "received", ""),
    ]
    payloads = {event.name: event.payload for item in shop for event in item.events}
    assert payloads["price.*"] is payloads["anything"] is None
    assert payloads["wish.made"] is not None
    assert payloads["wish.made"]["properties"]["name"]["type"] == "string"


@event("shop.closed")
@dataclass
class Closed:
    pass


@event("other.moved")
@dataclass
class Moved:
    to: str


def test_emits_says_which_events_are_sent_and_the_module_is_not_asked() -> None:
    @service("quiet", emits=[])
    class Quiet:
        @handler
        async def nothing(self) -> None: ...

    @service("loud", emits=[Moved])
    class Loud:
        pass

    router = Router()
    router.register(Quiet(), Loud())
    assert [[item.name for item in one.events] for one in describe(router)] == [[], ["other.moved"]]


@pytest.mark.parametrize("wrong", [int, "price.changed"])
def test_emits_takes_events_only(wrong: object) -> None:
    with pytest.raises(SignatureError, match=r"emits= lists .* which is no event; decorate it with @event"):
        service("loud", emits=[wrong])(type("Loud", (), {}))  # type: ignore[list-item]


def test_streams_stand_with_their_service(shop: list[ServiceDescription]) -> None:
    found = [(item.name, stream.name, stream.doc, stream.item) for item in shop for stream in item.streams]
    (name, stream, doc, item), bare = found
    assert (name, stream, doc) == ("shop", "catalogue", "Take in a whole catalogue.")
    assert item is not None
    assert item["title"] == "Item"
    assert bare == ("", "raw", "", {})


def test_a_plain_method_with_a_service_like_name_stands_under_that_name() -> None:
    server = RpcServer("memory://described")
    server.register(Shop().total, name="sums.total")
    assert [(item.name, [method.name for method in item.methods]) for item in server.describe()] == [
        ("sums", ["sums.total"]),
        ("", []),  # the events of its module
    ]


# Every example


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_description_of_every_example_is_complete(example: str) -> None:
    classes = services_of(example)
    described = serving(classes).describe()
    marks = [
        (service_spec(cls).name, mark) for cls in classes for name in dir(cls) for mark in marks_of(_get(cls, name))
    ]
    assert {item.name for one in described for item in one.methods} == {
        f"{service}.{mark.name}" for service, mark in marks if isinstance(mark, HandlerSpec)
    }
    assert {item.name for one in described for item in one.streams} == {
        mark.name for _, mark in marks if isinstance(mark, StreamSpec)
    }
    assert {item.name for one in described for item in one.events if item.direction == "received"} == {
        mark.event for _, mark in marks if isinstance(mark, ListenerSpec)
    }
    for method in [method for one in described for method in one.methods]:
        for schema in (method.arguments, method.input_item, method.result):
            jsonschema.Draft202012Validator.check_schema(schema or {})
        assert (method.input_item is not None) is method.sends_items
        assert method.result != {}


def test_the_examples_are_found() -> None:
    assert {"callback", "contract", "demo", "discovery", "echo", "file_transfer"} <= set(EXAMPLES)


def _get(cls: type, name: str) -> object:
    """The method of that name that carries the marks: the nearest along the MRO."""
    found = (vars(item)[name] for item in cls.__mro__ if name in vars(item))
    return next((item for item in found if marks_of(item)), None)
