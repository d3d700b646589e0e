"""Every supported type goes through the real payload encoder and comes back equal; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import pathlib
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar

import pydantic
import pytest
from pydantic import AfterValidator, AnyUrl, BaseModel, ConfigDict, Field, field_serializer, field_validator
from typing_extensions import TypedDict

from echostream.binding import TypeCodec, codec_for, dump_any
from echostream.errors import InvalidArgumentError, RpcError, Status
from echostream.protocol.payload import PayloadCodec
from echostream_derive import SignatureError

T = TypeVar("T")
PAYLOAD = PayloadCodec()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Order(BaseModel):
    symbol: str
    qty: int


class Basket(BaseModel):
    when: dt.datetime
    orders: list[Order]
    tags: set[str] = set()
    color: Color | None = None


class Renamed(BaseModel):
    order_id: int = Field(alias="orderId")


class Node(BaseModel):
    value: int
    next: Node | None = None


class Page(BaseModel, Generic[T]):
    items: list[T]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: dt.datetime
    count: int


class Outer(BaseModel):
    inner: Strict


@dataclasses.dataclass
class Point:
    x: int
    at: dt.date


@pydantic.dataclasses.dataclass
class Checked:
    x: Annotated[int, Field(gt=0)]


class Shape(TypedDict):
    kind: str
    at: dt.time


class Pair(NamedTuple):
    left: int
    right: Decimal


ORDER = Order(symbol="ACME", qty=5)
MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=dt.UTC)

VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, 7),
    (int, 2**80),
    (int, -(2**70)),
    (float, 1.5),
    (float, 3),
    (str, "naïve ☃"),
    (bytes, b"\x00\xff"),
    (bytes | str, b"raw"),
    (bytes | str, "text"),
    (int | str, "7"),
    (Optional[int], None),  # noqa: UP045 - the old spelling too
    (Any, {"a": [1, "x", None]}),
    (dt.datetime, MOMENT),
    (dt.datetime, dt.datetime(2024, 1, 1)),  # noqa: DTZ001 - without a zone it stays without
    (dt.date, dt.date(2024, 2, 29)),
    (dt.time, dt.time(23, 59, 1)),
    (dt.timedelta, dt.timedelta(days=-3, microseconds=1)),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Color, Color.BLUE),
    (Level, Level.LOW),
    (Literal["a", 1], 1),
    (list[int], [1, 2]),
    (dict[str, dt.date], {"a": dt.date(2024, 1, 1)}),
    (dict[int, str], {1: "x"}),
    (dict[uuid.UUID, int], {uuid.UUID(int=1): 1}),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "x")),
    (tuple[int, ...], (1, 2, 3)),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("/srv/x")),
    (AnyUrl, AnyUrl("https://example.com/")),
    (list[AnyUrl | None], [AnyUrl("https://example.com/"), None]),
    (dict[str, AnyUrl], {"a": AnyUrl("https://example.com/")}),
    (Order, ORDER),
    (list[Order], [ORDER]),
    (dict[str, Order], {"a": ORDER}),
    (Order | None, ORDER),
    (Basket, Basket(when=MOMENT, orders=[ORDER], tags={"x"}, color=Color.RED)),
    (Renamed, Renamed(orderId=3)),
    (Node, Node(value=1, next=Node(value=2))),
    (Page[Order], Page[Order](items=[ORDER])),
    (Strict, Strict(when=MOMENT, count=1)),
    (Outer, Outer(inner=Strict(when=MOMENT, count=1))),
    (Point, Point(1, dt.date(2024, 1, 1))),
    (Checked, Checked(1)),
    (Shape, {"kind": "round", "at": dt.time(1, 2)}),
    (Pair, Pair(1, Decimal("2.5"))),
    (Annotated[int, Field(gt=0)], 5),
]


def wire(value: object) -> Any:
    """Return what the other side decodes for a wire value."""
    return PAYLOAD.decode(PAYLOAD.encode(value))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda item: str(item)[:40])
def test_a_value_comes_back_equal_and_of_its_type(annotation: Any, value: Any, strict: bool) -> None:
    codec = TypeCodec(annotation, strict=strict)
    found = codec.validate(wire(codec.dump(value)))
    assert found == value
    assert isinstance(found, float if annotation is float else type(value))


# Lax and strict.


@pytest.mark.parametrize(
    ("annotation", "given", "lax"),
    [(int, "5", 5), (int, 5.0, 5), (float, "1.5", 1.5), (bool, 1, True), (bytes, "x", b"x"), (str, b"x", "x")],
)
def test_lax_converts_what_strict_refuses(annotation: type, given: object, lax: object) -> None:
    assert TypeCodec(annotation).validate(given) == lax
    with pytest.raises(InvalidArgumentError, match=r"^INVALID_ARGUMENT: invalid value: /: input should be "):
        TypeCodec(annotation, strict=True).validate(given)


def test_strict_reaches_into_models_containers_unions_and_recursion() -> None:
    class Holder(BaseModel):
        order: Order
        either: Annotated[int, Field(gt=0)] | None = None

    for annotation, given, path in [
        (Holder, {"order": {"symbol": "a", "qty": "5"}}, "/order/qty"),
        (Holder, {"order": {"symbol": "a", "qty": 5}, "either": "1"}, "/either"),
        (dict[str, list[Order]], {"a": [{"symbol": "a", "qty": "5"}]}, "/a/0/qty"),
        (Node, {"value": 1, "next": {"value": "2"}}, "/next/value"),
        (tuple[int, str], ["1", "x"], "/0"),
        (Point, {"x": "1", "at": "2024-01-01"}, "/x"),
    ]:
        codec: TypeCodec = TypeCodec(annotation, strict=True)
        with pytest.raises(InvalidArgumentError) as caught:
            codec.validate(given)
        assert [field for field, _ in caught.value.violations] == [path]


@pytest.mark.parametrize(
    "text", ["9223372036854775807", "12", "-9223372036854775808", "1" * 5000, "1e30", " " * 20, "٣" * 19 + "x"]
)
def test_strict_takes_text_for_an_integer_only_beyond_64_bits(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="input should be a valid integer"):
        TypeCodec(int, strict=True).validate(text)


def test_strictness_of_a_model_stops_at_what_travels_as_itself() -> None:
    codec = TypeCodec(Outer)
    assert codec.validate({"inner": {"when": MOMENT.isoformat(), "count": 1}}).inner.when == MOMENT
    with pytest.raises(InvalidArgumentError, match="/inner/count: input should be a valid integer"):
        codec.validate({"inner": {"when": MOMENT.isoformat(), "count": "1"}})


# Names outside.


def test_an_alias_is_written_and_both_names_are_read() -> None:
    codec = TypeCodec(Renamed)
    assert codec.dump(Renamed(orderId=3)) == {"orderId": 3}
    assert codec.validate({"orderId": 3}) == codec.validate({"order_id": 3}) == Renamed(orderId=3)


# Short cuts give what pydantic gives.


class Cached(BaseModel):
    a: int

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.a


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Computed(BaseModel):
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def b(self) -> int:
        return self.a + 1


class Serialised(BaseModel):
    a: int

    @field_serializer("a")
    def _a(self, value: int) -> str:
        return f"<{value}>"


class Whole(BaseModel):
    a: int

    @pydantic.model_serializer
    def _all(self) -> list[int]:
        return [self.a]


class Hidden(BaseModel):
    a: int
    b: int = Field(default=0, exclude=True)


class Root(pydantic.RootModel[int]):
    pass


class Flat(BaseModel):
    a: int
    b: str | None = None
    c: float = 0.5


class FlatChild(Flat):
    d: int = 4


def test_a_cached_property_stays_at_home() -> None:
    value = Cached(a=1)
    assert TypeCodec(Cached).dump(value) == {"a": 1}
    assert value.double == 2
    assert TypeCodec(Cached).dump(value) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Extra.model_validate({"a": 1, "b": 2}), {"a": 1, "b": 2}),
        (Computed(a=1), {"a": 1, "b": 2}),
        (Serialised(a=1), {"a": "<1>"}),
        (Whole(a=1), [1]),
        (Hidden(a=1, b=2), {"a": 1}),
        (Root(7), 7),
        (Flat(a=1), {"a": 1, "b": None, "c": 0.5}),
    ],
)
def test_a_model_is_written_as_pydantic_writes_it(value: BaseModel, expected: object) -> None:
    assert TypeCodec(type(value)).dump(value) == expected == value.model_dump()


def test_a_subclass_is_written_as_what_was_declared() -> None:
    assert TypeCodec(Flat).dump(FlatChild(a=1)) == {"a": 1, "b": None, "c": 0.5}


def test_a_flat_model_is_not_shared_with_its_wire_value() -> None:
    value = Flat(a=1)
    TypeCodec(Flat).dump(value)["a"] = 9
    assert value.a == 1


@pytest.mark.parametrize("annotation", [int, float, bool, str, bytes, type(None)])
def test_exact_primitives_need_no_validator(annotation: type) -> None:
    assert TypeCodec(annotation).primitive is annotation


@pytest.mark.parametrize("annotation", [Annotated[int, Field(gt=0)], list[int], Order, int | str, Any])
def test_everything_else_needs_one(annotation: Any) -> None:
    assert TypeCodec(annotation).primitive is None


# What is said is checked, not changed.


def test_a_value_of_the_wrong_type_is_not_sent() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        TypeCodec(list[Order]).dump([ORDER, {"symbol": "x", "qty": "many"}], what="orders.place")
    assert caught.value.operation == "orders.place"
    assert caught.value.violations == [
        ("/1/qty", "input should be a valid integer, unable to parse string as an integer")
    ]


def test_a_validator_does_not_run_twice_over_a_value() -> None:
    doubled: Any = Annotated[int, AfterValidator(lambda value: 2 * value)]
    codec = TypeCodec(doubled)
    assert codec.validate(wire(codec.dump(4))) == 8


def test_a_serialiser_that_fails_is_told() -> None:
    class Broken(BaseModel):
        a: int

        @field_serializer("a")
        def _a(self, value: int) -> int:
            raise ValueError("no")

    for dump in (TypeCodec(Broken).dump, dump_any):
        with pytest.raises(InvalidArgumentError, match=r"invalid value: /: cannot be serialised: .*no"):
            dump(Broken(a=1))


# Replies.


def test_a_reply_is_read_or_the_contract_is_broken() -> None:
    assert TypeCodec(int).reply_reader("orders.place")(1) == 1
    assert TypeCodec(Order).reply_reader("x")({"symbol": "a", "qty": 1}) == Order(symbol="a", qty=1)
    with pytest.raises(RpcError) as caught:
        TypeCodec(Order).reply_reader("orders.place")({"symbol": "a"})
    assert caught.value.code is Status.INTERNAL
    assert str(caught.value) == (
        "orders.place: INTERNAL: the reply does not fit the type it is read as: /qty: field required;"
        " are both programs up to date?"
    )
    assert caught.value.details == {"field_violations": [{"field": "/qty", "description": "field required"}]}


# Types that cannot be.


class Opaque:
    pass


class Later(BaseModel):
    other: "Missing"  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Opaque, r"^Opaque cannot be validated \(Unable to generate pydantic-core schema for .*Opaque'>"),
        (Callable[[Opaque], Opaque] | Opaque, r"Opaque cannot be validated \(Unable to"),
        (Later, r"^Later cannot be validated \(.*Missing"),
        (list["Missing"], r"Missing'\] cannot be validated \("),  # type: ignore[name-defined]  # noqa: F821
    ],
)
def test_a_type_that_cannot_be_validated_is_refused(annotation: Any, text: str) -> None:
    with pytest.raises(SignatureError, match=text) as caught:
        TypeCodec(annotation)
    assert str(caught.value).endswith("; use a model, a dataclass or a builtin type")


def test_a_model_that_builds_late_is_built() -> None:
    class Deferred(BaseModel):
        model_config = ConfigDict(defer_build=True)
        a: int

    assert TypeCodec(Deferred).validate({"a": 1}) == Deferred(a=1)
    assert TypeCodec(Deferred, strict=True).dump(Deferred(a=1)) == {"a": 1}


# The cache.


def test_a_codec_is_made_once() -> None:
    assert codec_for(Order) is codec_for(Order)
    assert codec_for(list[Order]) is codec_for(list[Order])


def test_the_order_of_a_union_makes_another_codec() -> None:
    assert codec_for(dt.date | dt.datetime) is not codec_for(dt.datetime | dt.date)


def test_metadata_that_cannot_be_hashed_is_no_obstacle() -> None:
    odd: Any = Annotated[int, Field(gt=0), ["unhashable"]]
    assert codec_for(odd).validate(1) == 1


def test_a_bad_type_is_refused_by_the_cache_too() -> None:
    with pytest.raises(SignatureError):
        codec_for(list[Opaque])


# Values of unknown type.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        ({"a": [ORDER]}, {"a": [{"symbol": "ACME", "qty": 5}]}),
        (Renamed(orderId=3), {"orderId": 3}),
        (Point(1, dt.date(2024, 1, 1)), {"x": 1, "at": dt.date(2024, 1, 1)}),
        ((1, {2}), (1, {2})),
        (MOMENT, MOMENT),
    ],
)
def test_a_value_of_unknown_type_becomes_plain(value: object, expected: object) -> None:
    assert dump_any(value) == expected


def test_a_codec_shows_its_type() -> None:
    assert repr(TypeCodec(Order)) == "<TypeCodec Order>"
    assert repr(TypeCodec(list[int], strict=True)) == "<TypeCodec list[int] strict>"


def test_the_json_schema_has_the_names_of_the_wire() -> None:
    assert TypeCodec(Renamed).json_schema()["properties"] == {"orderId": {"title": "Orderid", "type": "integer"}}


def test_a_field_validator_sees_the_value_of_the_wire() -> None:
    class Trimmed(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _trim(cls, value: str) -> str:
            if not value.strip():
                raise ValueError("name is empty")
            return value.strip()

    codec = TypeCodec(Trimmed)
    assert codec.validate({"name": " a "}).name == "a"
    with pytest.raises(InvalidArgumentError, match=r"/name: value error, name is empty"):
        codec.validate({"name": " "})
