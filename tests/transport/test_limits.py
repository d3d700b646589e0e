"""What strangers may cost a listener: rates, counts by network, proofs of an address, and tables that never grow."""

from __future__ import annotations

import asyncio
import struct
from collections import deque

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from echostream.errors import ConnectError
from echostream.transport.quic import endpoint
from echostream.transport.quic.former import LINGER
from echostream.transport.quic.rates import PerNetwork, RatePerNetwork, network_of
from echostream.transport.sockets import SocketAddress
from echostream.types import Clock, clock, random_bytes
from tests.transport.lab import Pair, both_engines, every_pair, every_server
from tests.transport.scene import Hello, Scene, simulated

AIOQUIC = ("aioquic", "aioquic")


# Arithmetic


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2:3", True),
        ("2001:db8:0:1::1", "2001:db8::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::c000:201", "192.0.2.1", False),
    ],
)
def test_a_network_is_an_ipv4_address_or_an_ipv6_64(first: str, second: str, same: bool) -> None:
    assert (network_of(first) == network_of(second)) is same


def test_counts_by_network_forget_what_is_at_none() -> None:
    counts = PerNetwork()
    for network in (1, 1, 2):
        counts.add(network)
    assert (counts[1], counts[2], counts[3]) == (2, 1, 0)
    for network in (1, 1, 2):
        counts.remove(network)
    assert len(counts) == 0


# Half-open handshakes and connections of one address


def addresses(count: int, *, wide: bool = False) -> list[SocketAddress]:
    """Some of one IPv6 /64, or each in a /64 of its own."""
    return [(f"2001:db8:{number:x}::1" if wide else f"2001:db8::{number:x}", 1, 0, 0) for number in range(1, count + 1)]


@pytest.mark.parametrize(("wide", "opened"), [(False, 3), (True, 6)])
def test_half_open_handshakes_are_limited_by_network(wide: bool, opened: int) -> None:
    async def scenario(scene: Scene) -> None:
        for address in addresses(6, wide=wide):
            scene.receive(Hello().packet, source=address)
            await asyncio.sleep(0.1)  # so that none is asked to prove its address
        assert scene.stats()["connections"] == opened
        assert scene.stats()["handshakes_refused"] == 6 - opened
        client, _ = await scene.join()  # from elsewhere
        assert client.reasons == []
        await asyncio.sleep(10.0)
        assert scene.stats()["connections"] == 1
        scene.receive(Hello().packet, source=addresses(1)[0])
        assert scene.stats()["connections"] == 2

    simulated(scenario, AIOQUIC, max_handshakes_per_address=3)


