"""Faults carry pointers that lead through the value as it came, never names of branches or validators."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag
from typing_extensions import TypeAliasType

from echostream.binding import TypeCodec
from echostream.errors import InvalidArgumentError


class Pair(NamedTuple):
    left: int
    right: int


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


def kind_of(value: Any) -> str:
    return "cat" if "lives" in value else "dog"


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Told = Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(kind_of)]
Count = TypeAliasType("Count", int)
Tree = TypeAliasType("Tree", "dict[str, Tree] | int")


def refuse(value: int) -> int:
    raise ValueError("never")


@pytest.mark.parametrize(
    ("annotation", "wire", "expected"),
    [
        (bytes | str, 7, [("", "input should be a valid bytes"), ("", "input should be a valid string")]),
        (
            dict[str, int | bool],
            {"a": "x"},
            [
                ("/a", "input should be a valid integer, unable to parse string as an integer"),
                ("/a", "input should be a valid boolean, unable to interpret input"),
            ],
        ),
        (Pet, {"kind": "cat", "lives": "x"}, ["/lives"]),
        (Pet, {"kind": "cow"}, [""]),
        (Told, {"kind": "cat", "lives": "x"}, ["/lives"]),
        (dict[int, int], {"a": 1}, ["/a"]),
        (dict[str, list[int]], {"a/b": [1, "x"], "c~d": "y"}, ["/a~1b/1", "/c~0d"]),
        (Pair, [1, "x"], ["/1"]),
        (list[Cat], [{"kind": "cat"}], ["/0/lives"]),
        (Annotated[int, AfterValidator(refuse)], 1, [("", "value error, never")]),
        (set[int], ["x"], ["/0"]),
    ],
)
def test_a_pointer_leads_to_the_fault(annotation: Any, wire: object, expected: list[Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TypeCodec(annotation).validate(wire)
    found = caught.value.violations
    assert found == expected or [field for field, _ in found] == expected


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Told, {"kind": "cat", "lives": 9}, {"kind": "cat", "lives": "9"}),
        (dict[str, tuple[Count, list[Count]]], {"a": [1, [2]]}, {"a": [1, ["2"]]}),
        (Annotated[int, Tag("number")] | Annotated[None, Tag("nothing")], 1, "1"),
        (Tree, {"a": {"b": 1}}, {"a": {"b": "1"}}),
    ],
)
def test_strictness_reaches_tagged_unions_and_named_types(annotation: Any, good: object, bad: object) -> None:
    assert TypeCodec(annotation).validate(bad) == TypeCodec(annotation, strict=True).validate(good)
    with pytest.raises(InvalidArgumentError, match="input should be a valid integer"):
        TypeCodec(annotation, strict=True).validate(bad)
