"""Datagrams: one whole frame in each, of a kind that may be lost; all else is dropped and counted."""

from __future__ import annotations

import pytest

from echostream.config import Limits
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.datagrams import time_sync
from echostream.protocol.hello import FEATURES, TIME_SYNC, Hello
from echostream.types import Role
from tests.protocol.pair import ProtocolPair, Side

SECOND = 1_000_000_000
PROBE = f.TimeSyncFrame(7, 1)


def dropped(side: Side) -> int:
    return side.protocol.link.dropped_datagrams


@pytest.fixture
def pair() -> ProtocolPair:
    return ProtocolPair()


def test_a_probe_and_its_answer_are_reported_with_the_times_of_their_arrival(pair: ProtocolPair) -> None:
    client, server = pair.client, pair.server
    server.protocol.receive_datagram(time_sync(client.protocol.link, 6, 1), 30)
    (asked,) = server.protocol.receive_datagram(time_sync(client.protocol.link, 7, 1), 40)
    assert asked == ev.ProbeReceived(f.TimeSyncFrame(7, 1), 40, in_burst=True)
    answer = time_sync(server.protocol.link, 7, 1, 40, 50, is_answer=True)
    (answered,) = client.protocol.receive_datagram(answer, 60)
    assert answered == ev.ProbeAnswered(f.TimeSyncFrame(7, 1, 40, 50, is_answer=True), 60)
    assert dropped(client) == dropped(server) == 0


def test_frames_that_may_not_be_lost_and_what_is_not_one_frame_are_dropped_and_counted(pair: ProtocolPair) -> None:
    server = pair.server
    probe = server.codec.encode(PROBE)
    hidden = (
        server.codec.request(1, b"m", b"\x90"),
        b"",
        probe[:-1],
        probe + b"\0",
        probe + probe,
        b"\xff" * 40,
        server.codec.plain(0x90, 1),
        server.codec.plain(77, 1),
    )
    for count, data in enumerate(hidden, 1):
        assert server.protocol.receive_datagram(data, 0) == []
        assert dropped(server) == count
    assert len(server.protocol.receive_datagram(probe, 0)) == 1, "the connection goes on"


def test_before_the_hello_and_after_the_end_all_are_dropped() -> None:
    pair = ProtocolPair(meet=False)
    probe = pair.server.codec.encode(PROBE)
    assert pair.server.protocol.receive_datagram(probe, 0) == []
    pair.server.protocol.close()
    assert pair.server.protocol.receive_datagram(probe, 0) == []
    assert dropped(pair.server) == 2


def test_a_peer_without_the_feature_gets_no_answer() -> None:
    pair = ProtocolPair(client_hello=Hello(role=Role.CLIENT, features=FEATURES - {TIME_SYNC}))
    assert pair.server.protocol.receive_datagram(pair.server.codec.encode(PROBE), 0) == []
    assert dropped(pair.server) == 1


def test_a_flood_of_probes_is_answered_at_the_rate_of_the_limit() -> None:
    """Those of a second at once, then as many in each further one: here 8, for three seconds, and after a rest."""
    pair = ProtocolPair(server=Limits(max_probes_per_second=8))
    server, probe = pair.server, pair.server.codec.encode(PROBE)

    def answered(begin_ns: int, count: int, apart_ns: int) -> int:
        times = range(begin_ns, begin_ns + count * apart_ns, apart_ns)
        return sum(len(server.protocol.receive_datagram(probe, at_ns)) for at_ns in times)

    assert answered(SECOND, 3000, SECOND // 1000) == 8 + 3 * 8 - 1
    assert server.protocol.link.refused_probes == 3000 - 31
    assert answered(100 * SECOND, 50, 1) == 8
    assert answered(200 * SECOND, 80, SECOND // 8) == 80
    assert dropped(server) == 0


def test_frames_in_datagrams_are_seen_by_the_trace(pair: ProtocolPair) -> None:
    seen: list[f.Frame] = []
    pair.server.protocol.observe = lambda frame, _codec: seen.append(frame)
    pair.server.protocol.receive_datagram(pair.server.codec.encode(PROBE), 0)
    pair.server.protocol.receive_datagram(b"nothing", 0)
    assert seen == [PROBE]
