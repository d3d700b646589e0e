"""Several workers on one UDP port: ids that name them, packets that reach them, and a worker that is restarted.

All workers of a test live in one process, on real sockets; `Workers.steer` says whom the kernel gives packets to.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.errors import ConnectError
from echostream.transport.base import Address, CloseReason
from echostream.transport.quic import QuicTransport, sharing, sharing_endpoint
from echostream.transport.quic.codes import RESET_REASON
from echostream.transport.quic.demux import LongHeader, RetryTokens
from echostream.transport.quic.sharing import CAN_SHARE, SHARES, PortShare, steer, steering
from echostream.transport.quic.sharing_endpoint import _decode, _encode  # pyright: ignore[reportPrivateUsage]
from echostream.transport.quic.transport import share_port
from echostream.transport.sockets import bind_udp
from echostream.transport.tls import ClientTls, ServerTls
from echostream.types import clock
from tests.transport.conformance import Recorder, World, assert_nothing_left, eventually
from tests.transport.lab import HAS_QH3, Pair, every_pair, every_server
from tests.transport.scene import Hello

pytestmark = pytest.mark.skipif(not CAN_SHARE, reason="a port is shared on Linux only")

LOST = CloseReason(None, RESET_REASON, by_peer=True)
_TO = 0x06
"""The instruction of classic BPF that returns a number."""


class Workers:
    """Two workers on one port, each a transport of its own."""

    def __init__(self, engines: Pair, url: str, shares: list[PortShare]) -> None:
        self.url = url
        self.shares = shares
        self.engines = engines
        self.worlds: list[World] = []
        self.clients: list[Recorder] = []

    async def start(self, number: int) -> World:
        """Start a worker, as a process that inherited its sockets would."""
        client, server = (QuicTransport(engine=engine, settings=QuicSettings()) for engine in self.engines)
        world = World(
            client, self.url, client_tls=ClientTls.load(ca="dev"), server_tls=ServerTls.load(), server_transport=server
        )
        own = PortShare.adopt(number, [os.dup(item) for item in self.shares[number].descriptors])
        token = SHARES.set({self.url: own})
        try:
            await world.open()
        finally:
            SHARES.reset(token)
        return world

    def steer(self, number: int) -> None:
        """Let every packet come to one worker's socket."""
        steer(self.shares[0].sock, [(_TO, 0, 0, number)])

    def steer_by_id(self) -> None:
        steer(self.shares[0].sock, steering(len(self.shares)))

    async def join(self, number: int) -> tuple[Recorder, Recorder]:
        """Return both ends of a connection to a worker, whose ids are issued."""
        self.steer(number)
        pair = await self.worlds[number].pair()
        self.clients.append(pair[0])
        await talk(*pair)
        await eventually(lambda: len(self.endpoint(number)._routes) >= 8)
        return pair

    def endpoint(self, number: int) -> Any:
        return self.worlds[number].listener._acceptor.endpoint  # type: ignore[attr-defined]

    def count(self, number: int, counter: str) -> int:
        return getattr(self.endpoint(number).counters, counter)  # type: ignore[no-any-return]


async def talk(client: Recorder, server: Recorder) -> None:
    """Send both ways, and see it arrive."""
    for near, far in ((client, server), (server, client)):
        count = len(far.datagrams)
        assert near.connection.send_datagram(b"x" * 30)
        near.connection.flush()
        await far.until(partial(_has_more_than, far, count))


def _has_more_than(recorder: Recorder, count: int) -> bool:
    return len(recorder.datagrams) > count


@asynccontextmanager
async def two_workers(engines: Pair, url: str = "quic://127.0.0.1:0") -> AsyncIterator[Workers]:
    address, shares = await share_port(Address.parse(url), 2)
    workers = Workers(engines, str(address), shares)
    try:
        workers.worlds = [await workers.start(number) for number in range(2)]
        yield workers
    finally:
        for client in workers.clients:
            client.connection.abort()
        for world in workers.worlds:
            await world.listener.close()
        for share in shares:
            share.close()
    await asyncio.sleep(0)
    assert_nothing_left()


