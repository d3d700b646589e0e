"""What comes before the Hello: held back within a limit, at the price of its bytes."""

from __future__ import annotations

import pytest

from echostream.errors import CloseCode, RemoteProtocolError
from echostream.protocol import frames as f
from echostream.protocol.codec import FrameCodec
from echostream.protocol.early import EarlyData
from echostream.protocol.link import LANE
from echostream.protocol.payload import PayloadCodec

codec = FrameCodec(PayloadCodec())
HELLO = codec.encode(f.HelloFrame(0, b"\x80"))


@pytest.fixture
def early() -> EarlyData:
    return EarlyData(limit_bytes=200, hello_bytes=100)


def refusal(early: EarlyData, data: bytes) -> RemoteProtocolError:
    early.add(LANE, data, fin=False)
    with pytest.raises(RemoteProtocolError) as caught:
        early.cut_hello(codec)
    return caught.value


def test_the_hello_is_cut_out_when_it_is_whole(early: EarlyData) -> None:
    for at in range(len(HELLO)):
        assert early.cut_hello(codec) is None
        early.add(LANE, HELLO[at : at + 1], fin=False)
    assert early.cut_hello(codec) == f.HelloFrame(0, b"\x80")
    assert early.take() == []


def test_the_rest_is_kept_and_given_back_once_the_lane_first() -> None:
    early = EarlyData(limit_bytes=1000, hello_bytes=100)
    early.add(7, b"a", fin=False)
    early.add(LANE, HELLO + b"behind", fin=False)
    early.add(3, b"", fin=True)
    assert early.cut_hello(codec) == f.HelloFrame(0, b"\x80")
    early.add(7, b"b", fin=True)
    early.add(LANE, b" it", fin=False)
    assert early.take() == [(LANE, b"behind it", False), (7, b"a", False), (3, b"", True), (7, b"b", True)]
    assert early.take() == []


def test_what_came_on_an_abandoned_stream_is_forgotten(early: EarlyData) -> None:
    early.add(7, b"a", fin=False)
    early.add(3, b"b", fin=False)
    early.drop(7)
    assert early.take() == [(3, b"b", False)]


def test_bytes_at_the_limit_pass_and_one_above_is_refused(early: EarlyData) -> None:
    early.add(LANE, bytes(100), fin=False)
    early.add(LANE, bytes(100), fin=False)
    with pytest.raises(RemoteProtocolError) as caught:
        early.add(LANE, b"\0", fin=False)
    assert caught.value.message == "more than 200 bytes before the hello was accepted"
    assert caught.value.close_code is CloseCode.LIMIT_EXCEEDED


def test_empty_pieces_of_other_streams_are_not_free(early: EarlyData) -> None:
    for stream_id in (4, 8, 12):
        early.add(stream_id, b"", fin=True)
    with pytest.raises(RemoteProtocolError, match="more than 200 bytes before the hello was accepted"):
        early.add(16, b"", fin=True)


def test_a_hello_at_its_limit_passes_and_one_byte_longer_is_refused(early: EarlyData) -> None:
    at_limit = codec.encode(f.HelloFrame(0, bytes(100 - len(codec.encode(f.EndFrame(0))))))
    early.add(LANE, at_limit, fin=False)
    assert early.cut_hello(codec) is not None
    error = refusal(EarlyData(200, 100), (97).to_bytes(4, "big"))
    assert error.message == "hello of 101 bytes is over the limit of 100"
    assert error.close_code is CloseCode.LIMIT_EXCEEDED


@pytest.mark.parametrize("frame", [f.EndFrame(1), f.EventFrame(2, "e", b"")])
def test_another_first_frame_is_refused(early: EarlyData, frame: f.Frame) -> None:
    error = refusal(early, codec.encode(frame) + HELLO)
    assert (error.message, error.close_code) == ("first frame was not a hello", CloseCode.PROTOCOL_ERROR)


def test_an_optional_kind_before_the_hello_is_refused_too(early: EarlyData) -> None:
    assert refusal(early, codec.plain(0x80, 0) + HELLO).message == "first frame was not a hello"


def test_a_broken_first_frame_is_refused(early: EarlyData) -> None:
    assert refusal(early, bytes(8)).message == "truncated frame of 0 bytes"


def test_the_end_of_the_lane_is_refused(early: EarlyData) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        early.add(LANE, HELLO, fin=True)
    assert (caught.value.message, caught.value.close_code) == ("peer ended the lane", CloseCode.PROTOCOL_ERROR)
