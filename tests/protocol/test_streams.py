"""Application streams on both sides of a pair: offered, taken, refused, half-closed, reset, and their races."""

from __future__ import annotations

from typing import Any

import pytest

from echostream.config import Limits
from echostream.errors import (
    CloseCode,
    InvalidArgumentError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceError,
    Status,
)
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.link import LANE
from echostream.protocol.records import AppStream, IncomingCall
from tests.protocol.pair import ProtocolPair, Side, leftovers


@pytest.fixture(params=[False, True], ids=["whole", "byte at a time"])
def pair(request: pytest.FixtureRequest) -> ProtocolPair:
    return ProtocolPair(byte_at_a_time=request.param)


def offer(pair: ProtocolPair, opener: Side | None = None) -> tuple[AppStream, AppStream]:
    """Have one side open a stream; return both ends."""
    opener = opener or pair.client
    near = opener.protocol.streams.open("s", opener.open_stream(), "mine", {"k": "v"})
    pair.pump()
    return near, pair.other(opener).take(ev.StreamOpened).stream


def take(pair: ProtocolPair) -> tuple[AppStream, AppStream]:
    """As `offer`, and have the other side take it."""
    near, far = offer(pair)
    pair.server.protocol.streams.accept(far)
    pair.pump()
    pair.client.events.clear()
    return near, far


