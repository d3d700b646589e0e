"""What one side holds for the other: counted until it is taken, and refused where it is too much."""

from __future__ import annotations

import pytest

from echostream.config import Limits
from echostream.errors import CloseCode, RemoteProtocolError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.account import Account
from echostream.protocol.peer import PeerProtocol
from echostream.protocol.records import AppStream, IncomingCall, OutgoingCall
from tests.protocol.pair import ProtocolPair, Side

KIB = 1 << 10
SMALL = Limits(
    max_payload_bytes=40 * KIB, max_reassembly_bytes=64 * KIB, max_held_bytes=100 * KIB, large_payload_bytes=4 * KIB,
    call_window_bytes=1000 * KIB, stream_window_bytes=1000 * KIB,
)  # fmt: skip
ITEM = bytes(30 * KIB)
FAILURE = f"the other side holds more than {100 * KIB} bytes that wait there (max_held_bytes)"


@pytest.fixture
def pair() -> ProtocolPair:
    return ProtocolPair(client=SMALL, server=SMALL)


def held(side: Side) -> int:
    return side.protocol.link.held.held


def told(side: Side, payload: bytes) -> str:
    message: str = side.payload.decode(payload)["message"]
    return message


def open_stream(pair: ProtocolPair, name: str = "s") -> tuple[AppStream, AppStream]:
    near = pair.client.protocol.streams.open(name, pair.client.open_stream(), None)
    pair.pump()
    far = pair.server.take(ev.StreamOpened).stream
    pair.server.protocol.streams.accept(far)
    pair.pump()
    pair.client.events.clear()
    return near, far


def test_items_of_a_stream_count_until_they_are_taken(pair: ProtocolPair) -> None:
    near, far = open_stream(pair)
    for _ in range(2):
        pair.client.protocol.streams.send_item(near, ITEM)
    pair.pump()
    assert held(pair.server) == 2 * (len(ITEM) + 16)
    pair.server.protocol.streams.item_consumed(far, len(ITEM))
    assert held(pair.server) == len(ITEM) + 16
    pair.client.protocol.streams.reset(near, Status.CANCELLED)
    pair.pump()
    assert held(pair.server) == 0
    pair.server.protocol.streams.item_consumed(far, len(ITEM))  # it is still read: that is the application's
    assert held(pair.server) == 0


def test_an_item_that_is_too_much_ends_its_stream_on_both_sides_and_no_other(pair: ProtocolPair) -> None:
    near, far = open_stream(pair, "hoarded")
    other, _ = open_stream(pair)
    for _ in range(4):
        pair.client.protocol.streams.send_item(near, ITEM)
    pair.pump()
    assert held(pair.server) == 0
    events = pair.server.events
    assert isinstance(events[-2], ev.HoldingRefused)
    assert events[-2].what == "stream 'hoarded'"
    failure = pair.server.payload.encode({"message": FAILURE, "details": {}})
    assert events[-1] == ev.StreamWasReset(far, Status.RESOURCE_EXHAUSTED, failure)
    reset = pair.client.take(ev.StreamWasReset)
    assert (reset.stream, reset.status) == (near, Status.RESOURCE_EXHAUSTED)
    assert told(pair.client, reset.payload) == FAILURE
    pair.client.protocol.streams.send_item(other, ITEM)
    pair.pump()
    assert held(pair.server) == len(ITEM) + 16


def begin(pair: ProtocolPair, *, sends_items: bool = False, accepts_items: bool = False) -> OutgoingCall:
    return pair.client.protocol.calls.start(
        "m", b"", handle=None, stream_id=pair.client.open_stream(), sends_items=sends_items, accepts_items=accepts_items
    )


def test_input_that_is_too_much_ends_its_call_on_both_sides(pair: ProtocolPair) -> None:
    call = begin(pair, sends_items=True)
    for _ in range(4):
        pair.client.protocol.calls.send_item(call, ITEM)
    pair.pump()
    *_, refused, cancelled = pair.server.events
    assert isinstance(refused, ev.HoldingRefused)
    assert isinstance(cancelled, ev.CallCancelled)
    assert cancelled.status == Status.RESOURCE_EXHAUSTED
    answer = pair.client.take(OutgoingCall).frame
    assert (answer.status, told(pair.client, answer.payload)) == (Status.RESOURCE_EXHAUSTED, FAILURE)
    assert held(pair.server) == 0
    pair.assert_nothing_left()


