"""Cutting bytes into frames: however they are cut, the same frames come; what is unfinished is bounded."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.config import Limits
from echostream.errors import CloseCode, ConfigurationError, RemoteProtocolError
from echostream.protocol import frames as f
from echostream.protocol.codec import FrameCodec
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.reader import FrameReader, StreamReaders
from tests.protocol.strategies import deterministic, frames

codec = FrameCodec(PayloadCodec())
ITEM = codec.encode(f.ItemFrame(1, b"x" * 100))


@deterministic
@given(st.lists(frames, max_size=4), st.data())
def test_frames_come_however_their_bytes_are_cut(sent: list[f.Frame], draw: st.DataObject) -> None:
    data = b"".join(map(codec.encode, sent))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    reader, came = FrameReader(codec), []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        came += reader.feed(data[start:end])
    assert came == sent
    assert reader.buffered_bytes == 0


@deterministic
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_give_frames_or_are_refused_wherever_they_are_cut(pieces: list[bytes]) -> None:
    def outcome(data: list[bytes]) -> tuple[list[f.Frame], str]:
        reader, came = FrameReader(codec), list[f.Frame]()
        try:
            for piece in data:
                came += reader.feed(piece)
        except RemoteProtocolError as error:
            return [], error.message
        assert reader.buffered_bytes <= sum(map(len, data))
        return came, ""

    whole = b"".join(pieces)
    assert outcome(pieces) == outcome([whole]) == outcome([bytes((byte,)) for byte in whole])


def test_what_is_held_back_is_counted() -> None:
    reader = FrameReader(codec)
    assert (reader.feed(ITEM[:3]), reader.buffered_bytes) == ([], 3)
    assert (reader.feed(ITEM[3:60]), reader.buffered_bytes) == ([], 60)
    assert (reader.feed(b""), reader.buffered_bytes) == ([], 60)
    assert (reader.feed(ITEM[60:] + ITEM[:10]), reader.buffered_bytes) == ([f.ItemFrame(1, b"x" * 100)], 10)
    assert (reader.feed(ITEM[10:]), reader.buffered_bytes) == ([f.ItemFrame(1, b"x" * 100)], 0)


def test_a_frame_over_the_limit_is_refused_with_its_first_four_bytes() -> None:
    reader = FrameReader(codec)
    assert reader.feed(b"\xff\xff\xff") == []
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(b"\xff")
    assert caught.value.message == f"frame of 4294967295 bytes is over the limit of {codec.max_frame_bytes}"
    assert caught.value.close_code is CloseCode.LIMIT_EXCEEDED


def test_tiny_pieces_cost_what_their_bytes_cost() -> None:
    reader, piece = FrameReader(codec), b"xy"
    reader.feed((1 << 20).to_bytes(4, "big"))
    tracemalloc.start()
    for _ in range(100_000):
        reader.feed(bytes(bytearray(piece)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert reader.buffered_bytes == 200_004


def test_unfinished_frames_of_all_streams_count_together() -> None:
    readers = StreamReaders(codec, 250)
    for stream_id in (4, 8):
        assert readers.feed(stream_id, ITEM[:100]) == []
    assert readers.feed(12, ITEM[:50]) == []
    assert (readers.buffered_bytes, len(readers)) == (250, 3)
    with pytest.raises(RemoteProtocolError) as caught:
        readers.feed(12, ITEM[50:51])
    assert caught.value.message == "unfinished frames hold 251 bytes, limit 250"
    assert caught.value.close_code is CloseCode.LIMIT_EXCEEDED


def test_finished_dropped_and_cleared_streams_make_room() -> None:
    readers = StreamReaders(codec, 250)
    for stream_id in (4, 8):
        readers.feed(stream_id, ITEM[:100])
    assert readers.feed(4, ITEM[100:]) == [f.ItemFrame(1, b"x" * 100)]
    assert readers.buffered_bytes == 100
    readers.end(4)
    readers.drop(8)
    readers.drop(99)  # never seen
    assert (readers.buffered_bytes, len(readers)) == (0, 0)
    readers.feed(8, ITEM[:100])
    readers.clear()
    assert (readers.buffered_bytes, len(readers)) == (0, 0)


def test_what_somebody_else_sees_to_at_the_beginning_makes_no_frames() -> None:
    readers, plain = StreamReaders(codec, 250), f.ResponseFrame(1, 5, b"no")
    whole, offered = codec.encode(plain), list[bytes]()

    def take(data: bytes) -> int:
        offered.append(data)
        return len(whole)

    assert readers.feed(4, whole + whole, take) == [plain]
    assert readers.feed(4, whole + whole[:9], take) == []
    assert readers.buffered_bytes == 9
    assert readers.feed(4, whole[9:12], take) == [], "nothing whole is there"
    assert readers.feed(4, whole[12:] + whole, take) == [plain]
    assert offered == [whole + whole, whole + whole[:9], whole + whole]


def test_a_response_over_the_limit_is_refused() -> None:
    small, longest = FrameCodec(PayloadCodec(), Limits(max_payload_bytes=1024)), bytes(1024)
    readers = StreamReaders(small, 2000)
    assert readers.feed(4, small.response(1, 0, longest)) == [f.ResponseFrame(1, 0, longest)]
    with pytest.raises(RemoteProtocolError, match="payload of 1025 bytes is over the limit of 1024"):
        readers.feed(4, small.response(1, 0, longest + b"x"))


def test_a_stream_that_ends_inside_a_frame_is_refused() -> None:
    readers = StreamReaders(codec, 250)
    readers.feed(4, ITEM[:1])
    with pytest.raises(RemoteProtocolError) as caught:
        readers.end(4)
    assert (caught.value.message, caught.value.close_code) == ("stream 4 ended inside a frame", 3500)


def test_the_limit_of_unfinished_frames_holds_the_largest_frame_by_default() -> None:
    assert FrameCodec(PayloadCodec()).max_frame_bytes <= Limits().max_reassembly_bytes


def test_limits_under_which_a_frame_could_never_finish_are_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Limits(max_payload_bytes=1 << 25)
    assert caught.value.message == (
        "max_reassembly_bytes: 16777216 cannot hold one payload of max_payload_bytes (33554432)"
    )
