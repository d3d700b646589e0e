"""Lanes: unary calls that share transport streams; what may be done on them and what not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from echostream.errors import LocalProtocolError, RemoteProtocolError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.hello import FEATURES, LANES, Hello
from echostream.protocol.link import LANE
from echostream.protocol.records import IncomingCall, OutgoingCall
from echostream.types import Role
from tests.protocol.pair import ProtocolPair, Side


@pytest.fixture(params=["client", "server"])
def caller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def begin(side: Side, lane: int, text: bytes = b"") -> OutgoingCall:
    return side.protocol.calls.start("method", text, handle=None, stream_id=lane)


def open_lane(side: Side) -> int:
    lane = side.open_stream()
    side.protocol.calls.open_lane(lane)
    return lane


def test_calls_share_a_lane_that_either_side_opened_and_each_is_answered_on_its_own(caller: str) -> None:
    pair = ProtocolPair(byte_at_a_time=True)
    here: Side = getattr(pair, caller)
    there = pair.other(here)
    lanes = [LANE, open_lane(here), open_lane(here)]
    calls = [begin(here, lane, bytes([number])) for number in range(3) for lane in lanes]
    pair.pump()
    incoming = there.take_all(IncomingCall)
    assert [call.stream_id for call in incoming] == [lane for lane in lanes for _ in range(3)]
    for call in incoming:
        there.protocol.calls.respond(call, Status.OK, b"%d" % call.id)
    there.flush()
    assert all(there.halves[lane].chunks for lane in lanes)
    pair.pump()
    answers = {call.id: call.frame.payload for call in here.take_all(OutgoingCall)}
    assert answers == {call.id: b"%d" % call.id for call in calls}
    pair.assert_nothing_left()


def test_what_is_held_up_on_one_lane_holds_up_no_other() -> None:
    pair = ProtocolPair()
    lanes = [open_lane(pair.client), open_lane(pair.client)]
    pair.pump()
    pair.held.add(lanes[0])
    begin(pair.client, lanes[0], b"late")
    begin(pair.client, lanes[1], b"in time")
    pair.pump()
    assert pair.server.take(IncomingCall).frame.payload == b"in time"
    pair.held.clear()
    pair.pump()
    assert pair.server.take(IncomingCall).frame.payload == b"late"


def test_a_cancel_travels_on_the_lane_of_its_call() -> None:
    pair = ProtocolPair()
    lane = open_lane(pair.client)
    call = begin(pair.client, lane)
    pair.pump()
    incoming = pair.server.take(IncomingCall)
    assert pair.client.protocol.calls.cancel(call, Status.DEADLINE_EXCEEDED)
    pair.client.flush()
    assert pair.client.halves[lane].chunks
    pair.pump()
    assert pair.server.take(ev.CallCancelled) == ev.CallCancelled(incoming, Status.DEADLINE_EXCEEDED)
    pair.assert_nothing_left()


def test_a_large_answer_to_a_call_on_a_lane_travels_by_itself() -> None:
    pair = ProtocolPair()
    begin(pair.client, open_lane(pair.client))
    pair.pump()
    own = pair.server.open_stream(unidirectional=True)
    incoming = pair.server.take(IncomingCall)
    assert pair.server.protocol.calls.respond(incoming, Status.OK, b"large", own_stream=own)
    pair.pump()
    assert pair.client.take(OutgoingCall).frame.payload == b"large"
    pair.assert_nothing_left()


def test_with_a_peer_that_knows_one_lane_there_is_one() -> None:
    pair = ProtocolPair(server_hello=Hello(role=Role.SERVER, features=FEATURES - {LANES}))
    with pytest.raises(LocalProtocolError, match="peer has no more lanes"):
        open_lane(pair.client)
    begin(pair.client, LANE)
    pair.pump()
    assert pair.server.take(IncomingCall).stream_id == LANE
    pair.client.send(f.LaneOpenFrame(0), on=pair.client.open_stream())
    refused(pair, "but feature lanes was not agreed")


def test_before_the_hello_there_are_no_lanes() -> None:
    with pytest.raises(LocalProtocolError, match="cannot open a lane: the session is not open"):
        ProtocolPair(meet=False).client.protocol.calls.open_lane(4)


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        (lambda pair, lane: pair.server.protocol.receive_data(lane, b"", fin=True), "peer ended the lane"),
        (lambda pair, lane: pair.server.protocol.receive_reset(lane), "peer reset the lane"),
        (lambda pair, lane: pair.server.protocol.receive_stop(lane), "peer stopped reading the lane"),
        (lambda pair, lane: pair.client.protocol.receive_stop(lane), "peer stopped reading the lane"),
        (lambda pair, lane: send(pair, f.LaneOpenFrame(0), lane), "second lane on stream 4"),
        (lambda pair, lane: send(pair, f.LaneOpenFrame(0), LANE), "second lane on stream 0"),
        (lambda pair, lane: send(pair, f.LaneOpenFrame(0), 3), "lane on stream 3, which is not a two-way stream"),
        (lambda pair, lane: send(pair, f.LaneOpenFrame(0), 2), "lane on stream 2, which is not a two-way stream"),
        (lambda pair, lane: send(pair, f.StreamOpenFrame(1, "s"), lane), "second stream on stream 4"),
        (
            lambda pair, lane: send(pair, f.RequestFrame(1, "m", b"", accepts_items=True), lane),
            "streaming call on stream 4: it needs a two-way one of its own",
        ),
    ],
)
def test_a_lane_is_nothing_else_and_stays(attack: Callable[[ProtocolPair, int], Any], text: str) -> None:
    pair = ProtocolPair()
    lane = open_lane(pair.client)
    pair.pump()
    with pytest.raises(RemoteProtocolError, match=text):
        attack(pair, lane)


def test_the_peer_cannot_call_on_a_lane_that_it_did_not_open() -> None:
    pair = ProtocolPair()
    lane = open_lane(pair.client)
    pair.pump()
    with pytest.raises(RemoteProtocolError, match=f"request on stream {lane}, which is not a two-way stream of the"):
        pair.client.protocol.receive_data(lane, pair.server.codec.encode(f.RequestFrame(2, "m", b"")))


def test_a_stream_of_a_call_cannot_become_a_lane() -> None:
    pair = ProtocolPair()
    stream_id = pair.client.open_stream()
    begin(pair.client, stream_id)
    pair.pump()
    pair.client.send(f.LaneOpenFrame(0), on=stream_id)
    refused(pair, f"second lane on stream {stream_id}")


def test_a_lane_that_was_stopped_before_it_opened_is_none() -> None:
    pair = ProtocolPair()
    assert pair.server.protocol.receive_stop(4) == []
    send(pair, f.LaneOpenFrame(0), 4)
    assert pair.server.protocol.link.peer_lanes == {LANE}


def send(pair: ProtocolPair, frame: f.Frame, stream_id: int) -> None:
    pair.server.protocol.receive_data(stream_id, pair.client.codec.encode(frame))


def refused(pair: ProtocolPair, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        pair.pump()
