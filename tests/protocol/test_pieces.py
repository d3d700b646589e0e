"""Items in datagrams: numbered, cut, joined, held before their stream is taken, and late ones after its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.config import Limits
from echostream.errors import LocalProtocolError, RemoteProtocolError, ResourceError
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.account import Account
from echostream.protocol.hello import DATAGRAM_ITEMS, FEATURES, TIMED_ITEMS, Hello
from echostream.protocol.pieces import DatagramHalves, EarlyItems, cut_item
from echostream.protocol.records import AppStream
from echostream.types import Role
from tests.protocol.pair import ProtocolPair, Side, leftovers
from tests.protocol.strategies import deterministic

ROOM = 1160
MS = 1_000_000


@pytest.fixture
def pair() -> ProtocolPair:
    return ProtocolPair()


def offer(pair: ProtocolPair) -> tuple[AppStream, AppStream]:
    """Open a stream with datagrams that the other side has not taken yet."""
    near = pair.client.protocol.streams.open("s", pair.client.open_stream(), "mine", timed=True, datagram=True)
    pair.pump()
    return near, pair.server.take(ev.StreamOpened).stream


def take(pair: ProtocolPair) -> tuple[AppStream, AppStream]:
    """As `offer`, and have the other side take it."""
    near, far = offer(pair)
    pair.server.protocol.streams.accept(far)
    pair.pump()
    pair.client.events.clear()
    return near, far


def datagrams(side: Side, stream: AppStream, payload: bytes, *, room: int = ROOM) -> list[bytes]:
    """Return the next item of a side."""
    streams = side.protocol.streams
    return streams.cut_item(streams.number_item(stream, payload, raw=True, timestamp_ns=5), room)


def arrive(side: Side, found: Iterable[bytes], now_ns: int = 0) -> list[bytes]:
    """Let datagrams come; return the payloads of the items that are whole with them."""
    for data in found:
        side.events += side.protocol.receive_datagram(data, now_ns)
    return [event.frame.payload for event in side.take_all(ev.DatagramItemReceived)]


def item(sequence: int, payload: bytes, *, piece: int = 0, pieces: int = 1, number: int = 1) -> f.DatagramItemFrame:
    return f.DatagramItemFrame(number, sequence, payload, piece, pieces, raw=True)


# There and back


def test_the_opening_says_what_its_items_are_and_both_sides_know(pair: ProtocolPair) -> None:
    near, far = take(pair)
    assert [(stream.timed, stream.datagrams is not None) for stream in (near, far)] == [(True, True)] * 2


def test_items_travel_both_ways_and_have_numbers_and_timestamps(pair: ProtocolPair) -> None:
    near, far = take(pair)
    for side, other, stream, answer in ((pair.client, pair.server, near, far), (pair.server, pair.client, far, near)):
        for number in range(3):
            [data] = datagrams(side, stream, b"item")
            other.events += other.protocol.receive_datagram(data, 77)
            received = other.take(ev.DatagramItemReceived)
            expected = f.DatagramItemFrame(near.id, number, b"item", raw=True, timestamp_ns=5)
            assert (received.stream, received.frame, received.arrived_ns) == (answer, expected, 77)


def test_the_number_wraps_after_32_bits(pair: ProtocolPair) -> None:
    near, _ = take(pair)
    assert near.datagrams is not None
    near.datagrams.numbered = (1 << 32) - 1
    streams = pair.client.protocol.streams
    assert [streams.number_item(near, b"").sequence for _ in range(2)] == [(1 << 32) - 1, 0]
    assert near.datagrams.numbered == (1 << 32) + 1


def test_a_timed_stream_without_datagrams_has_timestamps_on_its_items(pair: ProtocolPair) -> None:
    near = pair.client.protocol.streams.open("s", pair.client.open_stream(), None, timed=True)
    pair.pump()
    far = pair.server.take(ev.StreamOpened).stream
    pair.server.protocol.streams.accept(far)
    pair.pump()
    pair.client.protocol.streams.send_item(near, b"x", timestamp_ns=-7)
    pair.pump()
    assert (far.timed, far.datagrams) == (True, None)
    assert pair.server.take(ev.StreamItemReceived).frame == f.StreamItemFrame(near.id, b"x", timestamp_ns=-7)
    with pytest.raises(LocalProtocolError, match="stream 's' has no datagrams"):
        pair.client.protocol.streams.number_item(near, b"")


def test_an_item_on_a_stream_with_datagrams_may_be_reliable(pair: ProtocolPair) -> None:
    near, _ = take(pair)
    pair.client.protocol.streams.send_item(near, b"x", timestamp_ns=1)
    pair.pump()
    assert pair.server.take(ev.StreamItemReceived).frame.payload == b"x"


# Cutting and joining


@deterministic
@given(
    payload=st.binary(max_size=300),
    room=st.integers(31, 80),
    order=st.randoms(use_true_random=False),
    timed=st.booleans(),
)
def test_an_item_is_cut_to_size_and_joined_in_any_order(payload: bytes, room: int, order: object, timed: bool) -> None:
    pair = ProtocolPair()
    near, far = take(pair)
    streams = pair.client.protocol.streams
    frame = streams.number_item(near, payload, timestamp_ns=9 if timed else None)
    found = streams.cut_item(frame, room)
    if not found:
        assert timed
        assert room < 39
        return
    assert max(map(len, found)) <= room
    order.shuffle(found)  # type: ignore[attr-defined]
    for data in found[:-1]:
        assert arrive(pair.server, [data, data]) == []
    assert arrive(pair.server, found[-1:]) == [payload]
    assert far.datagrams is not None
    assert (far.datagrams.buffered_bytes, far.datagrams.dropped) == (0, 0)


def test_no_number_of_datagrams_holds_an_item_where_there_is_no_room_or_it_is_too_large() -> None:
    assert cut_item(item(0, b"x"), 22) == []
    assert cut_item(item(0, b"x"), 0) == []
    assert len(cut_item(item(0, bytes(65_536)), 23)) == 65_536
    assert cut_item(item(0, bytes(65_537)), 23) == []
    assert cut_item(item(0, b""), 22) == [item(0, b"")]


def test_an_item_over_what_the_peer_joins_is_refused_with_the_way_out() -> None:
    pair = ProtocolPair(server=Limits(stream_window_bytes=1024))
    near, _ = take(pair)
    pair.client.protocol.streams.number_item(near, bytes(1024))
    with pytest.raises(ResourceError) as caught:
        pair.client.protocol.streams.number_item(near, bytes(1025))
    assert caught.value.message == (
        "item of 1025 bytes is over the 1024 that the peer joins of datagrams (stream_window_bytes);"
        " send it on a reliable stream"
    )
    assert near.datagrams is not None
    assert near.datagrams.numbered == 1


def test_the_oldest_unfinished_item_gives_way_by_number_and_by_size() -> None:
    many = DatagramHalves(1 << 20)
    for number in range(17):
        many.join(item(number, b"ab", pieces=2))
    assert (many.dropped, many.buffered_bytes) == (1, 32)
    assert many.join(item(16, b"cd", piece=1, pieces=2)) == item(16, b"abcd")
    large = DatagramHalves(1000)
    large.join(item(0, bytes(600), pieces=2))
    large.join(item(1, bytes(600), pieces=2))
    assert (large.dropped, large.buffered_bytes) == (1, 600)
    large.join(item(2, bytes(1001), pieces=2))
    assert (large.dropped, large.buffered_bytes) == (3, 0)


def test_pieces_of_a_byte_or_none_are_not_free() -> None:
    halves = DatagramHalves(6400)
    for piece in range(1000):
        halves.join(item(0, b"", piece=piece, pieces=5000))
        assert sum(len(unfinished.pieces) for unfinished in halves._unfinished.values()) <= 100
    assert halves.dropped == 9
    for piece in range(1, 60):
        assert halves.join(item(1, bytes(100), piece=piece, pieces=60)) is None
    whole = halves.join(item(1, bytes(100), pieces=60))
    assert whole is not None
    assert len(whole.payload) == 6000, "those of an honest sender are all held"
    halves.release()
    assert halves.join(item(2, b"", pieces=2)) is None
    assert halves.dropped == 10, "of those that the last item pushed out"


def test_unfinished_items_count_in_what_is_held_and_give_way_when_that_is_too_much() -> None:
    held = Account(1 << 20).open(100)
    halves = DatagramHalves(1000, held)
    halves.join(item(0, bytes(60), pieces=2))
    assert held.held == 60
    halves.join(item(1, bytes(60), pieces=2))
    assert (held.held, halves.dropped) == (60, 1)
    halves.release()
    assert (held.held, halves.buffered_bytes) == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        item(3, b"b", piece=1, pieces=3),
        f.DatagramItemFrame(1, 3, b"b", 1, 2, raw=False),
        f.DatagramItemFrame(1, 3, b"b", 1, 2, raw=True, timestamp_ns=0),
    ],
    ids=["number of pieces", "form", "timestamp"],
)
def test_a_piece_that_does_not_fit_the_others_is_dropped(other: f.DatagramItemFrame) -> None:
    halves = DatagramHalves(1000)
    halves.join(item(3, b"a", pieces=2))
    assert halves.join(other) is None
    assert halves.join(item(3, b"c", piece=1, pieces=2)) == item(3, b"ac")


# Before the stream and after it


def test_datagrams_that_overtake_the_opening_wait_for_it(pair: ProtocolPair) -> None:
    early = [pair.client.codec.encode(item(number, bytes([number]), number=1)) for number in range(3)]
    assert arrive(pair.server, early, 5 * MS) == []
    _, far = offer(pair)
    assert arrive(pair.server, [pair.client.codec.encode(item(3, b"\3", number=1))], 6 * MS) == []
    streams = pair.server.protocol.streams
    streams.accept(far)
    pair.server.events += streams.take_early(far, 7 * MS)
    found = [(event.frame.payload, event.arrived_ns) for event in pair.server.take_all(ev.DatagramItemReceived)]
    assert found == [
        (b"\0", 5 * MS), (b"\1", 5 * MS), (b"\2", 5 * MS), (b"\3", 6 * MS),
    ]  # fmt: skip
    assert streams.take_early(far, 7 * MS) == []


def test_few_wait_and_not_for_long() -> None:
    early = EarlyItems()
    for number in range(70):
        early.add(item(number, b"", number=5 + number % 2), number)
    assert (len(early), early.dropped) == (64, 6)
    assert [frame.sequence for _, frame in early.take(5, 100)] == [*range(6, 70, 2)]
    assert len(early) == 32
    assert early.take(6, 100 * MS + 40)[0][1].sequence == 41
    assert (len(early), early.dropped, early.take(6, 0)) == (0, 6 + 17, [])


def test_what_waits_counts_in_what_is_held_and_gives_way_when_that_is_too_much() -> None:
    held = Account(1 << 20).open(100)
    early = EarlyItems(held)
    for number in range(3):
        early.add(item(number, bytes(60), number=5), number)
    assert ([frame.sequence for _, frame in early.take(5, 3)], held.held, early.dropped) == ([1, 2], 0, 1)
    early.add(item(3, bytes(60), number=7), 4)
    early.add(item(4, bytes(60), number=7), 5 + 100 * MS)
    assert (len(early), held.held, early.dropped) == (1, 60, 2)
    held.add(1000)
    early.take(7, 6 + 100 * MS)
    early.add(item(5, b"", number=7), 7 + 100 * MS)
    assert (len(early), early.dropped) == (1, 2), "nothing is there that could give way"


def test_what_nobody_took_in_time_is_counted_for_all_of_the_connection(pair: ProtocolPair) -> None:
    streams = pair.server.protocol.streams
    assert streams.dropped_early == 0
    for number in range(5):
        arrive(pair.server, [pair.client.codec.encode(item(number, b"", number=99))], number * 200 * MS)
    assert (streams.dropped_early, len(streams._early or ())) == (4, 1)
    _, far = take(pair)
    streams.take_early(far, 2_000 * MS)
    arrive(pair.server, [pair.client.codec.encode(item(9, b"", number=99))], 3_000 * MS)
    assert streams.dropped_early == 5, "counts outlive what was counted"


def test_nothing_waits_where_no_datagram_came_early(pair: ProtocolPair) -> None:
    _, far = take(pair)
    assert pair.server.protocol.streams.take_early(far, 0) == []


def test_the_answers_of_who_has_not_said_yes_yet_are_taken(pair: ProtocolPair) -> None:
    near, far = offer(pair)
    pair.server.protocol.streams.accept(far)  # its Credit is on the way, and a datagram overtakes it
    assert arrive(pair.client, datagrams(pair.server, far, b"soon")) == [b"soon"]
    assert not near.accepted


def test_the_end_tells_how_many_there_were_and_the_last_ones_may_come_after_it(pair: ProtocolPair) -> None:
    near, far = take(pair)
    first, second = datagrams(pair.client, near, b"1"), datagrams(pair.client, near, b"2")
    back = datagrams(pair.server, far, b"3")
    arrive(pair.server, first)
    pair.client.protocol.streams.end(near)
    pair.server.protocol.streams.end(far)
    pair.pump()
    assert far.datagrams is not None
    assert near.datagrams is not None
    assert (far.datagrams.remote_items, near.datagrams.remote_items) == (2, 1)
    assert pair.server.take(ev.StreamEnded).stream is far
    assert (arrive(pair.server, second), arrive(pair.client, [])) == ([b"2"], [])
    assert arrive(pair.client, back) == [b"3"]
    for side, stream in ((pair.client, near), (pair.server, far)):
        assert "ended streams" in leftovers(side.protocol)
        side.protocol.streams.forget(stream)
        side.protocol.streams.forget(stream)
        side.events.clear()
    pair.assert_nothing_left()
    assert arrive(pair.client, back) == []
    assert pair.client.protocol.link.late_frames == 1


def test_a_reset_forgets_what_may_still_come(pair: ProtocolPair) -> None:
    near, far = take(pair)
    first, _ = datagrams(pair.client, near, bytes(2000))
    assert arrive(pair.server, [first]) == []
    assert pair.server.protocol.link.held.held > 0
    pair.server.protocol.streams.reset(far, 1)
    assert pair.server.protocol.link.held.held == 0
    pair.pump()
    pair.client.events.clear()
    pair.server.events.clear()
    pair.assert_nothing_left()


def test_streams_whose_last_datagrams_may_come_are_few(pair: ProtocolPair) -> None:
    for _ in range(70):
        near, far = take(pair)
        pair.client.protocol.streams.end(near)
        pair.server.protocol.streams.end(far)
        pair.pump()
        pair.server.events.clear()
    assert len(pair.server.protocol.streams._ended) == 64
    for side in pair.sides:
        side.protocol.close()
        assert leftovers(side.protocol) == {}


def test_after_the_end_of_the_connection_nothing_is_held(pair: ProtocolPair) -> None:
    near, far = take(pair)
    arrive(pair.server, datagrams(pair.client, near, bytes(2000))[:1])
    arrive(pair.server, [pair.client.codec.encode(item(0, b"", number=99))])
    pair.server.protocol.close()
    assert far.datagrams is not None
    assert (far.datagrams.buffered_bytes, len(pair.server.protocol.streams._early or ())) == (0, 0)
    assert pair.server.protocol.receive_datagram(b"?", 0) == []


# What a peer must not do


def test_without_the_features_nothing_of_it_is_sent_and_whoever_does_is_refused() -> None:
    for feature in (DATAGRAM_ITEMS, TIMED_ITEMS):
        options: Any = {"datagram": True} if feature == DATAGRAM_ITEMS else {"timed": True}
        pair = ProtocolPair(server_hello=Hello(role=Role.SERVER, features=FEATURES - {feature}))
        with pytest.raises(LocalProtocolError, match=f"the peer does not have the feature {feature}"):
            pair.client.protocol.streams.open("s", pair.client.open_stream(), None, **options)
        pair.client.send(f.StreamOpenFrame(1, "s", **options), on=pair.client.open_stream())
        with pytest.raises(RemoteProtocolError, match=f"stream 1 without the feature {feature}"):
            pair.pump()


def test_items_of_a_stream_that_has_none_or_never_was_are_dropped(pair: ProtocolPair) -> None:
    pair.client.protocol.streams.open("s", pair.client.open_stream(), None)
    pair.pump()
    pair.server.protocol.streams.accept(pair.server.take(ev.StreamOpened).stream)
    link = pair.server.protocol.link
    assert arrive(pair.server, [pair.client.codec.encode(item(0, b"", number=1))]) == []
    assert (link.dropped_datagrams, link.late_frames) == (1, 0)
    assert arrive(pair.server, [pair.client.codec.encode(item(0, b"", number=2))]) == []
    assert (link.dropped_datagrams, link.late_frames) == (1, 1)


def test_without_the_feature_items_in_datagrams_are_dropped() -> None:
    pair = ProtocolPair(client_hello=Hello(role=Role.CLIENT, features=FEATURES - {DATAGRAM_ITEMS}))
    assert arrive(pair.server, [pair.client.codec.encode(item(0, b"", number=1))]) == []
    assert pair.server.protocol.link.dropped_datagrams == 1


def test_a_datagram_item_on_a_transport_stream_is_refused(pair: ProtocolPair) -> None:
    near, _ = take(pair)
    pair.client.send(item(0, b"", number=near.id), on=near.stream_id)
    with pytest.raises(
        RemoteProtocolError, match=f"datagram for stream {near.id} on transport stream {near.stream_id}"
    ):
        pair.pump()
