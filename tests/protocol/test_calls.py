"""Calls on both sides of a pair: the four shapes, refusals, cancellation, and every race of a call with its end."""

from __future__ import annotations

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
from echostream.protocol.hello import FEATURES, Hello
from echostream.protocol.link import LANE
from echostream.protocol.records import IncomingCall, OutgoingCall
from echostream.types import Role
from tests.protocol.pair import ProtocolPair, Side, leftovers

SMALL = Limits(call_window_bytes=1024)


@pytest.fixture(params=[False, True], ids=["whole", "byte at a time"])
def pair(request: pytest.FixtureRequest) -> ProtocolPair:
    return ProtocolPair(byte_at_a_time=request.param, client=SMALL, server=SMALL)


def begin(
    pair: ProtocolPair, *, own: bool = True, sends_items: bool = False, accepts_items: bool = False
) -> tuple[OutgoingCall, IncomingCall]:
    """Have the client call the server; return both ends."""
    client = pair.client
    call = client.protocol.calls.start(
        "method",
        b"\x92\x90\x80",
        handle="mine",
        stream_id=client.open_stream() if own else LANE,
        sends_items=sends_items,
        accepts_items=accepts_items,
    )
    pair.pump()
    return call, pair.server.take(IncomingCall)


def refused(pair: ProtocolPair, text: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        pair.pump()
    assert (caught.value.message, caught.value.close_code) == (text, code)


def message(side: Side, payload: bytes) -> str:
    text: str = side.payload.decode(payload)["message"]
    return text


# From the first frame to the last


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("own", [False, True], ids=["on the lane", "on its own stream"])
def test_a_unary_call_is_answered(pair: ProtocolPair, who: str, own: bool) -> None:
    caller: Side = getattr(pair, who)
    responder = pair.other(caller)
    call = caller.protocol.calls.start(
        "echo",
        b"hi",
        handle="mine",
        stream_id=caller.open_stream() if own else LANE,
        timeout_ns=5,
        metadata={"k": "v"},
        raw=True,
    )
    pair.pump()
    received = responder.take(IncomingCall)
    assert received.frame == f.RequestFrame(call.id, "echo", b"hi", 5, {"k": "v"}, raw=True)
    answered = responder.protocol.calls.respond(
        received, Status.OK, b"ho", metadata={"t": "1"}, initial={"i": "1"}, raw=True
    )
    pair.pump()
    response = caller.take(OutgoingCall)
    assert answered
    assert (response, response.handle) == (call, "mine")
    assert response.frame == f.ResponseFrame(call.id, 0, b"ho", {"t": "1"}, {"i": "1"}, raw=True)
    pair.assert_nothing_left()


def test_ids_rise_and_tell_who_called() -> None:
    pair = ProtocolPair()
    ids = [[side.protocol.calls.start("m", b"", handle=None).id for _ in range(3)] for side in pair.sides]
    assert ids == [[1, 3, 5], [2, 4, 6]]


def test_a_large_response_to_a_call_on_the_lane_has_a_stream_of_its_own(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, own=False)
    stream_id = pair.server.open_stream(unidirectional=True)
    pair.server.protocol.calls.respond(incoming, Status.OK, bytes(3000), own_stream=stream_id)
    pair.pump()
    assert pair.client.take(OutgoingCall) is call
    assert pair.server.halves[stream_id].done
    pair.assert_nothing_left()


def test_items_flow_both_ways_then_the_response_comes(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, sends_items=True, accepts_items=True)
    calls, back = pair.client.protocol.calls, pair.server.protocol.calls
    calls.send_item(call, b"up", raw=True)
    back.send_item(incoming, b"\x01", initial={"i": "1"})
    back.send_progress(incoming, b"\x93\x01\xc0\xc0")
    calls.end_input(call)
    calls.end_input(call)
    pair.pump()
    item, ended = pair.server.events
    assert isinstance(item, ev.ItemReceived)
    assert isinstance(ended, ev.InputEnded)
    assert (item.call, item.frame) == (incoming, f.ItemFrame(1, b"up", raw=True))
    assert (ended.call, incoming.input_open) == (incoming, False)
    down, progress = pair.client.events
    assert isinstance(down, ev.ItemReceived)
    assert isinstance(progress, ev.ProgressReceived)
    assert (down.call, down.frame.initial, progress.frame.payload) == (call, {"i": "1"}, b"\x93\x01\xc0\xc0")
    pair.client.events.clear()
    back.respond(incoming, Status.OK, b"\xc0")
    pair.pump()
    assert pair.client.take(OutgoingCall) is call
    pair.assert_nothing_left()


def test_a_caller_may_end_its_half_with_the_request_when_nothing_follows() -> None:
    pair = ProtocolPair()
    stream_id = pair.client.open_stream()
    pair.client.send(f.RequestFrame(1, "echo", b"\x90"), on=stream_id, fin=True)
    pair.pump()
    incoming = pair.server.take(IncomingCall)
    pair.server.protocol.calls.respond(incoming, Status.OK, b"\xc0")
    assert pair.server.protocol.take_writes() == [
        (stream_id, pair.server.codec.encode(f.ResponseFrame(1, 0, b"\xc0")), True)
    ]
    assert leftovers(pair.server.protocol) == {}


# Credit


def test_a_caller_waits_for_credit_and_gets_it_when_items_are_taken(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, sends_items=True)
    credit = call.send_credit
    assert credit is not None
    sent = 0
    while credit.available:
        pair.client.protocol.calls.send_item(call, bytes(400))
        sent += 1
    assert sent == 3
    with pytest.raises(LocalProtocolError, match="no credit for an item: 1248 bytes sent, 1024 granted"):
        pair.client.protocol.calls.send_item(call, b"")
    pair.pump()
    assert len(pair.server.take_all(ev.ItemReceived)) == 3
    pair.server.protocol.calls.item_consumed(incoming, 400)
    pair.pump()
    assert pair.client.events == []
    pair.server.protocol.calls.item_consumed(incoming, 400)
    pair.pump()
    assert pair.client.take(ev.CreditReceived).target is call
    assert credit.granted == 1024 + 832
    pair.client.protocol.calls.send_item(call, b"")


def test_a_responder_has_credit_of_its_own(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, accepts_items=True)
    pair.server.protocol.calls.send_item(incoming, bytes(3000))
    pair.pump()
    pair.client.take(ev.ItemReceived)
    pair.client.protocol.calls.item_consumed(call, 3000)
    pair.pump()
    assert pair.server.take(ev.CreditReceived).target is incoming


def test_the_windows_are_those_of_the_side_that_reads() -> None:
    pair = ProtocolPair(client=Limits(call_window_bytes=2000), server=Limits(call_window_bytes=3000))
    call, incoming = begin(pair, sends_items=True, accepts_items=True)
    assert call.send_credit is not None
    assert call.receive_credit is not None
    assert incoming.send_credit is not None
    assert incoming.receive_credit is not None
    granted = [call.send_credit.granted, incoming.receive_credit.granted]
    assert granted == [3000, 3000]
    assert [incoming.send_credit.granted, call.receive_credit.granted] == [2000, 2000]


def test_an_item_without_credit_is_refused(pair: ProtocolPair) -> None:
    call, _ = begin(pair, sends_items=True)
    pair.client.send(f.ItemFrame(call.id, bytes(1024 - 16)), on=call.stream_id)
    pair.client.send(f.ItemFrame(call.id, b""), on=call.stream_id)
    refused(pair, "item sent without credit: 1024 bytes came, 1024 were granted", CloseCode.LIMIT_EXCEEDED)


def test_an_item_with_the_last_byte_of_credit_passes() -> None:
    pair = ProtocolPair(server=SMALL)
    call, _ = begin(pair, sends_items=True)
    pair.client.send(f.ItemFrame(call.id, bytes(1023 - 16)), on=call.stream_id)
    pair.client.send(f.ItemFrame(call.id, bytes(5000)), on=call.stream_id)
    pair.pump()
    assert len(pair.server.take_all(ev.ItemReceived)) == 2


def test_repeated_and_lower_credit_changes_nothing(pair: ProtocolPair) -> None:
    call, _ = begin(pair, sends_items=True)
    for total in (0, 1024):
        pair.server.send(f.CreditFrame(call.id, total), on=call.stream_id)
    pair.pump()
    assert pair.client.events == []


def test_credit_for_a_call_without_items_is_refused(pair: ProtocolPair) -> None:
    call, _ = begin(pair, own=False)
    pair.server.send(f.CreditFrame(call.id, 1))
    refused(pair, "credit for call 1, which sends nothing")


# What is refused


@pytest.mark.parametrize(
    ("number", "text"), [(2, "request id 2 is not one of the peer's"), (0, "request id 0 is not one of the peer's")]
)
def test_a_request_with_a_foreign_id_is_refused(pair: ProtocolPair, number: int, text: str) -> None:
    pair.client.send(f.RequestFrame(number, "m", b""))
    refused(pair, text)


def test_an_id_in_use_is_refused(pair: ProtocolPair) -> None:
    begin(pair)
    pair.client.send(f.RequestFrame(1, "m", b""))
    refused(pair, "request id 1 is in use")


@pytest.mark.parametrize("flag", ["sends_items", "accepts_items"])
def test_a_streaming_call_on_the_lane_is_refused(pair: ProtocolPair, flag: str) -> None:
    pair.client.send(f.RequestFrame(1, "m", b"", **{flag: True}))  # type: ignore[arg-type]
    refused(pair, "streaming call on stream 0: it needs a two-way one of its own")


def test_a_streaming_call_on_a_one_way_stream_is_refused(pair: ProtocolPair) -> None:
    one_way = pair.client.open_stream(unidirectional=True)
    pair.client.send(f.RequestFrame(1, "m", b"", sends_items=True), on=one_way)
    refused(pair, f"streaming call on stream {one_way}: it needs a two-way one of its own")


# Large requests on a one-way stream of their own


def begin_large(pair: ProtocolPair) -> OutgoingCall:
    """Queue a call whose request travels by itself."""
    client = pair.client
    stream_id = client.open_stream(unidirectional=True)
    client.revocable.add(stream_id)
    return client.protocol.calls.start("method", b"." * 1000, handle="mine", request_stream=stream_id)


def test_a_large_request_travels_by_itself_and_is_answered_on_the_lane(pair: ProtocolPair) -> None:
    call = begin_large(pair)
    pair.pump()
    incoming = pair.server.take(IncomingCall)
    assert (call.stream_id, incoming.stream_id) == (LANE, LANE)
    assert pair.server.protocol.calls.respond(incoming, Status.OK, b"answer")
    pair.pump()
    assert pair.client.take(OutgoingCall).frame.payload == b"answer"
    assert not pair.client.protocol.link.owners
    assert not pair.server.protocol.link.owners


def test_a_cancel_that_overtakes_a_large_request_keeps_it_from_being_served(pair: ProtocolPair) -> None:
    call = begin_large(pair)
    assert call.request_stream is not None
    pair.held.add(call.request_stream)
    pair.client.flush()
    request = pair.client.codec.encode(f.RequestFrame(call.id, "method", b"." * 1000))
    assert pair.client.protocol.calls.cancel(call, Status.DEADLINE_EXCEEDED)
    pair.pump()
    # The reset lost the race: the request had left as a whole.
    assert pair.server.protocol.receive_data(call.request_stream, request, fin=True) == []
    assert not pair.server.protocol.calls.incoming


def test_a_cancel_after_a_large_request_reaches_its_handler(pair: ProtocolPair) -> None:
    call = begin_large(pair)
    pair.pump()
    incoming = pair.server.take(IncomingCall)
    assert pair.client.protocol.calls.cancel(call, Status.DEADLINE_EXCEEDED)
    pair.pump()
    assert pair.server.take(ev.CallCancelled) == ev.CallCancelled(incoming, Status.DEADLINE_EXCEEDED)


def test_only_the_last_256_cancellations_are_remembered(pair: ProtocolPair) -> None:
    for number in range(1, 2 * 300, 2):
        pair.client.send(f.CancelFrame(number, Status.CANCELLED))
    pair.pump()
    remembered = pair.server.protocol.link.cancelled
    assert list(remembered) == list(range(2 * 300 - 2 * 256 + 1, 2 * 300, 2))


def test_a_go_away_takes_back_a_large_request_that_it_crossed(pair: ProtocolPair) -> None:
    pair.client.protocol.calls.start("first", b"", handle=None)
    pair.pump()
    call = begin_large(pair)
    pair.server.protocol.go_away(CloseCode.SHUTDOWN)
    pair.pump()
    assert pair.client.take(ev.GoAwayReceived).rejected == [call]


@pytest.mark.parametrize("answered", [False, True], ids=["still open", "answered"])
def test_a_second_request_on_a_stream_is_refused(pair: ProtocolPair, answered: bool) -> None:
    call, incoming = begin(pair)
    pair.held.add(call.stream_id)
    if answered:
        pair.server.protocol.calls.respond(incoming, Status.OK, b"")
        pair.server.flush()
    with pytest.raises(RemoteProtocolError) as caught:
        pair.server.protocol.receive_data(call.stream_id, pair.client.codec.encode(f.RequestFrame(3, "m", b"")))
    assert caught.value.message == f"second request on stream {call.stream_id}"


@pytest.mark.parametrize("stream_id", [1, 3])
def test_a_request_where_it_cannot_be_answered_is_refused(stream_id: int) -> None:
    server = ProtocolPair().server
    with pytest.raises(RemoteProtocolError) as caught:
        server.protocol.receive_data(stream_id, server.codec.encode(f.RequestFrame(3, "m", b"")))
    assert caught.value.message == f"request on stream {stream_id}, which is not a two-way stream of the peer"


def test_an_item_for_a_call_that_takes_none_is_refused(pair: ProtocolPair) -> None:
    call, _ = begin(pair)
    pair.client.send(f.ItemFrame(call.id, b""), on=call.stream_id)
    refused(pair, "item for call 1, which takes none")


def test_an_item_of_a_responder_that_may_send_none_is_refused(pair: ProtocolPair) -> None:
    call, _ = begin(pair, sends_items=True)
    pair.server.send(f.ItemFrame(call.id, b""), on=call.stream_id)
    refused(pair, "item for call 1, which takes none")


def test_an_item_after_the_end_is_refused(pair: ProtocolPair) -> None:
    call, _ = begin(pair, sends_items=True)
    pair.client.protocol.calls.end_input(call)
    with pytest.raises(LocalProtocolError) as caught:
        pair.client.protocol.calls.send_item(call, b"")
    assert caught.value.message == "method takes no more items: its input was ended"
    pair.client.send(f.ItemFrame(call.id, b""), on=call.stream_id)
    refused(pair, "item for call 1, which takes none")


@pytest.mark.parametrize("sends_items", [True, False])
def test_an_end_of_what_is_not_open_is_refused(pair: ProtocolPair, sends_items: bool) -> None:
    call, _ = begin(pair, sends_items=sends_items)
    pair.client.protocol.calls.end_input(call)
    pair.client.send(f.EndFrame(call.id), on=call.stream_id)
    refused(pair, "end for call 1, whose input is not open")


def test_a_cancel_frame_for_a_call_with_its_own_stream_is_refused(pair: ProtocolPair) -> None:
    begin(pair)
    pair.client.send(f.CancelFrame(1, 1))
    refused(pair, "cancel for call 1, which has a stream of its own to be reset")


def test_a_side_does_not_send_what_the_call_does_not_take() -> None:
    pair = ProtocolPair()
    call, incoming = begin(pair)
    for side, each in ((pair.client, call), (pair.server, incoming)):
        with pytest.raises(LocalProtocolError) as caught:
            side.protocol.calls.send_item(each, b"")
        assert caught.value.message == "method takes no items from this side"
        assert caught.value.operation == "method"
        side.protocol.calls.item_consumed(each, 1 << 30)
    pair.pump()
    assert (pair.client.events, pair.server.events) == ([], [])


# Limits


def test_calls_at_the_limit_pass_and_one_more_is_answered_with_the_limit(pair: ProtocolPair) -> None:
    pair = ProtocolPair(server=Limits(max_concurrent_calls=2), byte_at_a_time=pair.byte_at_a_time)
    calls = [begin(pair, own=own) for own in (False, True)]
    for own in (False, True):
        stream_id = pair.client.open_stream() if own else LANE
        pair.client.protocol.calls.start("m", b"", handle=None, stream_id=stream_id, sends_items=own)
        pair.pump()
        frame = pair.client.take(OutgoingCall).frame
        assert frame.status == Status.RESOURCE_EXHAUSTED
        assert message(pair.client, frame.payload) == "more than 2 calls at once (max_concurrent_calls)"
    assert pair.server.events == []
    pair.server.protocol.calls.respond(calls[0][1], Status.OK, b"")
    pair.pump()
    pair.client.take(OutgoingCall)
    begin(pair)


def test_a_payload_over_the_peers_limit_fails_here_and_changes_nothing() -> None:
    pair = ProtocolPair(client=Limits(max_payload_bytes=1024), server=Limits(max_payload_bytes=2048))
    calls = pair.client.protocol.calls
    with pytest.raises(ResourceError, match="payload of 2049 bytes is over the peer's limit of 2048"):
        calls.start("m", bytes(2049), handle=None)
    call, incoming = begin(pair, sends_items=True, accepts_items=True)
    assert call.id == 1, "what failed took no id"
    with pytest.raises(ResourceError, match="payload of 2049 bytes is over the peer's limit of 2048"):
        calls.send_item(call, bytes(2049))
    assert call.send_credit is not None
    assert call.send_credit.sent == 0
    with pytest.raises(ResourceError, match="payload of 1025 bytes is over the peer's limit of 1024"):
        pair.server.protocol.calls.respond(incoming, Status.OK, bytes(1025))
    with pytest.raises(ResourceError, match=r"metadata of \d+ bytes is over the limit of 8192 \(max_metadata_bytes\)"):
        pair.server.protocol.calls.send_item(incoming, b"", initial={"k": "v" * 9000})
    assert incoming.send_credit is not None
    assert incoming.send_credit.sent == 0
    assert pair.server.protocol.calls.respond(incoming, Status.INTERNAL, bytes(1024)), "it is still to be answered"


def test_a_name_without_a_form_fails_here_and_takes_no_id() -> None:
    pair = ProtocolPair()
    with pytest.raises(InvalidArgumentError, match="name of 65536 bytes is over the limit of 65535"):
        pair.client.protocol.calls.start("m" * 65_536, b"", handle=None)
    assert pair.client.protocol.link.next_id == 1


def test_progress_is_not_sent_to_a_peer_that_cannot_read_it() -> None:
    pair = ProtocolPair(client_hello=Hello(role=Role.CLIENT, features=FEATURES - {"progress"}))
    _, incoming = begin(pair)
    pair.server.protocol.calls.send_progress(incoming, b"\x93\x01\xc0\xc0")
    assert pair.server.protocol.take_writes() == []


# Cancellation and its races


def test_a_cancelled_call_on_the_lane_is_told_with_the_status(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, own=False)
    assert pair.client.protocol.calls.cancel(call, Status.DEADLINE_EXCEEDED)
    assert not pair.client.protocol.calls.cancel(call)
    pair.pump()
    cancelled = pair.server.take(ev.CallCancelled)
    assert (cancelled.call, cancelled.status) == (incoming, Status.DEADLINE_EXCEEDED)
    assert not pair.server.protocol.calls.respond(incoming, Status.OK, b"")
    pair.server.protocol.calls.send_progress(incoming, b"")
    pair.pump()
    assert pair.client.events == []
    pair.assert_nothing_left()


@pytest.mark.parametrize("first", ["reset", "stop"])
@pytest.mark.parametrize(
    ("code", "status"), [(4, Status.DEADLINE_EXCEEDED), (0, Status.CANCELLED), (1 << 61, Status.CANCELLED)]
)
def test_a_cancelled_call_on_its_own_stream_is_told_once_with_the_status(first: str, code: int, status: Status) -> None:
    pair = ProtocolPair()
    call, incoming = begin(pair, sends_items=True, accepts_items=True)
    pair.client.protocol.calls.cancel(call, code)
    pair.client.flush()
    pair.deliver(pair.client, call.stream_id if first == "reset" else -1)
    cancelled = pair.server.take(ev.CallCancelled)
    assert (cancelled.call, cancelled.status) == (incoming, status)
    pair.pump()
    assert (pair.client.events, pair.server.events) == ([], [])
    pair.assert_nothing_left()


def test_a_request_whose_stop_overtook_it_is_dropped(pair: ProtocolPair) -> None:
    call = pair.client.protocol.calls.start("m", b"", handle=None, stream_id=pair.client.open_stream())
    pair.client.flush()
    pair.client.protocol.calls.cancel(call)
    stream_id, reset, stop, code = pair.client.protocol.take_aborts()[0]
    assert (stream_id, reset, stop) == (call.stream_id, True, True)
    pair.server.protocol.receive_stop(stream_id, code)
    pair.pump()
    assert (pair.server.events, pair.server.protocol.link.late_frames) == ([], 1)
    assert pair.server.protocol.receive_reset(stream_id, code) == []
    assert leftovers(pair.server.protocol) == {}


def test_a_response_that_crosses_a_cancel_is_dropped(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, own=False)
    pair.server.protocol.calls.respond(incoming, Status.OK, b"")
    pair.client.protocol.calls.cancel(call)
    pair.pump()
    assert (pair.client.events, pair.server.events) == ([], [])
    assert [side.protocol.link.late_frames for side in pair.sides] == [1, 1]
    pair.assert_nothing_left()


def test_items_and_progress_that_cross_a_cancel_are_dropped(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, accepts_items=True)
    pair.server.protocol.calls.send_item(incoming, b"x")
    pair.server.protocol.calls.send_progress(incoming, b"\x93\x01\xc0\xc0")
    pair.server.flush()
    pair.client.protocol.calls.cancel(call)
    pair.deliver(pair.server, call.stream_id)
    assert (pair.client.events, pair.client.protocol.link.late_frames) == ([], 2)
    pair.pump()
    pair.server.take(ev.CallCancelled)
    pair.server.protocol.calls.send_item(incoming, b"too late")
    pair.assert_nothing_left()


def test_credit_that_crosses_the_response_is_dropped(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, accepts_items=True)
    pair.server.protocol.calls.send_item(incoming, bytes(800))
    pair.pump()
    pair.client.take(ev.ItemReceived)
    pair.client.protocol.calls.item_consumed(call, 800)
    pair.server.protocol.calls.respond(incoming, Status.OK, b"")
    pair.pump()
    assert (pair.server.events, pair.server.protocol.link.late_frames) == ([], 1)
    pair.client.take(OutgoingCall)
    pair.assert_nothing_left()


def test_a_call_may_be_taken_up_again_after_its_response_is_lost_to_a_cancel() -> None:
    pair = ProtocolPair()
    call, incoming = begin(pair, own=False)
    pair.client.protocol.calls.cancel(call)
    pair.pump()
    pair.server.take(ev.CallCancelled)
    pair.client.send(f.RequestFrame(1, "again", b""))  # a peer that uses an id twice
    pair.pump()
    again = pair.server.take(IncomingCall)
    assert not pair.server.protocol.calls.respond(incoming, Status.OK, b""), "the old one stays ended"
    assert pair.server.protocol.calls.respond(again, Status.OK, b"")


# A response before the input has ended


@pytest.mark.parametrize("first", ["stop", "response"])
def test_an_early_response_arrives_whether_or_not_its_stop_overtakes_it(first: str) -> None:
    pair = ProtocolPair()
    call, incoming = begin(pair, sends_items=True, accepts_items=True)
    client, server = pair.client.protocol.calls, pair.server.protocol.calls
    server.send_item(incoming, bytes(200_000))
    server.respond(incoming, Status.NOT_FOUND, b"why")
    pair.server.flush()
    if first == "stop":
        pair.deliver(pair.server, -1)
        assert (pair.client.events, call.input_open, call.output_open) == ([], False, False)
        client.send_item(call, b"nobody reads this")
        client.end_input(call)
        pair.deliver(pair.server, call.stream_id, count=1)
        client.item_consumed(call, 200_000)
    pair.pump()
    last = pair.client.events[-1]
    assert isinstance(last, OutgoingCall)
    assert (last.frame.status, last.frame.payload) == (Status.NOT_FOUND, b"why")
    assert pair.server.events == []
    pair.assert_nothing_left()


def test_the_reset_that_answers_a_stop_does_not_take_back_the_response() -> None:
    pair = ProtocolPair()
    call, incoming = begin(pair, sends_items=True)
    pair.server.protocol.calls.respond(incoming, Status.OK, b"answer")
    pair.server.flush()
    pair.held.add(call.stream_id)
    pair.pump()  # the stop arrives
    pair.client.flush()
    pair.deliver(pair.client, call.stream_id)  # and the reset comes back
    pair.server.flush()
    assert pair.server.halves[call.stream_id].reset_code is None
    pair.held.clear()
    pair.pump()
    assert pair.client.take(OutgoingCall).frame.payload == b"answer"


def test_a_call_that_was_stopped_can_still_be_cancelled_or_rejected() -> None:
    for end in ("cancel", "go away"):
        pair = ProtocolPair()
        call, _ = begin(pair, sends_items=True)
        pair.client.protocol.receive_stop(call.stream_id)
        pair.client.protocol.receive_stop(call.stream_id)
        assert pair.client.protocol.take_aborts() == [(call.stream_id, True, False, 1)]
        if end == "cancel":
            pair.client.protocol.calls.cancel(call)
        else:
            pair.client.protocol.receive_data(LANE, pair.server.codec.encode(f.GoAwayFrame(0, 3001)))
        assert pair.client.protocol.take_aborts() == [(call.stream_id, False, True, 1)]
        assert leftovers(pair.client.protocol) == {}


# A transport stream that breaks off


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_caller_whose_stream_breaks_off_hears_that_it_failed(how: str) -> None:
    pair = ProtocolPair()
    call, incoming = begin(pair, accepts_items=True)
    if how == "end":
        pair.server.write(call.stream_id, b"", fin=True)
    else:
        pair.server.protocol.link.out.abort(call.stream_id, reset=True, stop=False, code=13)
    pair.pump()
    response = pair.client.take(OutgoingCall)
    assert (response, response.frame.status) == (call, Status.UNAVAILABLE)
    assert message(pair.client, response.frame.payload) == "the peer broke the call off"
    assert pair.server.take(ev.CallCancelled).call is incoming
    assert [leftovers(side.protocol) for side in pair.sides] == [{}, {}]


def test_a_responder_whose_caller_ends_its_half_too_soon_hears_of_a_cancellation(pair: ProtocolPair) -> None:
    call, incoming = begin(pair, sends_items=True)
    pair.client.write(call.stream_id, b"", fin=True)
    pair.pump()
    cancelled = pair.server.take(ev.CallCancelled)
    assert (cancelled.call, cancelled.status) == (incoming, Status.CANCELLED)
    assert leftovers(pair.server.protocol) == {}


def test_a_call_shows_itself() -> None:
    call, incoming = begin(ProtocolPair())
    assert (repr(call), repr(incoming)) == (
        "<OutgoingCall 1 method on stream 4>",
        "<IncomingCall 1 method on stream 4>",
    )


def test_a_report_over_the_peers_limit_fails_here_and_the_call_goes_on() -> None:
    pair = ProtocolPair(client=Limits(max_payload_bytes=1024))
    pair.client.protocol.calls.start("m", b"", handle=None)
    pair.pump()
    call = pair.server.take(IncomingCall)
    with pytest.raises(ResourceError, match="payload of 1025 bytes is over the peer's limit of 1024"):
        pair.server.protocol.calls.send_progress(call, bytes(1025))
    assert pair.server.protocol.calls.respond(call, Status.OK, b"")
    pair.pump()
    pair.client.take(OutgoingCall)


# The short way of most calls


class Plain(OutgoingCall):
    """As a driver's own kind."""

    is_plain = True


def begun(pair: ProtocolPair) -> Plain:
    call = Plain()
    calls = pair.client.protocol.calls
    calls.begin(call, "method", calls.opening_of("method", 7), b"\x92\x90\x80", raw=False)
    return call


def test_a_call_in_the_fewest_steps_says_what_any_call_says(pair: ProtocolPair) -> None:
    call = begun(pair)
    pair.client.protocol.calls.start("method", b"\x92\x90\x80", handle="other", timeout_ns=7)
    pair.pump()
    first, second = pair.server.take_all(IncomingCall)
    assert (first.id, call.id, call.method) == (1, 1, "method")
    assert first.frame == f.RequestFrame(1, "method", b"\x92\x90\x80", timeout_ns=7)
    assert second.frame == f.RequestFrame(3, "method", b"\x92\x90\x80", timeout_ns=7)


def test_a_call_in_the_fewest_steps_is_refused_as_any_call_is() -> None:
    pair = ProtocolPair(server=Limits(max_payload_bytes=1024))
    calls = pair.client.protocol.calls
    with pytest.raises(ResourceError, match="payload of 1025 bytes is over the peer's limit of 1024"):
        calls.begin(Plain(), "method", calls.opening_of("method", 0), bytes(1025), raw=True)
    assert not calls.outgoing
    assert begun(pair).id == 1
    pair.client.protocol.close()
    with pytest.raises(LocalProtocolError, match="cannot call: the session is not open"):
        begun(pair)


def test_answers_that_come_together_with_other_frames_are_told_in_order(pair: ProtocolPair) -> None:
    one, two, three, four = (begun(pair) for _ in range(4))
    other = pair.client.protocol.calls.start("method", b"", handle="mine")
    pair.pump()
    pair.server.send(f.ResponseFrame(one.id, 5, b"no"))
    pair.server.send(f.ResponseFrame(two.id, 0, b"yes", raw=True))
    pair.server.send(f.ResponseFrame(other.id, 0, b"mine"))
    pair.server.send(f.ProgressFrame(three.id, b"half"))
    pair.server.send(f.ResponseFrame(three.id, 0, b"whole"))
    pair.server.send(f.ResponseFrame(four.id, 0, b"told", metadata={"key": "value"}))
    pair.pump()
    told = [event.call if isinstance(event, ev.ProgressReceived) else event for event in pair.client.events]
    assert [event for event in told if isinstance(event, OutgoingCall)] == [one, two, other, three, three, four]
    assert [(call.status, call.payload, call.raw) for call in (one, two, three)] == [
        (5, b"no", False),
        (0, b"yes", True),
        (0, b"whole", False),
    ]
    assert (four.metadata, pair.client.protocol.calls.outgoing) == ({"key": "value"}, {})


def test_a_second_answer_is_dropped_and_counted(pair: ProtocolPair) -> None:
    call = begun(pair)
    pair.pump()
    for _ in range(2):
        pair.server.send(f.ResponseFrame(call.id, 0, b"yes"))
    pair.pump()
    assert pair.client.protocol.link.late_frames == 1
    assert [event for event in pair.client.events if event is call] == [call]


@pytest.mark.parametrize("raw", [False, True])
def test_an_answer_at_the_limit_passes_and_one_byte_more_is_refused(raw: bool) -> None:
    pair = ProtocolPair(client=Limits(max_payload_bytes=1024))
    call, other = begun(pair), begun(pair)
    pair.pump()
    pair.server.send(f.ResponseFrame(call.id, 0, bytes(1024), raw=raw))
    pair.pump()
    assert len(call.payload) == 1024
    pair.server.send(f.ResponseFrame(other.id, 0, bytes(1025), raw=raw))
    refused(pair, "payload of 1025 bytes is over the limit of 1024 (max_payload_bytes)", CloseCode.LIMIT_EXCEEDED)


def test_answers_before_a_broken_frame_have_arrived() -> None:
    pair = ProtocolPair()
    call = begun(pair)
    pair.pump()
    pair.server.send(f.ResponseFrame(call.id, 0, b"yes"))
    pair.server.write(LANE, b"\x00\x00\x00\x0a\x7f" + bytes(9))
    refused(pair, "unknown frame kind 127")
    assert (call.payload, call in pair.client.protocol.link.unreported) == (b"yes", True)