def refused(pair: ProtocolPair, text: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        pair.pump()
    assert (caught.value.message, caught.value.close_code) == (text, code)


# From the first frame to the last


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_stream_is_offered_taken_used_and_ended(pair: ProtocolPair, who: str) -> None:
    opener: Side = getattr(pair, who)
    taker = pair.other(opener)
    near, far = offer(pair, opener)
    assert not near.send_credit.available
    taker.protocol.streams.accept(far)
    taker.protocol.streams.accept(far)
    pair.pump()
    accepted, credited = opener.events
    assert isinstance(accepted, ev.StreamAccepted)
    assert isinstance(credited, ev.CreditReceived)
    assert (accepted.stream, credited.target, near.handle) == (near, near, "mine")
    opener.events.clear()
    opener.protocol.streams.send_item(near, b"there", raw=True)
    taker.protocol.streams.send_item(far, b"\x01")
    pair.pump()
    there, back = taker.take(ev.StreamItemReceived), opener.take(ev.StreamItemReceived)
    assert (there.stream, there.frame) == (far, f.StreamItemFrame(near.id, b"there", raw=True))
    assert (back.stream, back.frame) == (near, f.StreamItemFrame(near.id, b"\x01"))
    opener.protocol.streams.end(near)
    opener.protocol.streams.end(near)
    pair.pump()
    assert taker.take(ev.StreamEnded).stream is far
    taker.protocol.streams.send_item(far, b"\x02")
    taker.protocol.streams.end(far)
    pair.pump()
    assert [type(event) for event in opener.events] == [ev.StreamItemReceived, ev.StreamEnded]
    pair.assert_nothing_left()


def test_the_name_and_metadata_of_an_offer_arrive() -> None:
    pair = ProtocolPair()
    pair.client.protocol.streams.open("microphone", pair.client.open_stream(), None, {"rate": "48000"})
    pair.pump()
    opened = pair.server.take(ev.StreamOpened)
    assert (opened.frame, opened.stream.name) == (f.StreamOpenFrame(1, "microphone", {"rate": "48000"}), "microphone")


def test_both_may_end_at_the_same_time(pair: ProtocolPair) -> None:
    near, far = take(pair)
    pair.client.protocol.streams.end(near)
    pair.server.protocol.streams.end(far)
    pair.pump()
    pair.client.take(ev.StreamEnded)
    pair.server.take(ev.StreamEnded)
    pair.assert_nothing_left()


def test_an_opener_may_end_before_it_was_taken(pair: ProtocolPair) -> None:
    near, far = offer(pair)
    pair.client.protocol.streams.end(near)
    pair.pump()
    pair.server.take(ev.StreamEnded)
    pair.server.protocol.streams.accept(far)
    pair.server.protocol.streams.send_item(far, b"x")
    pair.server.protocol.streams.end(far)
    pair.pump()
    assert [type(event) for event in pair.client.events] == [
        ev.StreamAccepted, ev.CreditReceived, ev.StreamItemReceived, ev.StreamEnded,
    ]  # fmt: skip
    pair.assert_nothing_left()


def test_a_stream_shows_its_halves() -> None:
    pair = ProtocolPair()
    near, far = take(pair)
    pair.client.protocol.streams.end(near)
    pair.pump()
    assert (repr(near), repr(far)) == ("<AppStream 1 's' -< on stream 4>", "<AppStream 1 's' >- on stream 4>")


# Credit


def test_credit_bounds_a_writer_and_comes_as_items_are_taken(pair: ProtocolPair) -> None:
    pair = ProtocolPair(server=Limits(stream_window_bytes=1024), byte_at_a_time=pair.byte_at_a_time)
    near, far = take(pair)
    streams = pair.client.protocol.streams
    streams.send_item(near, bytes(1007))
    streams.send_item(near, bytes(500))
    with pytest.raises(LocalProtocolError, match="no credit for an item: 1539 bytes sent, 1024 granted"):
        streams.send_item(near, b"")
    pair.pump()
    assert len(pair.server.take_all(ev.StreamItemReceived)) == 2
    pair.server.protocol.streams.item_consumed(far, 400)
    pair.pump()
    assert pair.client.events == []
    pair.server.protocol.streams.item_consumed(far, 200)
    pair.pump()
    assert pair.client.take(ev.CreditReceived).target is near
    assert near.send_credit.granted == 1024 + 632


def test_an_item_without_credit_is_refused(pair: ProtocolPair) -> None:
    pair = ProtocolPair(server=Limits(stream_window_bytes=1024))
    near, _ = take(pair)
    pair.client.send(f.StreamItemFrame(near.id, bytes(1008)), on=near.stream_id)
    pair.client.send(f.StreamItemFrame(near.id, b""), on=near.stream_id)
    refused(pair, "item sent without credit: 1024 bytes came, 1024 were granted", CloseCode.LIMIT_EXCEEDED)


def test_no_credit_is_granted_to_who_has_ended_or_is_gone() -> None:
    pair = ProtocolPair()
    near, far = take(pair)
    pair.client.protocol.streams.send_item(near, bytes(600_000))
    pair.client.protocol.streams.end(near)
    pair.pump()
    pair.server.protocol.streams.item_consumed(far, 600_000)
    assert pair.server.protocol.take_writes() == []


def test_an_opener_may_grant_credit_before_it_was_taken() -> None:
    pair = ProtocolPair()
    near, far = offer(pair)
    pair.client.send(f.CreditFrame(near.id, 1 << 21), on=near.stream_id)
    pair.pump()
    assert pair.server.take(ev.CreditReceived).target is far
    assert not far.accepted


# What is refused


@pytest.mark.parametrize(
    ("number", "stream_id", "text"),
    [
        (2, 4, "stream id 2 is not one of the peer's"),
        (0, 4, "stream id 0 is not one of the peer's"),
        (3, LANE, "stream 3 needs a transport stream of its own"),
        (3, 2, "stream on stream 2, which is not a two-way stream of the peer"),
    ],
)
def test_an_offer_in_the_wrong_place_is_refused(pair: ProtocolPair, number: int, stream_id: int, text: str) -> None:
    pair.client.send(f.StreamOpenFrame(number, "s"), on=stream_id)
    refused(pair, text)


def test_an_id_or_a_transport_stream_in_use_is_refused(pair: ProtocolPair) -> None:
    near, _ = offer(pair)
    pair.client.send(f.StreamOpenFrame(near.id, "s"), on=pair.client.open_stream())
    refused(pair, "stream id 1 is in use")
    other = ProtocolPair()
    near, _ = offer(other)
    other.client.send(f.StreamOpenFrame(3, "s"), on=near.stream_id)
    refused(other, "second stream on stream 4")


def test_an_item_before_the_stream_was_taken_is_refused(pair: ProtocolPair) -> None:
    near, far = offer(pair)
    with pytest.raises(LocalProtocolError) as caught:
        pair.client.protocol.streams.send_item(near, b"")
    assert caught.value.message == "stream 's' was not accepted yet"
    with pytest.raises(LocalProtocolError, match="stream 's' was not accepted yet"):
        pair.server.protocol.streams.send_item(far, b"")
    pair.client.send(f.StreamItemFrame(near.id, b""), on=near.stream_id)
    refused(pair, "item on stream 1 before it was accepted")


def test_an_item_of_who_did_not_take_the_stream_is_refused(pair: ProtocolPair) -> None:
    near, _ = offer(pair)
    pair.server.send(f.StreamItemFrame(near.id, b""), on=near.stream_id)
    refused(pair, "item on stream 1 before it was accepted")


def test_an_item_and_an_end_after_the_end_are_refused(pair: ProtocolPair) -> None:
    for frame, text in (
        (f.StreamItemFrame(1, b""), "item on stream 1 after its end"),
        (f.StreamEndFrame(1), "second end of stream 1"),
    ):
        fresh = ProtocolPair(byte_at_a_time=pair.byte_at_a_time)
        near, _ = take(fresh)
        fresh.client.protocol.streams.end(near)
        with pytest.raises(LocalProtocolError) as caught:
            fresh.client.protocol.streams.send_item(near, b"")
        assert (caught.value.message, caught.value.operation) == ("stream 's' takes no more items", "s")
        fresh.client.send(frame, on=near.stream_id)
        refused(fresh, text)


# Limits


def test_streams_at_the_limit_pass_and_one_more_is_refused_until_one_ends(pair: ProtocolPair) -> None:
    pair = ProtocolPair(server=Limits(max_streams=2), byte_at_a_time=pair.byte_at_a_time)
    ends = [offer(pair), offer(pair)]
    one_more = pair.client.protocol.streams.open("s", pair.client.open_stream(), None)
    pair.pump()
    reset = pair.client.take(ev.StreamWasReset)
    assert (reset.stream, reset.status) == (one_more, Status.RESOURCE_EXHAUSTED)
    assert pair.client.payload.decode(reset.payload) == {
        "message": "more than 2 streams at once (max_streams)",
        "details": {},
    }
    offer(pair, pair.server)  # this side's own do not count
    pair.server.protocol.streams.reset(ends[0][1], Status.ABORTED)
    pair.pump()
    pair.client.take(ev.StreamWasReset)
    offer(pair)


def test_what_cannot_be_sent_fails_here_and_changes_nothing() -> None:
    pair = ProtocolPair(server=Limits(max_payload_bytes=1024))
    attempts: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"name": "s\ud800"}, InvalidArgumentError, r"name 's\\ud800' is not text that can be encoded"),
        ({"name": "s", "metadata": {"k": b""}}, InvalidArgumentError, "metadata value of 'k' must be str, got bytes"),
        (
            {"name": "s", "metadata": {"k": "v" * 9000}},
            ResourceError,
            "metadata of 9006 bytes is over the limit of 8192",
        ),
    ]
    for arguments, kind, text in attempts:
        with pytest.raises(kind, match=text):
            pair.client.protocol.streams.open(stream_id=4, handle=None, **arguments)
    assert leftovers(pair.client.protocol) == {}
    near, _ = take(pair)
    assert near.id == 1
    with pytest.raises(ResourceError, match="payload of 1025 bytes is over the peer's limit of 1024"):
        pair.client.protocol.streams.send_item(near, bytes(1025))
    assert near.send_credit.sent == 0


