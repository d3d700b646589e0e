"""Values to msgpack and back: forms, limits, and what is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import itertools
import pathlib
import tracemalloc
import uuid
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.config import Limits
from echostream.errors import InvalidArgumentError, ResourceError
from echostream.protocol import payload
from echostream.protocol.payload import PayloadCodec, check_metadata, encode_name
from tests.protocol import page
from tests.protocol.strategies import deterministic, metadata, values

codec = PayloadCodec()
EMPTY_MAPS = b"\xdd" + (1_000_000).to_bytes(4, "big") + b"\x80" * 1_000_000


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


FORMS: dict[str, Callable[[str], Any]] = {
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "duration": lambda _: dt.timedelta(days=1, hours=1, minutes=1, seconds=1, milliseconds=500),
    "decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "enum": lambda _: Colour.RED,
    "set": lambda _: {1},
    "path": pathlib.PurePosixPath,
    "integer beyond 64 bits": int,
    "bytes within a value": bytes.fromhex,
}
"""How to make the value of a row of the page from its example."""


def refusal(data: bytes, by: PayloadCodec = codec) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        by.decode(data)
    return caught.value.message


def excess(data: bytes, by: PayloadCodec = codec) -> ResourceError:
    with pytest.raises(ResourceError) as caught:
        by.decode(data)
    return caught.value


# Forms


@pytest.mark.parametrize(("name", "example", "data"), [(row[0], row[2], row[3]) for row in page.rows("value")])
def test_the_forms_are_those_of_the_page(name: str, example: str, data: str) -> None:
    if name == "timestamp, received only":
        assert codec.decode(bytes.fromhex(data)) == dt.datetime.fromisoformat(example)
    else:
        assert codec.encode(FORMS[name](example)).hex() == data


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (dt.timedelta(0), "PT0S"),
        (-dt.timedelta(seconds=1, microseconds=10), "-PT1.00001S"),
        (dt.timedelta.max, "PT86399999999999.999999S"),
        (decimal.Decimal("NaN"), "NaN"),
        (-(1 << 63) - 1, "-9223372036854775809"),
        (frozenset({7}), [7]),
        (Level.HIGH, 3),
        ((1, (2,)), [1, [2]]),
        ({"at": [Colour.RED]}, {"at": ["red"]}),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ({1: 2, b"k": None}, {1: 2, b"k": None}),
        (1 << 63, 1 << 63),
        (float("inf"), float("inf")),
        (dt.datetime(2024, 5, 1, 12, 30, 0, 7), "2024-05-01T12:30:00.000007"),  # noqa: DTZ001 - naive on purpose
    ],
)
def test_a_value_travels_in_its_form(value: Any, form: Any) -> None:
    assert codec.decode(codec.encode(value)) == form


@deterministic
@given(values)
def test_decoding_gives_back_what_was_encoded(value: Any) -> None:
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "object cannot be serialised; use a pydantic model, a dataclass or plain values"),
        ([1, {"k": 1j}], "complex cannot be serialised; use a pydantic model, a dataclass or plain values"),
        ("\ud800", "value cannot be serialised: 'utf-8' codec can't encode character '\\ud800' in position 0"),
        (10**5000, "value cannot be serialised: Exceeds the limit (4300 digits) for integer string conversion"),
    ],
    ids=["object", "complex within", "lone surrogate", "enormous integer"],
)
def test_a_value_without_a_form_is_refused_and_the_codec_goes_on(value: Any, text: str) -> None:
    fresh = PayloadCodec()
    with pytest.raises(InvalidArgumentError) as caught:
        fresh.encode([b"some bytes", value])
    assert caught.value.message.startswith(text)
    assert fresh.encode(1) == b"\x01"


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(
        InvalidArgumentError, match="value cannot be serialised: it is nested too deeply, or contains itself"
    ):
        codec.encode(value)


# What is no payload


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "payload is not valid msgpack: Unpack failed: incomplete input"),
        (b"\x91", "payload is not valid msgpack: Unpack failed: incomplete input"),
        (b"\x01\x01", "payload is not valid msgpack: unpack(b) received extra data."),
        (b"\xc1", "payload is not valid msgpack: FormatError"),
        (b"\xa1\xff", "payload is not valid msgpack: 'utf-8' codec can't decode byte 0xff"),
        (b"\x81\x90\x01", "payload is not valid msgpack: a key of a map is a list or a map"),
        (b"\x81\x80\x01", "payload is not valid msgpack: a key of a map is a list or a map"),
        (b"\xd4\x05\x00", "extension type 5 is not allowed, only -1 (timestamp)"),
        (b"\xc7\x00\x7f", "extension type 127 is not allowed, only -1 (timestamp)"),
        (b"\xd4\xfe\x00", "extension type -2 is not allowed, only -1 (timestamp)"),
        (b"\xd4\xff\x00", "payload is not valid msgpack: invalid timestamp data (length 1)"),
        (b"\xd7\xff" + b"\xff" * 8, "payload is not valid msgpack: nanoseconds must be a non-negative integer"),
        (b"\xc7\x0c\xff" + bytes(4) + b"\x7f" + b"\xff" * 7, "payload is not valid msgpack: days="),
        (b"\xc7\x0c\xff" + bytes(4) + b"\x80" + bytes(7), "payload is not valid msgpack: days="),
        (b"\xdc\x00\x05\x01", "payload is not valid msgpack: 5 exceeds max_array_len(4)"),
    ],
    ids=lambda value: value[:6].hex() if isinstance(value, bytes) else "",
)
def test_what_is_not_one_whole_value_is_refused(data: bytes, text: str) -> None:
    assert refusal(data).startswith(text)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [("d6ff00000000", 0.0), ("d7ff773594000000000a", 10.5), ("c70cff00000000ffffffffffffffff", -1.0)],
    ids=["32 bits", "64 bits", "96 bits"],
)
def test_each_length_of_timestamp_is_read(data: str, seconds: float) -> None:
    assert codec.decode(bytes.fromhex(data)) == dt.datetime.fromtimestamp(seconds, dt.UTC)


@deterministic
@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    decode_or_refuse(data)


@deterministic
@given(values, st.data())
def test_a_mutated_payload_decodes_or_is_refused(value: Any, draw: st.DataObject) -> None:
    data = bytearray(codec.encode(value))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    decode_or_refuse(bytes(data[: draw.draw(st.integers(0, len(data)))]))


def decode_or_refuse(data: bytes) -> None:
    tight = PayloadCodec(Limits(max_payload_elements=5, max_payload_depth=2))
    for each in (codec, tight):
        try:
            value = each.decode(data)
        except (InvalidArgumentError, ResourceError) as error:
            assert error.message  # noqa: PT017 - either outcome is right
        else:
            assert each is codec or (elements(value) <= 5 and depth(value) <= 2)


def elements(value: Any) -> int:
    """Count as the limit does; of keys that came twice only one is left, so this may be less."""
    if isinstance(value, dict):
        return 1 + sum(elements(key) + elements(item) for key, item in value.items())
    return 1 + sum(map(elements, value)) if isinstance(value, list) else 1


def depth(value: Any) -> int:
    inner = itertools.chain(value, value.values()) if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) and value else 0


# Limits


@pytest.mark.parametrize(("most", "deepest"), [(8, 32), (8, 4), (200, 4)])
def test_elements_at_the_limit_pass_and_one_above_is_refused(most: int, deepest: int) -> None:
    limited = PayloadCodec(Limits(max_payload_elements=most, max_payload_depth=deepest))
    assert limited.decode(codec.encode([0] * (most - 1))) == [0] * (most - 1)
    error = excess(codec.encode([0] * most), by=limited)
    assert error.message == f"payload has more than {most} elements (max_payload_elements)"
    assert (error.current, error.limit) == (most + 1, most)


def test_keys_and_values_and_what_is_within_count_as_elements() -> None:
    limited = PayloadCodec(Limits(max_payload_elements=8, max_payload_depth=4))
    fits = {"a": [1, 2], "b": {"c": 0}}
    assert elements(fits) == 9
    assert excess(codec.encode(fits), by=limited).current == 9
    assert limited.decode(codec.encode({"a": [1, 2], "b": {}})) == {"a": [1, 2], "b": {}}


@pytest.mark.parametrize(
    "opener", [b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\xde\x00\x01\x01"]
)
def test_depth_at_the_limit_passes_and_one_above_is_refused(opener: bytes) -> None:
    assert depth(codec.decode(opener * 32 + b"\x01")) == 32
    error = excess(opener * 33 + b"\x01")
    assert error.message == "payload is nested deeper than 32 levels (max_payload_depth)"
    assert (error.current, error.limit) == (33, 32)


def test_the_deepest_limit_that_can_be_set_is_still_safe() -> None:
    deep = PayloadCodec(Limits(max_payload_depth=512))
    value = deep.decode(b"\x91" * 512 + b"\x01")
    for _ in range(512):
        [value] = value
    assert value == 1
    assert excess(b"\x91" * 100_000, by=deep).current == 513


@pytest.mark.parametrize(
    "data",
    [
        b"\xca" + bytes(4),
        b"\xc4\x02\x91\x91",
        b"\xc5\x00\x02\x91\x91",
        b"\xc6\x00\x00\x00\x02\x91\x91",
        b"\xa2\x1d\x1d",
        b"\xd9\x02\x1d\x1d",
        b"\xda\x00\x02\x1d\x1d",
        b"\xdb\x00\x00\x00\x02\x1d\x1d",
        b"\xcf" + bytes(8),
        b"\xe0",
        b"\xd6\xff" + bytes(4),
        b"\xc7\x0c\xff" + bytes(12),
    ],
    ids=lambda data: data[:1].hex(),
)
def test_bytes_within_a_value_are_not_taken_for_containers(data: bytes) -> None:
    limited = PayloadCodec(Limits(max_payload_elements=4, max_payload_depth=2))
    whole = b"\x93" + data * 3
    assert len(limited.decode(whole)) == 3
    assert excess(b"\x94" + data * 4, by=limited).limit == 4


def test_a_byte_that_msgpack_never_uses_is_refused_behind_the_count_too() -> None:
    assert refusal(b"\x93\xc1\xa2ab\xc1", PayloadCodec(Limits(max_payload_elements=4, max_payload_depth=2))) == (
        "payload is not valid msgpack: FormatError"
    )


def test_a_million_empty_maps_are_refused_at_the_price_of_their_bytes() -> None:
    assert len(msgpack.unpackb(EMPTY_MAPS)) == 1_000_000  # valid, and 73 MB of objects
    assert peak_bytes(EMPTY_MAPS) < 1 << 20


def test_containers_that_announce_more_than_comes_are_refused_before_room_is_made() -> None:
    assert peak_bytes((b"\xdd" + (400_000).to_bytes(4, "big")) * 30 + bytes(400_000)) < 1 << 20


def peak_bytes(data: bytes) -> int:
    """Return how much memory refusing a payload took."""
    tracemalloc.start()
    try:
        assert excess(data).limit == 100_000
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Metadata


@deterministic
@given(metadata.filter(bool))
def test_proper_metadata_pass(value: Any) -> None:
    check_metadata(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "metadata must be a map, got list"),
        ({"": ""}, "metadata key '' must be lower-case printable ASCII"),
        ({"A": ""}, "metadata key 'A' must be lower-case printable ASCII"),
        ({"\u00e9": ""}, "metadata key '\u00e9' must be lower-case printable ASCII"),
        ({"a\n": ""}, "metadata key 'a\\n' must be lower-case printable ASCII"),
        ({1: ""}, "metadata key 1 must be lower-case printable ASCII"),
        ({"a": b""}, "metadata value of 'a' must be str, got bytes; binary values have keys that end in -bin"),
        ({"a": 1}, "metadata value of 'a' must be str, got int; binary values have keys that end in -bin"),
        ({"a-bin": ""}, "metadata value of 'a-bin' must be bytes, got str"),
    ],
)
def test_improper_metadata_are_refused(value: Any, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_metadata(value)
    assert caught.value.message == text


def test_encoded_names_are_kept_while_they_are_few_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    monkeypatch.setattr(payload, "encoded_names", kept)
    assert [encode_name(name) for name in ("a", "a", "b" * 257)] == [b"a", b"a", b"b" * 257]
    for number in range(2000):
        encode_name(str(number))
    assert (len(kept), "b" * 257 in kept, kept["a"]) == (1024, False, b"a")


def test_a_refusal_of_metadata_repeats_little_of_the_key() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_metadata({"K\n" * 4000: "v"})
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