def test_results_that_are_too_much_end_their_call_on_both_sides(pair: ProtocolPair) -> None:
    begin(pair, accepts_items=True)
    pair.pump()
    incoming = pair.server.take(IncomingCall)
    for _ in range(4):
        pair.server.protocol.calls.send_item(incoming, ITEM)
    pair.pump()
    *_, refused, answer = pair.client.events
    assert isinstance(refused, ev.HoldingRefused)
    assert isinstance(answer, OutgoingCall)
    assert answer.frame.status == Status.RESOURCE_EXHAUSTED
    assert isinstance(pair.server.events[-1], ev.CallCancelled)
    assert held(pair.client) == 0
    pair.assert_nothing_left()


def test_large_arguments_count_while_their_call_runs_and_a_call_too_many_is_refused(pair: ProtocolPair) -> None:
    for _ in range(4):
        stream_id = pair.client.open_stream(unidirectional=True)
        pair.client.protocol.calls.start("m", ITEM, handle=None, request_stream=stream_id)
    pair.client.protocol.calls.start("m", b"", handle=None)
    pair.pump()
    running = [event for event in pair.server.events if isinstance(event, IncomingCall)]
    running.sort(key=lambda call: call.id)
    assert [call.held_bytes for call in running] == [len(ITEM)] * 3 + [0]
    answer = pair.client.take(OutgoingCall).frame
    assert (answer.status, told(pair.client, answer.payload)) == (Status.RESOURCE_EXHAUSTED, FAILURE)
    assert held(pair.server) == 3 * len(ITEM)
    pair.server.protocol.calls.respond(running[0], Status.OK, b"")
    assert held(pair.server) == 2 * len(ITEM)
    pair.pump()
    pair.client.take(OutgoingCall)
    for call in list(pair.client.protocol.calls.outgoing.values()):
        pair.client.protocol.calls.cancel(call)
    pair.pump()
    assert held(pair.server) == 0


def test_unfinished_frames_count(pair: ProtocolPair) -> None:
    stream_id = pair.client.open_stream()
    pair.client.write(stream_id, (20 * KIB).to_bytes(4, "big") + bytes(10 * KIB))
    pair.pump()
    assert held(pair.server) == 10 * KIB + 4
    pair.server.protocol.receive_reset(stream_id)
    assert held(pair.server) == 0


def test_where_all_hold_too_much_unfinished_frames_end_the_connection_that_has_more_than_its_part() -> None:
    account = Account(30 * KIB)
    limits = Limits(max_reassembly_bytes=4 << 20)
    pair = ProtocolPair(client=limits, server=limits)
    side = pair.server
    machine = PeerProtocol(side.protocol.hello, side.codec, side.payload, limits, lambda: 0, account)
    hello = pair.client.codec.plain(f.FrameKind.HELLO, 0, pair.client.protocol.hello.encode(pair.client.payload))
    machine.receive_data(0, hello)
    machine.send_hello()
    modest = account.open(1 << 20)
    assert not modest.add(12 * KIB)
    frame = (1 << 20).to_bytes(4, "big") + bytes(16 * KIB)
    machine.receive_data(4, frame)
    with pytest.raises(RemoteProtocolError, match="and all connections together too many") as caught:
        machine.receive_data(8, frame)
    assert caught.value.close_code == CloseCode.LIMIT_EXCEEDED
    assert not modest.full
    machine.close()
    assert (account.held, account.shares) == (12 * KIB, 1)


def test_a_closed_connection_holds_nothing(pair: ProtocolPair) -> None:
    near, _ = open_stream(pair)
    pair.client.protocol.streams.send_item(near, ITEM)
    pair.pump()
    assert held(pair.server) > 0
    pair.server.protocol.close()
    assert held(pair.server) == 0
