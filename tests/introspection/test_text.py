"""Tests for echostream.introspection.text: types and signatures as Python writes them."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from echostream.binding import TypeCodec
from echostream.introspection.text import choices_of, fields_of, resolved, signature, type_text
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


def test_bounds_are_told_in_words() -> None:
    class Bounded(BaseModel):
        qty: Annotated[int, Field(gt=0, le=100)]
        step: Annotated[float, Field(ge=0.5, lt=2, multiple_of=0.5)]
        name: Annotated[str, Field(min_length=1, max_length=9, pattern="^a")] = "a"
        tags: Annotated[list[str] | None, Field(description="Marks")] = None
        pair: Annotated[list[int], Field(min_length=1, max_length=2)]
        off: Annotated[int, Field(ge=1)] | None

    assert fields_of(TypeCodec(Bounded).json_schema()) == [
        (
            "Bounded",
            [
                ("qty", "int", "above 0; at most 100"),
                ("step", "float", "at least 0.5; below 2; a multiple of 0.5"),
                ("name", "str", 'length at least 1; length at most 9; matches ^a; default "a"'),
                ("tags", "list[str] | None", "Marks; default null"),
                ("pair", "list[int]", "length at least 1; length at most 2"),
                ("off", "int | None", "at least 1"),
            ],
        )
    ]


def test_choices_are_told_by_name() -> None:
    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    schema = TypeCodec(list[Colour]).json_schema()
    assert (type_text(schema), choices_of(schema)) == ("list[Colour]", [("Colour", '"red" | "blue"')])
    assert choices_of(None) == []


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
