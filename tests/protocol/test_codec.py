"""Frames to bytes and back, by the vectors of docs/reference/protocol.md and by whatever hypothesis finds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.config import Limits
from echostream.errors import CloseCode, InvalidArgumentError, RemoteProtocolError, ResourceError
from echostream.protocol import frames as f
from echostream.protocol.codec import HEADER_BYTES, FrameCodec
from echostream.protocol.decoders import DECODERS
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.reader import FrameReader
from tests.protocol import page
from tests.protocol.strategies import deterministic, frames

SMALL = Limits(max_payload_bytes=1024, max_metadata_bytes=64)
FRAME_CLASSES = {kind: getattr(f, f"{kind.name.title().replace('_', '')}Frame") for kind in f.FrameKind}

payloads = PayloadCodec()
codec = FrameCodec(payloads)
small = FrameCodec(PayloadCodec(SMALL), SMALL)


def titles(found: list[page.Vector]) -> list[Any]:
    assert found
    return [pytest.param(vector, id=vector.title) for vector in found]


def frame_of(says: dict[str, Any]) -> f.Frame:
    """Build the frame that a vector describes."""
    fields = {name: value for name, value in says.items() if name not in ("frame", "encodes_as")}
    if "raw" in fields:
        fields |= {"payload": bytes.fromhex(fields["raw"]), "raw": True}
    elif "payload" in fields:
        fields["payload"] = payloads.encode(fields["payload"])
    for name in ("metadata", "initial"):
        if name in fields:
            fields[name] = {
                key: bytes.fromhex(value) if key.endswith("-bin") else value for key, value in fields[name].items()
            }
    frame: f.Frame = FRAME_CLASSES[f.FrameKind[says["frame"]]](**fields)
    return frame


def refusal(data: bytes, by: FrameCodec = codec) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        FrameReader(by).feed(data)
    return caught.value


# The vectors


@pytest.mark.parametrize("vector", titles(page.vectors("vector")))
def test_a_vector_decodes_to_what_it_says(vector: page.Vector) -> None:
    assert FrameReader(codec).feed(vector.data) == [frame_of(vector.says)]


@pytest.mark.parametrize("vector", titles(page.vectors("vector")))
def test_a_vector_decodes_byte_at_a_time(vector: page.Vector) -> None:
    reader = FrameReader(codec)
    *before, last = [reader.feed(vector.data[at : at + 1]) for at in range(len(vector.data))]
    assert (before, last) == ([[]] * len(before), [frame_of(vector.says)])


@pytest.mark.parametrize("vector", titles(page.vectors("vector")))
def test_a_vector_decodes_with_more_behind_it(vector: page.Vector) -> None:
    reader, end = FrameReader(codec), codec.encode(f.EndFrame(1))
    assert reader.feed(vector.data + end + end[:5]) == [frame_of(vector.says), f.EndFrame(1)]
    assert reader.buffered_bytes == 5


@pytest.mark.parametrize("vector", titles(page.vectors("vector")))
def test_a_vector_is_what_encoding_gives(vector: page.Vector) -> None:
    expected = bytes.fromhex(vector.says["encodes_as"]) if "encodes_as" in vector.says else vector.data
    assert codec.encode(frame_of(vector.says)).hex() == expected.hex()


@pytest.mark.parametrize("vector", titles(page.vectors("skipped")))
def test_an_optional_kind_is_skipped(vector: page.Vector) -> None:
    end = codec.encode(f.EndFrame(1))
    assert FrameReader(codec).feed(end + vector.data + end) == [f.EndFrame(1), f.EndFrame(1)]


@pytest.mark.parametrize("vector", titles(page.vectors("refused")))
@pytest.mark.parametrize("behind", [b"", b"\0" * 20], ids=["alone", "with more behind it"])
def test_a_refused_vector_is_refused(vector: page.Vector, behind: bytes) -> None:
    error = refusal(vector.data + behind)
    assert (error.message, error.close_code) == (vector.says["error"], vector.says["close_code"])


@pytest.mark.parametrize("vector", titles(page.vectors("refused")))
def test_a_refused_vector_is_refused_byte_at_a_time(vector: page.Vector) -> None:
    reader = FrameReader(codec)
    with pytest.raises(RemoteProtocolError, match=re.escape(vector.says["error"])):
        [reader.feed(vector.data[at : at + 1]) for at in range(len(vector.data))]


# Any frame


@deterministic
@given(frames)
def test_decoding_gives_back_what_was_encoded(frame: f.Frame) -> None:
    data = codec.encode(frame)
    assert codec.decode(data, 0, len(data)) == frame
    assert codec.decode(b"before" + data + b"behind", 6, 6 + len(data)) == frame


@deterministic
@given(frames, st.data())
def test_a_mutated_frame_decodes_or_is_refused(frame: f.Frame, draw: st.DataObject) -> None:
    data = bytearray(codec.encode(frame))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(4, len(data) - 1))] = draw.draw(st.integers(0, 255))
    decode_or_refuse(bytes(data))


@deterministic
@given(frames, st.data())
def test_a_truncated_frame_decodes_or_is_refused(frame: f.Frame, draw: st.DataObject) -> None:
    data = codec.encode(frame)
    body = data[4 : draw.draw(st.integers(4, len(data)))]
    decode_or_refuse(len(body).to_bytes(4, "big") + body)


@deterministic
@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(kind: int, flags: int, rest: bytes) -> None:
    body = bytes((kind, flags)) + rest
    decode_or_refuse(len(body).to_bytes(4, "big") + body)


def decode_or_refuse(data: bytes) -> None:
    """What decodes is a frame of the kind that the bytes name, and can be sent again."""
    try:
        frame = codec.decode(data, 0, len(data))
    except RemoteProtocolError as error:
        assert error.message == error.message.strip() != ""  # noqa: PT017 - either outcome is right
        return
    if frame is None:
        assert data[4] >= 0x80
    else:
        assert isinstance(frame, FRAME_CLASSES[f.FrameKind(data[4])])
        assert codec.encode(frame)[4] == data[4]


# What later versions may add, and what they may not


def shortest(kind: f.FrameKind, flags: int = 0, behind: bytes = b"") -> bytes:
    """The shortest frame of a kind, all its fields 0."""
    _, length, _ = DECODERS[kind]
    return (length + len(behind)).to_bytes(4, "big") + bytes((kind, flags)) + bytes(length - 2) + behind


@pytest.mark.parametrize("kind", list(f.FrameKind))
def test_a_flag_that_a_kind_does_not_have_is_refused_and_an_optional_one_ignored(kind: f.FrameKind) -> None:
    allowed, _, _ = DECODERS[kind]
    plain = codec.decode(shortest(kind), 0, len(shortest(kind)))
    for flag in (1 << bit for bit in range(8)):
        data = shortest(kind, flag)
        if flag >= 0x40:
            assert codec.decode(data, 0, len(data)) == plain
        elif not flag & allowed:
            assert refusal(data).message == f"{kind.name} frame has unknown flags 0x{flag:02x}"


def test_unknown_kinds_are_refused_up_to_127_and_skipped_from_128_on() -> None:
    for kind in set(range(256)) - set(f.FrameKind):
        data = b"\0\0\0\x0a" + bytes((kind, 0)) + bytes(8)
        if kind < 128:
            assert refusal(data).message == f"unknown frame kind {kind}"
        else:
            assert codec.decode(data, 0, len(data)) is None


WITHOUT_PAYLOAD = ["END", "CANCEL", "ACK", "STREAM_OPEN", "STREAM_END", "CREDIT", "TIME_SYNC", "LANE_OPEN"]


def test_every_kind_has_a_payload_or_a_reason_behind_its_fields_or_nothing() -> None:
    names = {
        kind.name for kind in f.FrameKind if not hasattr(FRAME_CLASSES[kind], "payload") and kind.name != "GO_AWAY"
    }
    assert names == set(WITHOUT_PAYLOAD)


@pytest.mark.parametrize("name", WITHOUT_PAYLOAD)
def test_bytes_after_the_last_field_of_a_kind_without_a_payload_are_ignored(name: str) -> None:
    kind = f.FrameKind[name]
    data = shortest(kind, behind=b"later")
    assert codec.decode(data, 0, len(data)) == codec.decode(shortest(kind), 0, len(shortest(kind)))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (shortest(f.FrameKind.GO_AWAY, behind=b"\xff"), "name in a frame is not UTF-8"),
        (shortest(f.FrameKind.REQUEST)[:-1] + b"\x01\xff", "name in a frame is not UTF-8"),
        (shortest(f.FrameKind.EVENT)[:-1] + b"\x01\xff", "name in a frame is not UTF-8"),
        (shortest(f.FrameKind.ITEM, 2, b"\0\0\0\5\x81\xa1k\xa1\xff"), "bad metadata: payload is not valid msgpack"),
    ],
)
def test_text_that_is_not_utf_8_is_refused(data: bytes, text: str) -> None:
    data = (len(data) - 4).to_bytes(4, "big") + data[4:]
    assert text in refusal(data).message


@pytest.mark.parametrize("kind", list(f.FrameKind))
def test_every_kind_is_refused_one_byte_below_its_shortest(kind: f.FrameKind) -> None:
    shortest = {
        f.FrameKind.REQUEST: 20, f.FrameKind.RESPONSE: 11, f.FrameKind.CANCEL: 11, f.FrameKind.EVENT: 12,
        f.FrameKind.ACK: 18, f.FrameKind.STREAM_OPEN: 12, f.FrameKind.STREAM_RESET: 11, f.FrameKind.CREDIT: 18,
        f.FrameKind.TIME_SYNC: 34, f.FrameKind.GO_AWAY: 12, f.FrameKind.DATAGRAM_ITEM: 18,
    }.get(kind, 10)  # fmt: skip
    whole = bytes((kind, 0)) + bytes(shortest - 2)
    assert FrameReader(codec).feed(shortest.to_bytes(4, "big") + whole)[0].id == 0
    name = kind.name if shortest > 10 else ""
    text = f"truncated {name} frame of {shortest - 1} bytes".replace("  ", " ")
    assert refusal((shortest - 1).to_bytes(4, "big") + whole[:-1]).message == text


# Limits


def test_a_payload_at_the_limit_passes_and_one_above_is_refused() -> None:
    at_limit = f.ItemFrame(1, bytes(1024))
    assert FrameReader(small).feed(small.encode(at_limit)) == [at_limit]
    error = refusal(small.encode(f.ItemFrame(1, bytes(1025))), by=small)
    assert error.message == "payload of 1025 bytes is over the limit of 1024 (max_payload_bytes)"
    assert error.close_code is CloseCode.LIMIT_EXCEEDED


def test_a_long_name_and_metadata_do_not_count_as_payload() -> None:
    frame = f.RequestFrame(1, "m" * 0xFFFF, bytes(1024), metadata={"k": "v" * 50})
    assert FrameReader(small).feed(small.encode(frame)) == [frame]


def test_a_long_frame_without_a_payload_passes() -> None:
    data = (2000).to_bytes(4, "big") + small.encode(f.EndFrame(1))[4:] + bytes(1990)
    assert FrameReader(small).feed(data) == [f.EndFrame(1)]


def test_the_largest_frame_passes_and_one_byte_more_is_refused_before_it_came() -> None:
    assert FrameReader(small).feed(small.max_frame_bytes.to_bytes(4, "big")) == []
    error = refusal((small.max_frame_bytes + 1).to_bytes(4, "big"), by=small)
    limit = 1024 + 2 * 64 + HEADER_BYTES + 0xFFFF + 64
    assert error.message == f"frame of {limit + 1} bytes is over the limit of {limit}"
    assert error.close_code is CloseCode.LIMIT_EXCEEDED


def test_metadata_at_the_limit_pass_and_one_byte_above_fails_on_both_sides() -> None:
    at_limit, above = f.StreamOpenFrame(1, "s", {"k": "v" * 59}), f.StreamOpenFrame(1, "s", {"k": "v" * 60})
    assert FrameReader(small).feed(small.encode(at_limit)) == [at_limit]
    with pytest.raises(ResourceError) as caught:
        small.encode(above)
    assert caught.value.message == "metadata of 65 bytes is over the limit of 64 (max_metadata_bytes)"
    assert (caught.value.current, caught.value.limit) == (65, 64)
    error = refusal(codec.encode(above), by=small)
    assert (error.message, error.close_code) == ("metadata of 65 bytes is over the limit of 64", 3502)


def test_metadata_that_are_a_bomb_are_refused_unopened() -> None:
    section = b"\xdd\xff\xff\xff\xff"
    body = small.encode(f.StreamOpenFrame(1, "s"))[4:] + len(section).to_bytes(4, "big") + section
    data = len(body).to_bytes(4, "big") + body[:1] + b"\x01" + body[2:]
    assert refusal(data).message == ("bad metadata: payload is not valid msgpack: 4294967295 exceeds max_array_len(5)")


def test_empty_metadata_are_sent_as_none() -> None:
    assert codec.encode(f.StreamOpenFrame(1, "s", {})) == codec.encode(f.StreamOpenFrame(1, "s"))
    assert codec.response(1, 0, b"", metadata={}, initial={}) == codec.response(1, 0, b"")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n" * 65_536, "name of 65536 bytes is over the limit of 65535"),
        ("\u00e9" * 32_768, "name of 65536 bytes is over the limit of 65535"),
        ("bad\ud800", r"name 'bad\ud800' is not text that can be encoded"),
    ],
    ids=["long", "long in bytes", "lone surrogate"],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda name: f.RequestFrame(1, name, b""),
        lambda name: f.EventFrame(1, name, b""),
        lambda name: f.StreamOpenFrame(1, name),
    ],
    ids=["request", "event", "stream"],
)
def test_a_name_without_a_form_is_not_encoded(make: Any, name: str, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        codec.encode(make(name))
    assert caught.value.message == text


def test_a_name_of_all_its_bytes_is_encoded() -> None:
    frame = f.EventFrame(1, "n" * 65_535, b"")
    assert FrameReader(codec).feed(codec.encode(frame)) == [frame]


def test_names_are_shared_while_they_are_few_and_short() -> None:
    fresh = FrameCodec(payloads)

    def name(text: str) -> str:
        [frame] = FrameReader(fresh).feed(codec.encode(f.EventFrame(2, text, b"")))
        assert isinstance(frame, f.EventFrame)
        assert frame.name == text
        return frame.name

    assert name("orders.place") is name("orders.place")
    assert name("n" * 257) is not name("n" * 257)
    for number in range(4096):
        name(f"name {number}")
    assert name("one too many") is not name("one too many")
    assert name("orders.place") is name("orders.place")
