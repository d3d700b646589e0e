"""Tests for echostream.introspection.text: types and signatures as Python writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import Field

from echostream.binding import TypeCodec
from echostream.introspection.text import fields_of, resolved, signature, type_text
from tests.introspection.shop import Card, Cash, Item, Order, make_server


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (bytes, "bytes"),
        (None, "None"),
        (Any, "Any"),
        (datetime, "datetime"),
        (UUID, "UUID"),
        (str | None, "str | None"),
        (list[Order], "list[Order]"),
        (set[int], "set[int]"),
        (dict[str, list[float]], "dict[str, list[float]]"),
        (tuple[int, str], "tuple[int, str]"),
        (Literal["a", 1], '"a" | 1'),
        (Literal["a"], '"a"'),
        (Annotated[Card | Cash, Field(discriminator="kind")], "Card | Cash"),
        (Item, "Item"),
    ],
)
def test_a_schema_reads_as_the_type_that_it_came_from(annotation: object, text: str) -> None:
    assert type_text(TypeCodec(annotation).json_schema()) == text


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": ["string", "null"]}, "str | None"),
        ({"type": "object"}, "dict[str, Any]"),
        (True, "Any"),
        (None, "Any"),
    ],
)
def test_schemas_of_others_are_read_too(schema: object, text: str) -> None:
    assert type_text(schema) == text


def test_a_type_without_end_is_cut() -> None:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    assert type_text(schema) == "list[" * 9 + "Any" + "]" * 9


def test_signatures() -> None:
    shown = [signature(method) for item in make_server().describe() for method in item.methods]
    assert shown == [
        'buy(order: Order, note: str = "", *, gift: bool = false) -> Receipt',
        "watch(name: str) -> stream of PriceChanged",
        "total(items: stream of float) -> float",
        "haggle(start: float, items: stream of float) -> stream of float",
        "pay(how: Card | Cash) -> dict[str, tuple[int, str]]",
        "odd(what: Any = ..., call: Any | None = null) -> None",
        "empty() -> bytes",
        "ping() -> str",
    ]


def test_the_fields_of_every_object_inside_are_listed() -> None:
    assert fields_of(TypeCodec(Order).json_schema()) == [
        ("Order", [("items", "list[Item]", ""), ("when", "datetime | None", "default null")]),
        ("Item", [("name", "str", ""), ("price", "float", "in euros; default 1.0")]),
    ]
    assert fields_of(TypeCodec(int).json_schema()) == fields_of(None) == []


def test_a_reference_is_followed_within_its_whole() -> None:
    whole = {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"type": "string"}, "Loop": {"$ref": "#/$defs/Loop"}}}
    assert resolved({"$ref": "#/$defs/A"}, whole) == {"type": "string"}
    assert resolved({"$ref": "#/$defs/Loop"}, whole) == {"$ref": "#/$defs/Loop"}
    assert resolved({"$ref": "#/$defs/Nothing"}, whole) == {"$ref": "#/$defs/Nothing"}