# Resets and their races


@pytest.mark.parametrize("first", ["stop", "reset frame"])
@pytest.mark.parametrize("taken", [False, True], ids=["refused", "reset"])
def test_the_reason_of_a_reset_arrives_whether_or_not_its_stop_overtakes_it(first: str, taken: bool) -> None:
    pair = ProtocolPair()
    near, far = take(pair) if taken else offer(pair)
    assert pair.server.protocol.streams.reset(far, Status.UNIMPLEMENTED, b"why")
    assert not pair.server.protocol.streams.reset(far, Status.UNIMPLEMENTED, b"why")
    pair.server.flush()
    if first == "stop":
        pair.deliver(pair.server, -1)
        assert (pair.client.events, near.output_open) == ([], False)
        if taken:
            pair.client.protocol.streams.send_item(near, b"nobody reads this")
    pair.pump()
    reset = pair.client.take(ev.StreamWasReset)
    assert (reset.stream, reset.status, reset.payload) == (near, Status.UNIMPLEMENTED, b"why")
    assert pair.server.events == []
    pair.assert_nothing_left()


def test_both_may_reset_at_the_same_time(pair: ProtocolPair) -> None:
    near, far = take(pair)
    pair.client.protocol.streams.reset(near, Status.ABORTED)
    pair.server.protocol.streams.reset(far, Status.ABORTED)
    pair.pump()
    assert (pair.client.events, pair.server.events) == ([], [])
    pair.assert_nothing_left()


def test_a_stopped_stream_says_nothing_more() -> None:
    pair = ProtocolPair()
    near, _ = take(pair)
    streams = pair.client.protocol.streams
    pair.server.protocol.streams.send_item(_, bytes(600_000))
    pair.pump()
    pair.client.take(ev.StreamItemReceived)
    assert pair.client.protocol.receive_stop(near.stream_id) == []
    assert pair.client.protocol.take_aborts() == [(near.stream_id, True, False, 1)]
    streams.item_consumed(near, 600_000)
    streams.end(near)
    assert streams.reset(near, Status.ABORTED, b"")
    assert pair.client.protocol.take_writes() == []
    assert pair.client.protocol.take_aborts() == [(near.stream_id, False, True, Status.ABORTED)]


@pytest.mark.parametrize("order", ["ended first", "ends last"])
def test_a_stopped_stream_may_still_be_ended_by_both(order: str) -> None:
    pair = ProtocolPair()
    near, far = take(pair)
    streams = pair.client.protocol.streams
    if order == "ended first":
        streams.end(near)
        pair.client.flush()
    pair.client.protocol.receive_stop(near.stream_id)
    pair.client.protocol.receive_data(near.stream_id, pair.server.codec.encode(f.StreamEndFrame(near.id)))
    if order == "ends last":
        streams.end(near)
    assert pair.client.protocol.take_writes() == []
    assert pair.client.protocol.streams.streams == {}
    assert far.local_open


