"""A server that lost its state, and packets of connections that are no more: stateless resets and last words."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from echostream.transport.base import CloseReason
from echostream.transport.quic.codes import RESET_REASON
from echostream.transport.quic.former import LINGER, Farewell, FormerIds
from echostream.transport.quic.resets import MIN_RESET_BYTES, TOKEN_BYTES, StatelessResets
from echostream.transport.tls import ServerTls
from echostream.types import clock
from tests.transport.authority import key_pem, self_signed
from tests.transport.lab import Pair, every_client, every_pair, every_server
from tests.transport.scene import Scene, send, simulated

KEY = b"k" * 32
LOST = CloseReason(None, RESET_REASON, by_peer=True)


# Tokens and packets


def test_a_token_follows_from_key_and_id() -> None:
    resets = StatelessResets(KEY, per_second=1)
    assert resets.token(b"12345678") == StatelessResets(KEY, per_second=9).token(b"12345678")
    assert resets.token(b"12345678") != resets.token(b"12345679")
    assert resets.token(b"12345678") != StatelessResets(b"j" * 32, per_second=1).token(b"12345678")
    assert len(resets.token(b"12345678")) == TOKEN_BYTES


def test_the_key_outlives_the_process_and_differs_by_its_purpose() -> None:
    tls = ServerTls.load()
    assert tls.derive_key("a") == ServerTls.load().derive_key("a")
    assert tls.derive_key("a") != tls.derive_key("b")
    assert len(tls.derive_key("a")) == 32


@pytest.mark.parametrize("size", [22, 29, 42, 43, 44, 1200, 9000])
def test_a_reset_looks_like_a_short_packet_and_is_shorter_than_what_came(size: int) -> None:
    resets = StatelessResets(KEY, per_second=1000)
    answers = [resets.answer(bytes(size), b"12345678", 0.0) for _ in range(20)]
    assert len(set(answers)) == 20
    for answer in answers:
        assert answer is not None
        assert MIN_RESET_BYTES <= len(answer) <= min(size - 1, 42)
        assert answer[0] & 0xC0 == 0x40
        assert answer.endswith(resets.token(b"12345678"))


def test_two_endpoints_that_answer_each_others_resets_fall_silent() -> None:
    near, far = StatelessResets(KEY, per_second=1000), StatelessResets(b"j" * 32, per_second=1000)
    packet, answers = near.answer(bytes(1500), b"12345678", 0.0), 0
    while packet is not None:
        near, far = far, near
        packet = near.answer(packet, packet[1:9], 0.0)
        answers += 1
    assert answers == 42 - MIN_RESET_BYTES + 1


@pytest.mark.parametrize("size", [0, 1, 20, 21])
def test_too_small_packets_get_no_reset(size: int) -> None:
    assert StatelessResets(KEY, per_second=1000).answer(bytes(size), b"12345678", 0.0) is None


def test_resets_are_limited_in_their_rate() -> None:
    resets = StatelessResets(KEY, per_second=10)

    def answered(now: float) -> int:
        return sum(resets.answer(bytes(100), b"12345678", now) is not None for _ in range(100))

    assert [answered(now) for now in (0.0, 0.0, 0.5, 100.0)] == [10, 0, 5, 10]
    assert StatelessResets(KEY, per_second=0).answer(bytes(100), b"12345678", 0.0) is None


# Ids that were in use


def test_former_ids_are_forgotten_after_a_while() -> None:
    former = FormerIds()
    former.add([b"1", b"2"], None, 0.0)
    former.add([b"3"], None, 5.0)
    assert former.knows(b"1", LINGER - 0.1)
    assert not former.knows(b"1", LINGER + 0.1)
    assert former.knows(b"3", LINGER + 0.1)
    assert len(former) == 1
    former.add([b"3"], None, 12.0)  # retired first, then its connection ended
    assert former.knows(b"3", 12.0 + LINGER - 0.1)


def test_former_ids_are_bounded() -> None:
    former = FormerIds()
    former.add((b"%d" % number for number in range(50_000)), None, 0.0)
    assert len(former) <= 16_384
    assert former.knows(b"49999", 0.0)
    assert not former.knows(b"1", 0.0)


def test_last_words_are_repeated_ever_more_rarely_and_to_the_peer_alone() -> None:
    here = ("192.0.2.1", 1)
    farewell = Farewell(b"closed" * 10, here)
    answers = [farewell.answer(bytes(30), here) for _ in range(64)]
    assert [index + 1 for index, answer in enumerate(answers) if answer] == [1, 2, 4, 8, 16, 32, 64]
    assert Farewell(b"closed", here).answer(bytes(30), ("192.0.2.2", 1)) is None
    assert Farewell(bytes(100), here).answer(bytes(30), here) is None  # would amplify
    assert Farewell(b"", here).answer(bytes(30), here) is None


# A server that is killed


@every_pair
@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_client_learns_at_once_that_the_server_was_restarted(engines: Pair, size: int) -> None:
    async def scenario(scene: Scene) -> None:
        client, _ = await scene.join()
        await scene.restart()
        send(client, size)
        await asyncio.sleep(0.05)  # one round trip takes 0.04
        assert client.reasons == [LOST]
        assert scene.stats()["stateless_resets_sent"] == 1
        assert client.connection._link.counters.stateless_resets_received == 1  # type: ignore[attr-defined]
        await scene.join()

    simulated(scenario, engines)


@every_pair
def test_a_quiet_client_learns_it_by_its_next_ping(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, _ = await scene.join()
        await scene.restart()
        await asyncio.sleep(3.0)
        assert client.reasons == [LOST]

    simulated(scenario, engines, keepalive_interval=2.0)


@every_client
def test_a_client_that_changed_its_id_learns_it_as_well(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, _ = await scene.join()
        client.connection._engine._quic.change_connection_id()  # type: ignore[attr-defined]
        send(client)
        await asyncio.sleep(1.0)
        await scene.restart()
        send(client)
        await asyncio.sleep(0.05)
        assert client.reasons == [LOST]

    simulated(scenario, engines)


@every_client
def test_a_server_with_another_key_leaves_it_to_the_idle_timeout(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, _ = await scene.join()
        key = ed25519.Ed25519PrivateKey.generate()
        scene.tls = ServerTls.load(self_signed(key, "server") + key_pem(key))
        await scene.restart()
        send(client)
        await asyncio.sleep(0.1)
        assert scene.stats()["stateless_resets_sent"] >= 1
        assert client.reasons == []
        await asyncio.sleep(6.0)
        assert [reason.reason for reason in client.reasons] == ["idle timeout: no packet from the peer"]

    simulated(scenario, engines, idle_timeout=5.0, keepalive_interval=1.0)


@every_client
def test_forged_resets_do_nothing(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        tokens = StatelessResets(KEY, per_second=1).token(b"12345678"), bytes(TOKEN_BYTES), b"\xff" * TOKEN_BYTES
        socket = scene.endpoint._socket
        where = server.connection._pump.address  # type: ignore[attr-defined]
        for token in tokens:
            for size in (5, 26, 1000):
                with scene.network.host("server"):
                    socket.send([(b"\x41" + bytes(size - 1) + token, where)])
        await asyncio.sleep(0.1)
        endpoint = client.connection._link  # type: ignore[attr-defined]
        assert endpoint.counters.unknown_connection_ids == 9
        assert endpoint.counters.stateless_resets_received == 0
        send(client)
        await asyncio.sleep(0.1)
        assert server.datagrams
        assert client.reasons == server.reasons == []

    simulated(scenario, engines)


@every_server
def test_a_packet_of_an_unknown_connection_is_answered_within_limits(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        endpoint = scene.endpoint
        before, source = scene.stats(), ("10.9.9.9", 1)
        endpoint.received(
            [(b"\x40" + bytes(size), source, None) for size in (20, 21, 100, 100, 100)], clock.monotonic_ns()
        )
        after = scene.stats()
        assert after["unknown_connection_ids"] - before["unknown_connection_ids"] == 5
        assert after["stateless_resets_sent"] == 3

    simulated(scenario, engines, max_resets_per_second=3)


# The end of a connection


@every_pair
def test_a_peer_that_missed_the_close_hears_it_again(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        scene.network.partition("server")
        server.connection.close(4000, "go home")
        await asyncio.sleep(0.1)
        scene.network.heal()
        assert scene.stats()["connections"] == 0
        send(client)
        await asyncio.sleep(0.1)
        assert client.reasons == [CloseReason(4000, "go home", by_peer=True)]
        assert scene.stats()["stateless_resets_sent"] == 0

    simulated(scenario, engines)


@every_pair
def test_late_packets_of_a_peer_that_closed_get_no_answer(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        endpoint = scene.endpoint
        (ids,) = (set(ids) for ids in endpoint.connections.values())
        where = server.connection._pump.address  # type: ignore[attr-defined]
        client.connection.close(4000, "going home")
        await asyncio.sleep(1.0)
        assert server.reasons
        sent = scene.stats()["packets_sent"]
        late = [(b"\x40" + connection_id + bytes(40), where, None) for connection_id in ids]
        endpoint.received(late, clock.monotonic_ns())
        assert scene.stats()["packets_sent"] == sent
        assert scene.stats()["unknown_connection_ids"] == len(late)
        await asyncio.sleep(LINGER)
        endpoint.received(late, clock.monotonic_ns())
        assert scene.stats()["stateless_resets_sent"] == len(late)

    simulated(scenario, engines)


@every_server
def test_a_late_packet_of_a_retired_id_brings_no_reset(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        endpoint = scene.endpoint
        before = set(endpoint._routes)
        client.connection._engine._quic.change_connection_id()  # type: ignore[attr-defined]
        send(client)
        await asyncio.sleep(1.0)
        (retired,) = before - set(endpoint._routes)
        where = server.connection._pump.address  # type: ignore[attr-defined]
        endpoint.received([(b"\x40" + retired + bytes(40), where, None)], clock.monotonic_ns())
        assert scene.stats()["stateless_resets_sent"] == 0
        send(client)
        await asyncio.sleep(0.1)
        assert len(server.datagrams) == 2
        assert client.reasons == server.reasons == []

    simulated(scenario, engines)
