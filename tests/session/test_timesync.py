"""TimeSync between two programs: what t3 must be ahead by, bursts, heartbeats, answers that are none."""

from __future__ import annotations

import asyncio
import random

import pytest

from echostream import Limits, RpcClient, RpcServer
from echostream.config import PROBE_TIMEOUT, STAMPS_REST
from echostream.protocol import frames as f
from echostream.protocol.hello import TIME_SYNC
from echostream.session.clock_quality import ProbeCounts
from echostream.session.timesync import Prober, SendDelay
from echostream.testing import Link, SimNetwork
from echostream.types import clock
from tests.session.world import Duo, duo
from tests.transport.conformance import eventually

URL = "quic://server:4433"


# What t3 is ahead by


def test_the_delay_of_sending_is_the_least_of_late_once_enough_are_known() -> None:
    delay = SendDelay()
    told = []
    for took in (90, 70, 50, 60, 80, 90, 95, 99):
        told.append(delay.ns)
        delay.learn(took)
    assert told == [0] * 8
    assert delay.ns == 50


def test_a_machine_that_became_slower_is_believed_and_a_faster_one_at_once() -> None:
    numbers = random.Random(1)
    delay = SendDelay()
    for _ in range(100):
        delay.learn(numbers.randrange(50, 90))
    assert 50 <= delay.ns < 55
    for _ in range(SendDelay._WINDOW):
        delay.learn(numbers.randrange(150, 190))
    assert delay.ns < 55, "it may have been a busy moment"
    for _ in range(SendDelay._WINDOW):
        delay.learn(numbers.randrange(150, 190))
    assert 150 <= delay.ns < 160
    delay.learn(20)
    assert delay.ns == 20


# Bursts


class Listener:
    """Takes the stamps of one prober."""

    def __init__(self, ends: Duo) -> None:
        self.taken: list[tuple[int, int, int, int]] = []
        self.is_wanted = True
        self.counts = ProbeCounts()
        self.peer = ends.here.peer
        self.prober = Prober(
            ends.here.peer, self.counts, lambda *times: self.taken.append(times), lambda: self.is_wanted
        )

    async def until(self, count: int) -> None:
        await eventually(lambda: len(self.taken) >= count)


@pytest.mark.parametrize("road", ["datagrams", "lane"])
async def test_a_burst_brings_the_four_stamps_of_each_probe_in_order(road: str) -> None:
    async with duo() as ends:
        if road == "lane":
            ends.here.peer.protocol.link.features -= {TIME_SYNC}
        listener = Listener(ends)
        assert listener.prober.in_datagrams == (road == "datagrams")
        await listener.until(8)
        listener.prober.stop()
        assert (listener.counts.sent, listener.counts.unsent, listener.counts.lost) == (8, 0, 0)
    for t1, t2, t3, t4 in listener.taken:  # one clock for both
        assert t1 <= t2 <= t3 <= t4
    assert listener.taken == sorted(listener.taken)
    assert listener.peer.probes == {}


async def test_nothing_more_is_sent_when_nobody_wants_it() -> None:
    async with duo() as ends:
        listener = Listener(ends)
        await listener.until(1)
        listener.is_wanted = False
        await asyncio.sleep(0.02)
        sent = listener.counts.sent
        await asyncio.sleep(0.02)
        assert listener.counts.sent == sent
        listener.prober.stop()