def test_frames_that_cross_a_reset_are_dropped(pair: ProtocolPair) -> None:
    near, far = take(pair)
    pair.server.protocol.streams.send_item(far, b"x")
    pair.server.protocol.streams.end(far)
    pair.server.flush()
    pair.client.protocol.streams.reset(near, Status.ABORTED, b"why")
    pair.deliver(pair.server, near.stream_id)
    assert (pair.client.events, pair.client.protocol.link.late_frames) == ([], 2)
    pair.pump()
    assert pair.server.take(ev.StreamWasReset).payload == b"why"
    pair.server.protocol.streams.item_consumed(far, 1 << 30)
    pair.server.protocol.streams.accept(far)
    pair.assert_nothing_left()


def test_an_offer_whose_stop_overtook_it_is_dropped_with_what_follows(pair: ProtocolPair) -> None:
    near = pair.client.protocol.streams.open("s", pair.client.open_stream(), None)
    pair.client.protocol.streams.reset(near, Status.ABORTED)
    pair.client.flush()
    pair.deliver(pair.client, -1)
    pair.pump()
    assert (pair.server.events, pair.server.protocol.link.late_frames) == ([], 2)
    pair.assert_nothing_left()


@pytest.mark.parametrize(
    ("how", "status"), [("end", Status.CANCELLED), ("reset", Status.DEADLINE_EXCEEDED), ("odd reset", Status.CANCELLED)]
)
def test_a_stream_whose_transport_stream_breaks_off_was_reset(how: str, status: Status) -> None:
    pair = ProtocolPair()
    near, far = take(pair)
    if how == "end":
        pair.client.write(near.stream_id, b"", fin=True)
    else:
        code = 4 if how == "reset" else 1 << 40
        pair.client.protocol.link.out.abort(near.stream_id, reset=True, stop=False, code=code)
    pair.pump()
    reset = pair.server.take(ev.StreamWasReset)
    assert (reset.stream, reset.status, reset.payload) == (far, status, b"")
    assert pair.client.take(ev.StreamWasReset).stream is near
    assert [leftovers(side.protocol) for side in pair.sides] == [{}, {}]


def test_a_stopped_stream_that_is_then_reset_is_over() -> None:
    pair = ProtocolPair()
    near, _ = take(pair)
    pair.client.protocol.receive_stop(near.stream_id)
    pair.client.protocol.take_aborts()
    [reset] = pair.client.protocol.receive_reset(near.stream_id, Status.ABORTED)
    assert reset == ev.StreamWasReset(near, Status.ABORTED, b"")
    assert pair.client.protocol.take_aborts() == []


def test_streams_do_not_wait_for_one_another(pair: ProtocolPair) -> None:
    first, far_first = take(pair)
    second, _ = take(pair)
    pair.held.add(first.stream_id)
    pair.client.protocol.streams.send_item(first, b"1")
    pair.client.protocol.streams.send_item(second, b"2")
    pair.client.protocol.calls.start("m", b"", handle=None)
    pair.pump()
    request, item = pair.server.events
    assert isinstance(item, ev.StreamItemReceived)
    assert (item.frame.payload, type(request)) == (b"2", IncomingCall)
    pair.server.events.clear()
    pair.held.clear()
    pair.pump()
    assert pair.server.take(ev.StreamItemReceived).stream is far_first


def test_credit_may_still_follow_the_end_of_its_senders_own_half(pair: ProtocolPair) -> None:
    opened = pair.client.protocol.streams.open("s", pair.client.open_stream(), None)
    pair.pump()
    taken = pair.server.take(ev.StreamOpened).stream
    pair.server.protocol.streams.accept(taken)
    pair.server.protocol.streams.end(taken)
    pair.pump()
    granted = opened.send_credit.granted
    pair.server.send(f.CreditFrame(opened.id, granted + 1), on=opened.stream_id)
    pair.pump()
    assert opened.send_credit.granted == granted + 1


def test_a_reason_over_the_peers_limit_fails_here_and_the_stream_stays_open() -> None:
    pair = ProtocolPair(server=Limits(max_payload_bytes=1024))
    streams = pair.client.protocol.streams
    stream = streams.open("s", pair.client.open_stream(), None)
    with pytest.raises(ResourceError, match="payload of 1025 bytes is over the peer's limit of 1024"):
        streams.reset(stream, Status.ABORTED, bytes(1025))
    assert streams.reset(stream, Status.ABORTED, bytes(1024))
    pair.pump()
