"""Tests for echostream.transport.quic.copies: what leaves again, when, and what it may cost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from echostream import RpcClient, RpcServer, handler, service
from echostream.config import Limits, QuicSettings
from echostream.testing import Link, SimNetwork
from echostream.transport.quic.copies import Copies
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ServerTls
from echostream.types import clock
from tests.transport.lab import CLIENT, SERVER, Lab, Pair, both_engines

RTT = 0.02
WIRE = Link(delay=RTT / 2)
SETTINGS = QuicSettings(copy_burst_bytes=1 << 14)


class Engine:
    """What `Copies` asks of an engine."""

    def __init__(self) -> None:
        self.lost_count = 0
        self.more = False
        self.rtt: float | None = RTT
        self.waiting: list[int] = []
        self.room = 100_000
        self.unsent = False

    def unacknowledged(self) -> list[int]:
        return self.waiting

    def window_room(self) -> int:
        return self.room

    def has_unsent(self) -> bool:
        return self.unsent


class Wire:
    """A connection on which each flight is a packet with the next number."""

    def __init__(self, share: float = 1.0, settings: QuicSettings = SETTINGS) -> None:
        self.engine = Engine()
        self.copies = Copies(cast("QuicEngine", self.engine), share, settings)
        self.now = 0.0
        self.numbers = iter(range(1, 10_000))

    def lose(self) -> None:
        self.engine.lost_count += 1

    def send(
        self, *packets: bytes, number: int | None = None, is_reliable: bool = True
    ) -> list[tuple[bytes, SocketAddress]]:
        datagrams: list[tuple[bytes, SocketAddress]] = [(data, SERVER) for data in packets]
        self.engine.waiting.append(number if number is not None else next(self.numbers))
        self.copies.note(datagrams, self.now, is_reliable=is_reliable)
        return datagrams

    def again(self, after: float) -> list[bytes]:
        self.now += after
        return [data for data, _ in self.copies.due(self.now)]


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.lose()
    return wire


SMALL = b"\x40" + bytes(99)


def test_nothing_is_watched_before_a_loss() -> None:
    wire = Wire()
    wire.send(SMALL)
    assert wire.copies.timer() is None
    assert wire.again(1.0) == []


def test_a_small_flight_leaves_again_after_an_eighth_of_the_round_trip(wire: Wire) -> None:
    wire.send(SMALL, SMALL + b"2")
    assert wire.copies.timer() == pytest.approx(RTT / 8)
    assert wire.again(RTT / 8) == [SMALL, SMALL + b"2"]


def test_what_is_not_acknowledged_in_time_leaves_again_a_round_trip_apart_at_most_three_times(wire: Wire) -> None:
    wire.send(SMALL)
    times = []
    while (at := wire.copies.timer()) is not None:
        times.append(at)
        assert wire.again(at - wire.now) == [SMALL]
    assert times == pytest.approx([RTT / 8, RTT * 9 / 8 + 0.002, RTT * 9 / 4 + 0.004, RTT * 27 / 8 + 0.006])


def test_what_was_acknowledged_leaves_no_more(wire: Wire) -> None:
    wire.send(SMALL)
    wire.engine.waiting.clear()
    assert wire.again(RTT) == []
    assert wire.copies.timer() is None


@pytest.mark.parametrize(
    ("packets", "changed"),
    [
        pytest.param((SMALL,) * 3, {}, id="many packets"),
        pytest.param((b"\x40" + bytes(30),), {}, id="an acknowledgement alone"),
        pytest.param((b"\xc0" + bytes(99),), {}, id="of the handshake"),
        pytest.param((SMALL,), {"room": 127}, id="the window limits"),
        pytest.param((SMALL,), {"more": True}, id="more waits"),
        pytest.param((SMALL,), {"unsent": True}, id="more waits for the window or its time"),
        pytest.param((SMALL,), {"rtt": None}, id="no round trip is known"),
    ],
)
def test_other_flights_leave_once(wire: Wire, packets: tuple[bytes, ...], changed: dict[str, Any]) -> None:
    vars(wire.engine).update(changed)
    wire.send(*packets)
    assert wire.copies.timer() is None


def test_what_may_be_lost_leaves_once_and_does_not_make_others_leave(wire: Wire) -> None:
    wire.send(b"media" * 100, is_reliable=False)
    assert wire.copies.timer() is None
    wire.send(SMALL)
    wire.engine.waiting.pop()  # it arrived; the media did not
    assert wire.again(RTT / 8) == []


def test_what_has_followers_meanwhile_leaves_once(wire: Wire) -> None:
    """The end of one piece of a transfer, behind which comes the next."""
    wire.send(SMALL)
    wire.engine.unsent = True
    assert wire.again(RTT / 8) == []
    assert wire.copies.timer() is None


def test_a_flight_without_anything_to_be_acknowledged_leaves_once(wire: Wire) -> None:
    wire.send(SMALL, number=1)
    assert wire.again(RTT / 8) == [SMALL]
    wire.engine.waiting.clear()
    wire.send(SMALL, number=1)  # nothing new
    assert wire.again(RTT) == []


def test_a_loss_counts_for_so_many_packets() -> None:
    wire = Wire(settings=dataclasses.replace(SETTINGS, copy_after_loss_packets=2))
    wire.lose()
    for _ in range(2):
        wire.send(SMALL)
        assert wire.again(RTT / 8) == [SMALL]
        wire.engine.waiting.clear()
        assert wire.again(2 * RTT) == []
    wire.send(SMALL)
    assert wire.copies.timer() is None
    wire.lose()
    wire.send(SMALL)
    assert wire.copies.timer() is not None


def test_copies_cost_no_more_than_their_share() -> None:
    wire = Wire(share=0.3)
    wire.lose()
    sent = copied = 0
    for _ in range(1000):
        wire.lose()
        sent += len(wire.send(SMALL)) * 128
        copied += len(wire.again(RTT / 8)) * 128
        wire.engine.waiting.clear()
        wire.again(2 * RTT)
    assert sent * 0.28 <= copied <= sent * 0.3 + SETTINGS.copy_burst_bytes


def test_early_copies_leave_half_of_the_budget_to_late_ones() -> None:
    settings = dataclasses.replace(SETTINGS, copy_burst_bytes=1024)
    wire = Wire(share=0.0, settings=settings)
    wire.lose()
    early = 0
    for _ in range(8):
        wire.send(SMALL)
        early += len(wire.again(RTT / 8))
    assert early == 4
    assert wire.again(RTT * 2) == [SMALL] * 4


def test_after_a_move_nothing_leaves_again_until_the_address_can_be_proven(wire: Wire) -> None:
    wire.send(SMALL)
    wire.copies.moved(wire.now)
    assert wire.copies.timer() is None
    wire.now += 2.9
    wire.send(SMALL)
    assert wire.copies.timer() is None
    wire.now += 0.2
    wire.send(SMALL)
    assert wire.copies.timer() is not None


# The engines


@both_engines
def test_an_engine_takes_a_packet_once_and_answers_a_copy_with_nothing(engines: Pair) -> None:
    lab = Lab(ServerTls.load(), engines)
    lab.run()
    stream = lab.client.open_stream(unidirectional=True)
    lab.client.send(stream, b"data", fin=False)
    lab.client.send_datagram(b"datagram")
    packets = [data for data, _ in lab.client.transmit(lab.now)]
    lab.server.receive(packets, CLIENT, lab.now)
    lab.server.deliver(lab.at_server)
    lab.now += 0.03  # longer than an acknowledgement may wait
    lab.server.handle_timer(lab.now)
    assert len(lab.server.transmit(lab.now)) == 1
    for _ in range(5):
        lab.now += 0.001
        lab.server.receive(packets, CLIENT, lab.now)
        lab.server.deliver(lab.at_server)
        assert len(lab.server.transmit(lab.now)) == 0
    lab.now += 0.03
    lab.server.handle_timer(lab.now)
    assert len(lab.server.transmit(lab.now)) == 0
    assert sorted(lab.at_server.calls) == [("data", stream, b"data", False), ("datagram", b"datagram")]


@both_engines
def test_an_engine_tells_what_was_lost_and_what_waits(engines: Pair) -> None:
    lab = Lab(ServerTls.load(), engines)
    lab.run()
    assert lab.client.lost_count == 0
    assert lab.client.unacknowledged() == []
    room = lab.client.window_room()
    stream = lab.client.open_stream(unidirectional=True)
    lab.lost = True
    lab.client.send(stream, bytes(500), fin=False)
    lab.carry(lab.client, lab.server, CLIENT)
    assert len(lab.client.unacknowledged()) == 1
    assert 500 < room - lab.client.window_room() < 600
    lab.lost = False
    lab.run(100)
    assert lab.client.lost_count > 0
    assert lab.client.unacknowledged() == []


# The whole


@service("echo")
class Echo:
    @handler
    async def echo(self, data: bytes) -> bytes:
        return data


@service("pieces")
class Pieces:
    @handler
    async def give(self, count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(1 << 16)


@dataclasses.dataclass
class Figures:
    p99: float
    bytes_per_call: float
    copies: int


def measure(engine: str, link: Link, share: float, *, seconds: float = 5.0) -> Figures:
    """Sixteen callers over a link, after a connection over one without losses."""
    limits = Limits(copy_share=share)
    times: list[float] = []
    sent: list[tuple[str, bytes]] = []

    async def caller(echo: Any, number: int, until: float) -> None:
        data = bytes([number]) * 64
        while (before := clock.monotonic()) < until:
            assert await echo(data) == data
            times.append(clock.monotonic() - before)

    async def scenario(network: SimNetwork) -> None:
        with network.host("server"):
            server = RpcServer("quic://server:4433", engine=engine, limits=limits)
            server.register(Echo())
            await server.start()
        with network.host("client"):
            async with RpcClient.connect("quic://server:4433", insecure=True, engine=engine, limits=limits) as client:
                echo = client.proxy(Echo, timeout=10.0).echo
                await echo(b"")
                network.join("client", "server", link)
                network.record_packets()
                until = clock.monotonic() + seconds
                await asyncio.gather(*(caller(echo, number, until) for number in range(16)))
                sent.extend((packet.sender, packet.data) for packet in network.packets)
                network.join("client", "server", WIRE)
        with network.host("server"):
            await server.stop()

    network = SimNetwork(seed=1, link=WIRE)
    network.run(scenario)
    total = sum(len(data) + 28 for _, data in sent)
    return Figures(sorted(times)[int(len(times) * 0.99)], total / len(times), len(sent) - len(set(sent)))


@pytest.mark.slow
@both_engines
def test_with_losses_the_slowest_calls_are_faster_for_no_more_than_their_share(engines: Pair) -> None:
    link = WIRE.with_(loss=0.03)
    without, some, all_of_them = (measure(engines[0], link, share) for share in (0.0, Limits().copy_share, 1.0))
    assert without.copies == 0
    assert without.p99 > 3 * RTT
    assert some.p99 < 0.75 * without.p99
    assert some.bytes_per_call < 1.3 * without.bytes_per_call
    assert all_of_them.p99 < 1.5 * RTT
    assert all_of_them.bytes_per_call < 2.1 * without.bytes_per_call


@both_engines
def test_without_losses_nothing_leaves_twice(engines: Pair) -> None:
    assert measure(engines[0], WIRE, 1.0, seconds=1.0).copies == 0


@pytest.mark.slow
@both_engines
def test_a_transfer_that_loses_packets_sends_next_to_nothing_twice(engines: Pair) -> None:
    """It overflows a queue of 25 packets, again and again; only the last packets of all have nothing behind them."""
    link = WIRE.with_(bandwidth=10e6 / 8, queue_bytes=25 * 1500)
    sent: list[bytes] = []

    async def scenario(network: SimNetwork) -> None:
        with network.host("server"):
            server = RpcServer("quic://server:4433", engine=engines[1])
            server.register(Pieces())
            await server.start()
        with network.host("client"):
            async with RpcClient.connect(
                "quic://server:4433", fingerprint=server.fingerprint, engine=engines[0]
            ) as client:
                network.join("client", "server", link)
                network.record_packets()
                pieces = client.proxy(Pieces, timeout=30.0)
                assert sum([len(piece) async for piece in pieces.give(16)]) == 16 << 16
                sent.extend(packet.data for packet in network.packets if packet.sender == "server")
        await server.stop()
        assert network.link_state("server", "client").lost > 10

    SimNetwork(seed=1, link=WIRE).run(scenario)
    assert len(sent) - len(set(sent)) < 5
