"""Tests for echostream.introspection.asyncapi: the document passes the official schema, and says what is served."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from echostream.introspection.asyncapi import asyncapi
from echostream.introspection.model import MethodDescription, ServiceDescription
from tests.introspection.examples import EXAMPLES, services_of, serving
from tests.introspection.shop import make_server

SCHEMA = Path(__file__).with_name("asyncapi") / "3.1.0.json.gz"


@pytest.fixture(scope="module")
def official() -> Any:
    return jsonschema.Draft7Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))


@pytest.fixture(scope="module")
def document() -> Any:
    return asyncapi(make_server().describe(), urls=["quic://127.0.0.1:4433"])


def faults(official: Any, document: Any) -> list[str]:
    """What the schema finds, and references that lead nowhere, which it cannot see."""
    found = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}"[:300] for error in official.iter_errors(document)
    ]
    return found + [f"leads nowhere: {path}" for path in _references(document) if not _leads_somewhere(document, path)]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [path for item in value.values() for path in _references(item)]
    return [path for item in value for path in _references(item)] if isinstance(value, list) else []


def _leads_somewhere(document: Any, path: str) -> bool:
    for key in path.removeprefix("#/").split("/"):
        if not isinstance(document, dict) or key not in document:
            return False
        document = document[key]
    return True


def test_the_document_passes_the_official_schema(official: Any, document: Any) -> None:
    assert faults(official, document) == []
    assert json.loads(json.dumps(document)) == document


def test_a_wrong_document_is_seen(official: Any, document: Any) -> None:
    assert faults(official, {**document, "asyncapi": "3.2.0"})
    wrong = {**document, "operations": {"x": {"action": "take", "channel": {"$ref": "#/channels/nowhere"}}}}
    assert "leads nowhere: #/channels/nowhere" in faults(official, wrong)
    assert len(faults(official, wrong)) > 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_document_of_every_example_passes(official: Any, example: str) -> None:
    assert faults(official, asyncapi(serving(services_of(example)).describe())) == []


def test_an_empty_server_has_a_document(official: Any) -> None:
    assert faults(official, asyncapi([])) == []


def test_it_names_itself_after_its_services(document: Any) -> None:
    assert (document["asyncapi"], document["defaultContentType"]) == ("3.1.0", "application/msgpack")
    assert (document["info"]["title"], document["info"]["version"]) == ("shop, till", "2.1.0")
    assert document["servers"]["server1"]["host"] == "127.0.0.1:4433"
    named = asyncapi([], title="Shop", version="3.0.0")
    assert (named["info"]["title"], named["info"]["version"]) == ("Shop", "3.0.0")


def test_a_method_is_received_and_replied_to_on_its_channel(document: Any) -> None:
    assert document["channels"]["shop.buy"]["address"] == "shop.buy"
    buy = document["operations"]["shop.buy"]
    assert (buy["action"], buy["description"]) == ("receive", "Buy what is in the order.")
    assert [item["$ref"].rpartition("/")[2] for item in buy["messages"]] == ["request"]
    assert [item["$ref"].rpartition("/")[2] for item in buy["reply"]["messages"]] == ["response", "error"]
    assert buy["x-echostream-requires"] == "shop:buy"
    assert buy["x-echostream-errors"] == [{"reason": "shop.sold_out", "status": "FAILED_PRECONDITION"}]
    request = document["channels"]["shop.buy"]["messages"]["request"]
    assert request["correlationId"] == {"location": "$message.header#/id"}
    assert request["payload"]["properties"]["order"] == {"$ref": "#/components/schemas/Order"}


def test_streaming_methods_say_which_side_streams(document: Any) -> None:
    shapes = {name: item.get("x-echostream-stream") for name, item in document["operations"].items()}
    assert [shapes[f"shop.{name}"] for name in ("buy", "watch", "total", "haggle")] == [
        None,
        "server",
        "client",
        "bidi",
    ]
    assert set(document["channels"]["shop.haggle"]["messages"]) == {"request", "input", "item", "error"}


def test_events_are_received_or_sent(document: Any) -> None:
    events = {name: item["action"] for name, item in document["operations"].items() if "event-" in name}
    assert events == {
        "on-event-wish.made": "receive",
        "on-event-price.any": "receive",
        "emit-event-price.changed": "send",
        "emit-event-shop.opened": "send",
        "on-event-anything": "receive",
    }
    assert document["channels"]["event-price.any"]["address"] == "price.*"


def test_types_of_one_name_that_differ_stay_apart() -> None:
    def method(name: str, kind: str) -> MethodDescription:
        body = {"type": "object", "properties": {"x": {"type": kind}}}
        arguments = {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": body}}
        return MethodDescription(name=name, arguments=arguments, result={})

    made = asyncapi(
        [ServiceDescription(name="s", methods=[method("a", "string"), method("b", "null"), method("c", "null")])]
    )
    kinds = {
        name: made["channels"][name]["messages"]["request"]["payload"]["properties"]["p"]["$ref"]
        for name in ("a", "b", "c")
    }
    assert kinds == {"a": "#/components/schemas/P", "b": "#/components/schemas/P_2", "c": "#/components/schemas/P_2"}
    assert made["components"]["schemas"]["P_2"]["properties"] == {"x": {"type": "null"}}