@pytest.mark.parametrize("road", ["datagrams", "lane"])
async def test_a_probe_that_finds_no_room_here_is_not_counted_as_lost(
    road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with duo() as ends:
        if road == "lane":
            ends.here.peer.protocol.link.features -= {TIME_SYNC}
            monkeypatch.setattr(ends.here.peer, "is_blocked", lambda stream_id: True)
        else:
            monkeypatch.setattr(ends.here.peer.connection, "send_datagram_now", lambda data: None)
        listener = Listener(ends)
        await eventually(lambda: listener.counts.unsent >= 3)
        listener.prober.stop()
        assert (listener.counts.sent, listener.counts.lost, listener.taken) == (0, 0, [])


async def test_an_answer_with_another_t1_than_was_asked_with_is_ignored() -> None:
    """Who shifts all four stamps alike would move the clock."""
    async with duo() as ends:
        listener = Listener(ends)
        await listener.until(1)
        listener.prober.stop()
        sent: list[bytes] = []

        def send(data: bytes) -> int:
            sent.append(data)
            return clock.monotonic_ns()

        ends.here.peer.connection.send_datagram_now = send  # type: ignore[method-assign]
        listener = Listener(ends)
        await eventually(lambda: sent)
        codec = ends.here.runtime.codec
        probe = codec.single(sent[0])
        assert isinstance(probe, f.TimeSyncFrame)
        for t1_ns in (probe.t1_ns + 1, probe.t1_ns):
            answer = f.TimeSyncFrame(probe.id, t1_ns, 5, 6, is_answer=True)
            ends.here.peer.datagram(codec.encode(answer), clock.monotonic_ns())
        assert (listener.counts.ignored, listener.taken) == (1, [])
        assert ends.here.peer.protocol.link.stray_answers == 1, "each probe takes one answer"
        listener.prober.stop()


# In virtual time


async def joined(network: SimNetwork, **options: object) -> tuple[RpcServer, RpcClient]:
    with network.host("server"):
        server = RpcServer(URL, **options)  # type: ignore[arg-type]
        await server.start()
    with network.host("phone"):
        client = await RpcClient.connect(URL, fingerprint=server.fingerprint)
    return server, client


async def parted(network: SimNetwork, server: RpcServer, client: RpcClient) -> None:
    with network.host("phone"):
        await client.close()
    with network.host("server"):
        await server.stop()


def probes_of(network: SimNetwork) -> int:
    return sum(record.kind == "TimeSync" for record in network.trace)


@pytest.mark.parametrize(("interval", "beats"), [(15.0, 4), (2.0, 30), (0.0, 0), (100.0, 4)])
def test_a_quiet_client_probes_as_often_as_the_server_asks_and_quic_allows(interval: float, beats: int) -> None:
    """Without an interval QUIC sends its PINGs, and neither less often than they would come."""

    async def scenario(network: SimNetwork) -> None:
        server, client = await joined(network, limits=Limits(heartbeat_interval=interval))
        await asyncio.sleep(62)
        assert probes_of(network) in (2 * beats, 2 * beats - 2)
        assert client.state == "open"
        assert len(client.session.peer.probes) == 0
        await parted(network, server, client)

    SimNetwork(seed=1, link=Link(delay=0.01)).run(scenario)


def test_a_lost_heartbeat_is_forgotten_with_the_next_one() -> None:
    async def scenario(network: SimNetwork) -> None:
        server, client = await joined(network, limits=Limits(heartbeat_interval=5.0))
        await asyncio.sleep(4)
        network.partition("server")
        await asyncio.sleep(22)
        network.heal()
        await asyncio.sleep(20)
        assert len(client.session.peer.probes) <= 1
        assert client.state == "open"
        await parted(network, server, client)

    SimNetwork(seed=1, link=Link(delay=0.01)).run(scenario)


def test_the_kernels_stamps_are_wanted_while_a_client_probes_in_bursts_and_no_longer() -> None:
    async def scenario(network: SimNetwork) -> None:
        server, client = await joined(network, limits=Limits(heartbeat_interval=1.0))
        (session,) = server.sessions
        wanted: list[bool] = []
        session.peer.connection.stamp_arrivals = wanted.append  # type: ignore[method-assign, assignment]
        await asyncio.sleep(30)
        assert wanted == [], "a heartbeat is no burst"
        with network.host("phone"):
            release = client.clock.hold()
            await asyncio.sleep(60)
            assert wanted == [True]
            release()
            await asyncio.sleep(30 + 2.5 * STAMPS_REST)
        assert wanted == [True, False]
        assert session.peer.stamping is None
        await parted(network, server, client)

    SimNetwork(seed=1, link=Link(delay=0.01)).run(scenario)


def test_probes_that_are_lost_are_counted_and_wait_no_longer_than_their_time() -> None:
    async def scenario(network: SimNetwork) -> None:
        server, client = await joined(network)
        with network.host("phone"):
            await client.clock.wait_locked()
            release = client.clock.hold()
            network.join("server", "phone", Link(delay=0.01, loss=0.3))
            await asyncio.sleep(60)
            quality = client.clock.quality
            assert 0.3 < quality.lost / quality.sent < 0.7, "either way loses 30 %"
            assert any("probes were lost" in fault for fault in quality.faults)
            assert len(client.session.peer.probes) <= 8 * (PROBE_TIMEOUT / 2 + 1)
            assert quality.locked
            release()
        await parted(network, server, client)

    SimNetwork(seed=1, link=Link(delay=0.01)).run(scenario)