# Who a packet belongs to


@pytest.mark.parametrize("url", ["quic://127.0.0.1:0", "quic://[::1]:0"])
async def test_the_kernel_gives_packets_to_the_worker_that_their_id_names(url: str) -> None:
    address, shares = await share_port(Address.parse(url), 3)
    steer(shares[0].sock, steering(3))
    assert address.port
    sender = socket.socket(shares[0].sock.family, socket.SOCK_DGRAM)
    for number in range(9):
        sender.sendto(bytes((0x40, number, 1)), (address.host, address.port))
        sender.sendto(bytes((0xC0, 0, 0, 0, 1, 8, number, 2)), (address.host, address.port))
    sender.close()
    for share in shares:
        packets = [share.sock.recv(100) for _ in range(6)]
        assert {packet[6 if packet[0] & 0x80 else 1] % 3 for packet in packets} == {share.number}
        with pytest.raises(BlockingIOError):
            share.sock.recv(100)
        share.close()


@every_server
async def test_the_ids_of_a_handshake_name_the_worker(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        for number in (0, 1, 1, 0):
            await workers.join(number)
        for number in (0, 1):
            engine_ids = {item._engine.connection_id for item in workers.endpoint(number).connections}
            assert {item[0] for item in engine_ids} == {number}
            assert len(engine_ids) == 2


async def test_all_ids_of_aioquic_name_the_worker() -> None:
    async with two_workers(("aioquic", "aioquic")) as workers:
        await workers.join(1)
        (ids,) = workers.endpoint(1).connections.values()
        (chosen,) = (item for item in ids if item[0] != 1)  # the client's own first one, by all likelihood
        assert {item[0] for item in ids - {chosen}} == {1}
        assert len(ids) == 9


@pytest.mark.skipif(not HAS_QH3, reason="qh3 is not installed")
async def test_the_id_of_a_retry_names_the_worker() -> None:
    async with two_workers(("aioquic", "qh3")) as workers:
        answers: list[bytes] = []
        endpoint = workers.endpoint(1)
        endpoint.send = lambda datagrams, _: answers.extend(data for data, _ in datagrams)
        endpoint.received([(Hello().packet, ("127.0.0.1", 9), None)] * 3, clock.monotonic_ns())
        headers = [LongHeader.parse(answer) for answer in answers]
        assert [header and header.source[0] for header in headers] == [1, 1, 1]


def test_a_packet_is_the_same_after_it_was_handed_over() -> None:
    for packet in (
        (b"\x40data", ("127.0.0.1", 65_535), None),
        (b"", ("192.0.2.1", 1), b"\x01\x00\x00\x00" * 3),
        (b"x" * 9000, ("fe80::1", 4433, 7, 3), b"y" * 20),
        (b"x", ("::ffff:192.0.2.1", 4433, 0, 0), None),
    ):
        assert _decode(_encode(packet)) == packet


# Packets that come to the wrong one


@every_pair
async def test_packets_that_come_to_another_worker_reach_their_own(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        client, server = await workers.join(0)
        workers.steer(1)
        await talk(client, server)
        stream = client.connection.open_stream()
        assert stream is not None
        content = os.urandom(300_000)
        client.connection.write(stream, content, fin=True)
        client.connection.flush()
        await server.holds(stream, content)
        assert workers.count(1, "packets_handed_over") > 20
        assert workers.count(1, "stateless_resets_sent") == workers.count(1, "unknown_connection_ids") == 0
        assert client.reasons == server.reasons == []


@every_pair
@pytest.mark.parametrize("steered", ["by id", "to the other"])
async def test_a_client_that_moved_reaches_its_worker(engines: Pair, steered: str) -> None:
    async with two_workers(engines) as workers:
        client, server = await workers.join(0)
        if steered == "by id":
            workers.steer_by_id()
        else:
            workers.steer(1)
        for _ in range(2):
            where, routes = server.connection.peer_address, set(workers.endpoint(0)._routes)
            client.connection._link.migrate()  # type: ignore[attr-defined]
            await eventually(partial(_is_elsewhere, server, where))
            await talk(client, server)
            await eventually(partial(_some_are_gone, workers.endpoint(0), routes))
        assert workers.count(1, "stateless_resets_sent") == 0
        if engines[1] == "aioquic":
            assert bool(workers.count(1, "packets_handed_over")) is (steered == "to the other")
        assert client.reasons == server.reasons == []


def _is_elsewhere(recorder: Recorder, address: str) -> bool:
    return recorder.connection.peer_address != address


def _some_are_gone(endpoint: Any, routes: set[bytes]) -> bool:
    return not routes <= set(endpoint._routes)


@every_server
async def test_another_worker_is_told_of_ids_that_name_it_until_they_are_gone(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        await workers.join(0)
        endpoint = workers.endpoint(1)
        (ids,) = workers.endpoint(0).connections.values()
        own = workers.worlds[0].servers[0].connection._engine.connection_id  # type: ignore[attr-defined]
        if engines[1] == "qh3":
            named = {item for item in ids if item[0] % 2 == 1}
            await eventually(lambda: len(named - endpoint._elsewhere.keys()) <= 1)  # the client's own first one
            assert set(endpoint._elsewhere.values()) <= {0}
        assert own not in endpoint._elsewhere
        workers.clients[0].connection.close(4000, "bye")
        await workers.worlds[0].servers[0].ended()
        await eventually(lambda: not endpoint._elsewhere)


async def test_a_worker_that_was_restarted_is_told_again_and_what_it_had_is_forgotten() -> None:
    async with two_workers(("aioquic", "aioquic")) as workers:
        near, far = workers.endpoint(0), workers.endpoint(1)
        _, server = await workers.join(0)
        await workers.join(1)
        foreign = [b"\x01" + number.to_bytes(7) for number in range(2500)]
        for connection_id in foreign:
            near.route(connection_id, server.connection)
        far._tell(1, [b"\x00" + bytes(7)])  # as if an engine had drawn it
        await eventually(lambda: near._elsewhere)
        await eventually(lambda: {*foreign} <= far._elsewhere.keys())
        await workers.worlds[1].listener.close()
        workers.worlds[1] = await workers.start(1)
        again = workers.endpoint(1)
        await eventually(lambda: {*foreign} <= again._elsewhere.keys())
        assert not near._elsewhere


async def test_the_ids_of_others_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing_endpoint, "_MAX_ELSEWHERE", 10)
    async with two_workers(("aioquic", "aioquic")) as workers:
        workers.endpoint(1)._tell(1, [b"\x00" + number.to_bytes(7) for number in range(50)])
        elsewhere = workers.endpoint(0)._elsewhere
        await eventually(lambda: elsewhere)
        assert [int.from_bytes(item) for item in elsewhere] == [*range(40, 50)]


@every_server
async def test_an_id_of_nobody_is_answered_by_the_worker_it_names_alone(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        workers.steer(1)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        address = Address.parse(workers.url)
        sender.sendto(b"\x40\x00" + bytes(60), (address.host, address.port))
        await eventually(lambda: workers.count(0, "stateless_resets_sent"))
        assert workers.count(1, "stateless_resets_sent") == 0
        assert workers.count(1, "packets_handed_over") == 1
        sender.close()


async def test_what_another_worker_has_no_room_for_is_dropped_and_counted() -> None:
    async with two_workers(("aioquic", "aioquic")) as workers:
        packet = (b"\x40\x00" + bytes(1200), ("127.0.0.1", 9), None)
        workers.endpoint(1).received([packet] * 20_000, clock.monotonic_ns())
        handed, dropped = (workers.count(1, f"packets_{word}handed_over") for word in ("", "not_"))
        assert handed + dropped == 20_000
        assert handed > 50
        assert dropped > 1000


@every_server
async def test_a_packet_that_was_handed_over_wanders_no_further(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        workers.endpoint(1)._tell(1, [bytes(8)])  # of a connection that has just ended there
        await eventually(lambda: workers.endpoint(0)._elsewhere)
        workers.steer(1)
        workers.endpoint(1).received([(b"\x40" + bytes(60), ("127.0.0.1", 9), None)], clock.monotonic_ns())
        await eventually(lambda: workers.count(1, "unknown_connection_ids"))
        assert workers.count(0, "packets_handed_over") == workers.count(1, "packets_handed_over") == 1
        assert workers.count(0, "stateless_resets_sent") == workers.count(1, "stateless_resets_sent") == 0


# A worker that is restarted


@every_pair
async def test_clients_learn_at_once_that_their_worker_was_restarted(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        client, server = await workers.join(0)
        other, far = await workers.join(1)
        workers.steer_by_id()
        socket_of_it = workers.endpoint(0)._socket
        socket_of_it.send = lambda datagrams, source=None: None  # it dies, and nobody hears of it
        await workers.worlds[0].listener.close()
        assert client.connection.send_datagram(b"x" * 30)
        client.connection.flush()
        await asyncio.sleep(0.02)
        assert client.reasons == []  # it waits in the socket
        assert server.reasons
        workers.worlds[0] = await workers.start(0)
        assert await client.ended() == LOST
        await talk(other, far)
        assert far.reasons == []


@every_pair
async def test_a_ticket_of_one_worker_is_a_full_handshake_at_the_other(engines: Pair) -> None:
    async with two_workers(engines) as workers:
        world = workers.worlds[0]

        async def dial(number: int) -> bool:
            workers.steer(number)
            client = await world.dial()
            workers.clients.append(client)
            await asyncio.sleep(0.05)  # its ticket comes
            return client.connection.resumed  # type: ignore[attr-defined, no-any-return]

        assert [await dial(0), await dial(0), await dial(1), await dial(1)] == [False, True, False, True]
        assert all(client.reasons == [] for client in workers.clients)


# Retry tokens


def test_retry_tokens_hold_at_other_workers_and_not_after_a_reboot() -> None:
    near, far = RetryTokens(b"k" * 32), RetryTokens(b"k" * 32)
    token = near.make(("192.0.2.1", 5), original=b"o" * 8, retry_source=b"r" * 8, now=100.0)

    def check(tokens: RetryTokens, now: float) -> bytes | None:
        return tokens.check(token, ("192.0.2.1", 5), destination=b"r" * 8, now=now)

    assert check(far, 100.0) == check(far, 105.0) == b"o" * 8
    assert check(far, 1.0) is None  # the clock began anew
    assert check(RetryTokens(), 100.0) is None


# Ports


async def test_a_port_that_is_taken_is_seen_even_if_the_other_shares_it() -> None:
    address, shares = await share_port(Address.parse("quic://127.0.0.1:0"), 2)
    with pytest.raises(ConnectError, match="in use by another program"):
        await share_port(address, 2)
    for share in shares:
        share.close()
    again, shares = await share_port(address, 2)
    assert again == address
    for share in shares:
        share.close()


async def test_nothing_stays_open_when_a_port_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def bind(*arguments: Any, **options: Any) -> socket.socket:
        made.append(bind_udp(*arguments, **options))
        return made[-1]

    def fail(family: int, kind: int) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(sharing, "bind_udp", bind)
    monkeypatch.setattr(socket, "socketpair", fail)
    with pytest.raises(ConnectError, match=r"cannot share quic://127.0.0.1:0 among 2 workers: too many open files"):
        await share_port(Address.parse("quic://127.0.0.1:0"), 2)
    assert [item.fileno() for item in made] == [-1, -1]