@every_pair
def test_connections_are_limited_by_address(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.dial("office")
        await scene.dial("office")
        with pytest.raises(ConnectError, match="takes no new connections: has its 2 connections from your address"):
            await scene.dial("office")
        await scene.dial("elsewhere")
        first.connection.close(0, "")
        await asyncio.sleep(1.0)
        await scene.dial("office")

    simulated(scenario, engines, max_connections_per_address=2)


@every_server
def test_garbage_with_a_good_token_is_taken_as_often_as_a_handshake_may_fail(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        here = ("10.9.9.9", 1000)
        hello = Hello()
        (retry,) = scene.receive(hello.packet, source=here)
        shown = hello.answer(retry)
        garbage = shown[:150] + bytes(100) + shown[250:]  # cannot be decrypted
        for _ in range(100):  # in one burst they all go to the connection that the first of them opens
            scene.receive(garbage, source=here)
        assert scene.stats()["handshakes_started"] == scene.stats()["malformed_packets"] == 16
        assert scene.stats()["handshakes_refused"] == 84
        client, _ = await scene.join()  # from elsewhere
        assert client.reasons == []
        scene.receive(shown, source=here)  # a second has passed
        assert scene.stats()["connections"] == 2

    simulated(scenario, engines, retry_above_handshakes=0, max_handshakes_per_address=16)


@every_pair
def test_handshakes_that_succeed_do_not_count(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        for _ in range(8):
            client = await scene.dial("office")
            client.connection.close(0, "")
        assert scene.stats()["handshakes_refused"] == 0

    simulated(scenario, engines, retry_above_handshakes=0, max_handshakes_per_address=1)


def test_networks_with_a_rate_are_bounded() -> None:
    rates = RatePerNetwork(1, burst=1)
    assert [rates.take(number, 0.0) for number in (1, 1, 2)] == [True, False, True]
    rates.give_back(1)
    rates.give_back(3)
    assert rates.take(1, 0.0)
    for number in range(10_000):
        rates.take(number, 0.0)
    assert len(rates) == 4096


# Proving an address


def test_above_a_rate_of_first_packets_addresses_are_checked() -> None:
    async def scenario(scene: Scene) -> None:
        hello = Hello().packet
        scene.receive(*(hello[:6] + random_bytes(8) + hello[14:] for _ in range(200)))
        stats = scene.stats()
        assert stats["handshakes_started"] == stats["malformed_packets"] == 4  # not encrypted for that id
        assert stats["retries"] == 196
        assert stats["connections"] == 0
        client, _ = await scene.join()
        assert client.reasons == []
        assert scene.stats()["retries"] == 197
        await asyncio.sleep(3.0)
        await scene.join()
        assert scene.stats()["retries"] == 197

    simulated(scenario, AIOQUIC)


@every_server
def test_a_token_opens_one_connection_from_its_own_address_for_a_while(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        here, elsewhere = ("10.9.9.9", 1000), ("10.9.9.8", 1000)
        hello = Hello()
        (retry,) = scene.receive(hello.packet, source=here)
        shown = hello.answer(retry)
        assert scene.receive(shown, source=elsewhere) == []
        assert scene.stats()["invalid_tokens"] == 1
        assert scene.stats()["handshakes_started"] == 0
        assert scene.receive(shown, source=here)
        scene.receive(shown, source=here)  # the connection that there is
        assert scene.stats()["handshakes_started"] == scene.stats()["connections"] == 1
        for connection in tuple(scene.endpoint.connections):
            connection.abort()
        sent = sum(len(scene.receive(shown, source=here)) for _ in range(100))
        assert sent <= 8  # the last words again, ever more rarely
        await asyncio.sleep(LINGER - 1.0)
        scene.receive(shown, source=here)
        await asyncio.sleep(2.0)
        scene.receive(shown, source=here)
        assert scene.stats()["handshakes_started"] == 1
        assert scene.stats()["invalid_tokens"] == 2

    simulated(scenario, engines, retry_above_handshakes=0)


@both_engines
def test_answers_to_strangers_are_limited_in_their_rate(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        hello = Hello().packet
        unknown = hello[:1] + struct.pack("!I", 0x1A2A3A4A) + hello[5:]
        assert len(scene.receive(*[unknown] * 100, *[hello] * 100)) == 10
        assert scene.stats()["version_negotiations"] == 10
        assert scene.stats()["retries"] == 0
        assert scene.stats()["handshakes_refused"] == 100
        await asyncio.sleep(1.0)
        assert len(scene.receive(*[hello] * 100)) == 10

    simulated(scenario, engines, retry_above_handshakes=0, max_retries_per_second=20)


class Laborious(Clock):
    """A clock that goes on by 0.2 ms whenever it is read."""

    def __init__(self, start: float) -> None:
        self.now = start

    def monotonic(self) -> float:
        self.now += 0.0002
        return self.now


def test_strangers_take_turns_with_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        hello = Hello().packet
        with monkeypatch.context() as patch:
            patch.setattr(endpoint, "clock", Laborious(asyncio.get_running_loop().time()))
            assert len(scene.receive(*[hello] * 20)) == 3
            assert scene.receive(hello) == []  # behind the others
            for turn in range(1, 7):
                assert scene.stats()["retries"] == 3 * turn
                await asyncio.sleep(0)
            assert scene.stats()["retries"] == 21
            scene.receive(*[hello] * 1100)
            assert scene.stats()["handshakes_refused"] == 1100 - 1024
            await scene.world.listener.close()
            await asyncio.sleep(0)
            assert scene.stats()["retries"] == 24
            assert scene.endpoint._strangers == deque()

    simulated(scenario, AIOQUIC, retry_above_handshakes=0)


# Handshakes that go nowhere


@every_server
@pytest.mark.parametrize("after", ["retry", "hello"])
def test_a_client_that_vanishes_in_the_handshake_leaves_nothing(engines: Pair, after: str) -> None:
    async def scenario(scene: Scene) -> None:
        hello = Hello()
        (retry,) = scene.receive(hello.packet)
        if after == "hello":
            scene.receive(hello.answer(retry))
            assert scene.stats()["connections"] == 1
        await asyncio.sleep(11.0)
        assert tables(scene)["connections"] == 0
        await asyncio.sleep(LINGER)
        scene.receive(b"\x40" + bytes(50))
        assert set(tables(scene).values()) == {0}

    simulated(scenario, engines, retry_above_handshakes=0)


# Tables


def tables(scene: Scene) -> dict[str, int]:
    """How much there is in each table of the server's endpoint."""
    endpoint, acceptor = scene.endpoint, scene.acceptor
    return {
        "connections": len(endpoint.connections),
        "routes": len(endpoint._routes),
        "former": len(endpoint._former),
        "strangers": len(endpoint._strangers),
        "half open": len(acceptor._half_open),
        "half open by network": len(acceptor._half_open_per_network),
        "networks": len(acceptor._networks),
        "by network": len(acceptor._per_network),
    }


@every_pair
def test_the_tables_do_not_grow_with_the_connections_that_were(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        sizes = []
        for number in range(30):
            client, server = await scene.join()
            client.connection._engine._quic.change_connection_id()  # type: ignore[attr-defined]
            await asyncio.sleep(1.0)
            (client, server, client)[number % 3].connection.close(0, "")
            if number % 4 == 0:
                client.connection.abort()
            sizes.append(tables(scene))
        await asyncio.sleep(1.0)
        assert max(sizes[-1].values()) <= max(max(size.values()) for size in sizes[:12])
        await asyncio.sleep(LINGER)
        scene.receive(b"\x40" + bytes(50))
        assert set(tables(scene).values()) == {0}
        assert scene.stats()["handshakes_started"] == 30

    simulated(scenario, engines)


@both_engines
def test_a_server_that_closes_leaves_nothing_in_its_tables(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.join()
        scene.receive(Hello().packet)
        await scene.world.listener.close()
        left = tables(scene)
        del left["former"]  # gone with the endpoint
        assert set(left.values()) == {0}

    simulated(scenario, engines)


# A flood, counted


@every_server
@pytest.mark.parametrize("kind", ["hello", "garbage"])
def test_a_flood_of_first_packets_costs_little_and_disturbs_nobody(engines: Pair, kind: str) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        hellos = [Hello().packet for _ in range(100)]
        before, started = scene.stats(), server.bursts
        for wave in range(10):
            flood = hellos if kind == "hello" else [packet[:6] + random_bytes(8) + packet[14:] for packet in hellos]
            scene.receive(*flood, source=(f"10.9.9.{wave % 3}", 1))
            assert client.connection.send_datagram(struct.pack("!I", wave))
            client.connection.flush()
            await asyncio.sleep(0.05)
        after = scene.stats()
        assert after["handshakes_started"] - before["handshakes_started"] <= 4
        assert after["connections"] <= 1 + 4
        assert sum(tables(scene).values()) <= 200
        assert server.datagrams == [struct.pack("!I", wave) for wave in range(10)]
        assert server.bursts > started
        other, _ = await scene.join()
        assert client.reasons == server.reasons == other.reasons == []

    simulated(scenario, engines)


def initial_with_ping(connection_id: bytes, token: bytes) -> bytes:
    """A client's probe: an Initial packet that says nothing of the handshake."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=connection_id, is_client=True, version=1)
    builder = QuicPacketBuilder(
        host_cid=b"a client",
        peer_cid=connection_id,
        peer_token=token,
        version=1,
        is_client=True,
        max_datagram_size=1200,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    builder.start_frame(QuicFrameType.PING)
    [packet], _ = builder.flush()
    return packet


@every_server
def test_a_probe_that_comes_before_the_hello_is_not_answered(engines: Pair) -> None:
    """A client of qh3 probes so when it fears for its hello; an answer, a close, would end it."""

    async def scenario(scene: Scene) -> None:
        source, original = ("10.9.9.9", 1), b"original"
        with scene.network.host("server"):
            token = scene.acceptor._tokens.make(source, original=original, retry_source=original, now=clock.monotonic())
        assert scene.receive(initial_with_ping(original, token), source=source) == []
        assert scene.stats()["handshakes_started"] == 1
        assert scene.stats()["connections"] == len(scene.acceptor._half_open) == 0
        await scene.join()

    simulated(scenario, engines)
