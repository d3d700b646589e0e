"""Tests for echostream.transport.quic: the conformance suite, and what only QUIC has."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from echostream.config import Limits, QuicSettings
from echostream.errors import CertificateError, ConfigurationError, ConnectError
from echostream.transport import udp
from echostream.transport.base import CloseReason
from echostream.transport.quic import QuicTransport, transport
from echostream.transport.quic.connection import QuicConnection
from echostream.transport.tls import ClientTls, ServerTls
from tests.transport.conformance import PATIENCE, DatagramConformance, Recorder, World, assert_nothing_left, eventually
from tests.transport.lab import (
    HAS_QH3,
    PAIRS,
    Pair,
    both_engines,
    engine_module,
    every_client,
    every_pair,
    every_server,
    make_engines,
)
from tests.transport.relay import Relay

VERSION_2 = 0x6B3343CF

Open = Callable[..., Awaitable[World]]


@pytest.fixture
def engines() -> Pair:
    """The engines of a test that is about the endpoint; one about what an engine does is parametrised."""
    return "aioquic", "aioquic"


@every_pair
class TestQuic(DatagramConformance):
    @pytest.fixture
    async def world(self, opened: Open) -> World:
        return await opened()


@both_engines
class TestQuicWithoutKernelBatching(DatagramConformance):
    """The same with one packet per system call, as on kernels without UDP_GRO and UDP_SEGMENT."""

    @pytest.fixture
    async def world(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> World:
        monkeypatch.setattr(udp, "IS_LINUX", False)
        return await opened()


@both_engines
class TestQuicOnALoopWithoutReaders(DatagramConformance):
    """The same over asyncio's datagram transport, as on Windows."""

    @pytest.fixture
    async def world(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> World:
        def missing(*args: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", missing)
        return await opened()


@pytest.fixture
async def opened(engines: Pair) -> AsyncIterator[Open]:
    """Make worlds, and close them at the end."""
    worlds: list[World] = []

    async def make(url: str = "quic://127.0.0.1:0", *, limits: Limits | None = None, **settings: Any) -> World:
        client, server = (
            QuicTransport(engine=engine, settings=QuicSettings(**settings), limits=limits) for engine in engines
        )
        world = World(
            client, url, client_tls=ClientTls.load(ca="dev"), server_tls=ServerTls.load(), server_transport=server
        )
        await world.open()
        worlds.append(world)
        return world

    yield make
    for world in worlds[1:]:
        await world.listener.close()
    for world in worlds[:1]:
        world.clients += [client for other in worlds[1:] for client in other.clients]
        world.servers += [server for other in worlds[1:] for server in other.servers]
        await world.close()


def stats(world: World) -> dict[str, int]:
    listener = world.listener
    assert isinstance(listener, transport.QuicListener)
    return listener.stats()


async def counted(world: World, name: str, count: int = 1) -> None:
    await eventually(lambda: stats(world)[name] >= count)


async def exchange(client: Recorder, server: Recorder, content: bytes = b"hello") -> None:
    """Send content on a new stream and back."""
    stream = client.connection.open_stream()
    assert stream is not None
    client.connection.write(stream, content, fin=True)
    client.connection.flush()
    await server.until(lambda: stream in server.finished)
    server.connection.write(stream, bytes(server.data[stream]), fin=True)
    server.connection.flush()
    await client.until(lambda: stream in client.finished)
    assert client.data[stream] == content


def engine_of(recorder: Recorder) -> Any:
    connection = recorder.connection
    assert isinstance(connection, QuicConnection)
    return connection._engine


class Stranger:
    """A plain UDP socket that talks to a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect((parts.hostname, parts.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, packet: bytes) -> None:
        self.socket.send(packet)

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65536)


def initial(*, version: int = 1, token: bytes = b"", size: int = 1200, destination: bytes = b"12345678") -> bytes:
    """An Initial packet whose content cannot be decrypted."""
    start = struct.pack("!BI", 0xC0, version) + bytes([len(destination)]) + destination + b"\x04abcd"
    start += struct.pack("!H", 0x4000 | len(token)) + token
    rest = size - len(start) - 2
    return start + struct.pack("!H", 0x4000 | rest) + bytes(rest)


def speak_another_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["aioquic", "qh3"] if HAS_QH3 else ["aioquic"]:
        monkeypatch.setattr(engine_module(name), "ALPN", "other/1")


def stream_limit(engine: str, setting: int, *, unidirectional: bool = False) -> int:
    """What a server lets its client open: qh3 has numbers of its own."""
    return setting if engine == "aioquic" else 103 if unidirectional else 100


def first_flight(settings: QuicSettings | None = None) -> bytes:
    """A real client's first packet."""
    settings = settings or QuicSettings()
    engine = make_engines("aioquic", settings).connect(("127.0.0.1", 1), server_name="localhost", now=0.0)
    return engine.transmit(0.0)[0][0]


# Bad packets


@every_server
@pytest.mark.parametrize(
    ("packet", "counter"),
    [
        (b"", "malformed_packets"),
        (b"\x40", "malformed_packets"),
        (b"garbage!", "malformed_packets"),
        (b"\x40" + bytes(20), "unknown_connection_ids"),  # too short for a stateless reset
        (b"\xff" * 1300, "malformed_packets"),
        (initial()[:1100], "malformed_packets"),
        (initial(size=1199), "small_initials"),
        (initial(destination=b"1234567"), "unknown_connection_ids"),
        (b"\xe0" + initial()[1:], "unknown_connection_ids"),  # a Handshake packet
        (b"\xe0" + initial(size=300)[1:], "unknown_connection_ids"),
        (b"\xc0" + bytes(4) + initial()[5:], "packets_received"),  # version negotiation to a server: never answered
    ],
)
async def test_a_bad_packet_is_dropped_and_counted(opened: Open, packet: bytes, counter: str) -> None:
    world = await opened()
    with Stranger(world.url) as stranger:
        stranger.send(packet)
        await counted(world, counter)
        await exchange(*await world.pair())
        with pytest.raises(BlockingIOError):
            stranger.socket.recv(2000)
    assert stats(world)["connections"] == 1
    assert stats(world)["version_negotiations"] == 0


async def test_an_initial_that_is_fine_from_the_outside_only_opens_nothing(opened: Open) -> None:
    world = await opened()
    with Stranger(world.url) as stranger:
        stranger.send(initial())
        await counted(world, "malformed_packets")
        with pytest.raises(BlockingIOError):
            stranger.socket.recv(2000)
    assert stats(world)["connections"] == 0


@pytest.mark.parametrize("engines", PAIRS[1:2])
async def test_a_server_of_qh3_answers_every_first_packet_by_a_retry(opened: Open) -> None:
    world = await opened()
    with Stranger(world.url) as stranger:
        stranger.send(initial())
        assert (await stranger.receive())[0] & 0xF0 == 0xF0
        stranger.send(first_flight())
        await stranger.receive()
    assert stats(world)["retries"] == 2
    assert stats(world)["handshakes_started"] == stats(world)["connections"] == 0


@every_pair
async def test_garbage_in_an_open_connection_is_ignored(opened: Open) -> None:
    world = await opened()
    async with Relay(world.url) as relay:
        client, server = await world.pair(relay.url)
        relay.inject(relay.from_client[-1][:9] + bytes(50))
        relay.inject(relay.from_client[-1])  # a replay
        relay.inject_back(relay.from_server[-1][:9] + bytes(50))
        relay.inject_back(b"\x40unknown connection")
        relay.inject_back(b"\xc0" + struct.pack("!I", 1) + b"\x08unknown!\x00\x00\x00\x00")
        relay.inject_back(b"")
        await exchange(client, server)


@every_server
async def test_a_peer_that_breaks_the_protocol_is_told_so(opened: Open, engines: Pair) -> None:
    world = await opened(max_streams=16)
    client, server = await world.pair()
    engine_of(client)._quic._remote_max_streams_bidi = 1000
    for _ in range(stream_limit(engines[1], 16) + 1):
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"x")
    client.connection.flush()
    found, told = await server.ended(), await client.ended()
    assert (found.code, found.by_peer) == (told.code, not told.by_peer) == (None, False)
    assert found.reason.startswith("stream limit error (")
    assert told.reason == f"the peer found: {found.reason}"


# Handshake


@both_engines
async def test_an_unknown_version_is_answered_with_ours(opened: Open) -> None:
    world = await opened()
    with Stranger(world.url) as stranger:
        stranger.send(initial(version=0x1A2A3A4A))
        answer = await stranger.receive()
    assert answer[0] & 0x80
    assert answer[1:] == bytes(4) + b"\x04abcd" + b"\x0812345678" + struct.pack("!II", 1, VERSION_2)
    assert stats(world)["version_negotiations"] == 1


@every_pair
async def test_client_and_server_agree_on_a_version(opened: Open) -> None:
    server_world, client_world = await opened(), await opened()
    server_world.server_transport._load_engines().versions = (VERSION_2,)  # type: ignore[attr-defined]
    await server_world.listener.close()
    await server_world.open()
    await exchange(*await client_world.pair(server_world.url, to=server_world))
    assert stats(server_world)["version_negotiations"] in {1, 2}  # a hello of qh3 has two packets


@every_client
async def test_no_common_version_is_said(opened: Open) -> None:
    server_world, client_world = await opened(), await opened()
    server_world.server_transport._load_engines().versions = (0x0A0A0A0A,)  # type: ignore[attr-defined]
    with pytest.raises(ConnectError) as caught:
        await client_world.dial(server_world.url)
    assert caught.value.message == (
        f"handshake with {server_world.url} failed: internal error (Could not find a common protocol version)"
    )


@every_pair
async def test_another_application_protocol_is_refused(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await opened()
    speak_another_protocol(monkeypatch)
    with pytest.raises(ConnectError) as caught:
        await world.dial()
    assert caught.value.message == (
        f"{world.url} does not speak echostream/1: another program or version listens there"
    )
    assert world.servers == []
    assert stats(world)["connections"] == 0


@every_pair
async def test_a_server_without_our_protocol_is_left(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    speak_another_protocol(monkeypatch)
    world = await opened()
    with pytest.raises(ConnectError, match="does not speak echostream/1"):
        await world.dial()
    assert world.servers == []


@every_pair
async def test_an_untrusted_certificate_ends_the_handshake(opened: Open) -> None:
    world = await opened()
    world.client_tls = ClientTls.load(fingerprint="0" * 64)
    with pytest.raises(CertificateError, match="fingerprint of the server's certificate is"):
        await world.dial()
    await asyncio.sleep(0.01)
    assert world.servers == []
    assert stats(world)["connections"] == 0


@every_client
async def test_the_name_to_check_may_differ_from_the_one_that_is_dialled(opened: Open) -> None:
    world = await opened()
    world.client_tls = ClientTls.load(ca="dev", server_name="elsewhere.example")
    with pytest.raises(CertificateError, match=r"elsewhere\.example"):
        await world.dial()
    world.client_tls = ClientTls.load(ca="dev", server_name="localhost")
    client = await world.dial()
    assert client.connection.peer_certificate is not None
    assert client.connection.peer_certificate[:1] == b"\x30"


@every_pair
async def test_a_server_that_is_full_says_so(opened: Open) -> None:
    world = await opened(max_connections=1)
    await world.pair()
    with pytest.raises(ConnectError) as caught:
        await world.dial()
    assert caught.value.message == f"{world.url} takes no new connections: has its 1 connections"
    assert stats(world)["handshakes_refused"] >= 1  # a late packet of the same hello counts again


@every_pair
async def test_above_the_limit_addresses_are_checked_by_a_retry(opened: Open) -> None:
    world = await opened(retry_above_handshakes=0)
    await exchange(*await world.pair())
    assert stats(world)["retries"] in {1, 2}  # a hello of qh3 has two packets, and each gets its own
    assert stats(world)["handshakes_started"] == 1
    with Stranger(world.url) as stranger:
        stranger.send(initial(token=b"forged token that is long enough"))
        await counted(world, "invalid_tokens")


async def test_half_open_handshakes_are_bounded_and_time_out(opened: Open) -> None:
    world = await opened(max_handshakes=2, handshake_timeout=0.5)
    with Stranger(world.url) as stranger:
        for _ in range(3):
            stranger.send(first_flight())
        await counted(world, "handshakes_refused")
        assert stats(world)["connections"] == 2
        await eventually(lambda: not stats(world)["connections"])
    await exchange(*await world.pair())


@every_client
async def test_a_handshake_that_gets_stuck_times_out(opened: Open) -> None:
    world = await opened(handshake_timeout=0.5)
    async with Relay(world.url) as relay:
        relay.is_silent = True
        dialling = asyncio.ensure_future(world.dial(relay.url))
        await eventually(lambda: relay.from_client)
        relay.inject_back(b"not what the client waits for")
        with pytest.raises(ConnectError) as caught:
            await dialling
    assert caught.value.message == f"cannot reach {relay.url}: the handshake took longer than 0.5 s"


async def test_a_silent_address_is_no_answer(opened: Open) -> None:
    world = await opened(handshake_timeout=0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(ConnectError) as caught:
            await world.dial(f"quic://127.0.0.1:{port}")
    assert caught.value.message == (
        f"cannot reach quic://127.0.0.1:{port}: no answer within 0.5 s: check host and port, that the server runs, "
        "and that no firewall stops UDP"
    )


@every_client
async def test_a_cancelled_dial_leaves_nothing(opened: Open) -> None:
    world = await opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        dialling = asyncio.ensure_future(world.dial(f"quic://127.0.0.1:{silent.getsockname()[1]}"))
        await asyncio.sleep(0.02)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
    await world.listener.close()
    assert_nothing_left()


# Addresses


@every_client
async def test_a_refused_address_says_so(opened: Open) -> None:
    world = await opened()
    await world.listener.close()
    with pytest.raises(ConnectError) as caught:
        await world.dial()
    assert caught.value.message == (
        f"cannot reach {world.url}: connection refused: no program listens on that UDP port; start the server, "
        "or check the port"
    )


async def test_an_unknown_host_says_so(opened: Open) -> None:
    world = await opened()
    with pytest.raises(ConnectError, match=r"cannot resolve the host of quic://no-such-host\.invalid:4433: "):
        await world.dial("quic://no-such-host.invalid:4433")
    with pytest.raises(ConnectError, match="cannot resolve the host of quic://a"):
        await world.dial(f"quic://{'a' * 70}.example:4433")


async def test_an_unreachable_address_says_so(opened: Open) -> None:
    world = await opened()
    with pytest.raises(ConnectError, match=r"cannot reach quic://255\.255\.255\.255:4433: "):
        await world.dial("quic://255.255.255.255:4433")


async def test_a_url_without_port_is_refused(opened: Open) -> None:
    world = await opened()
    for attempt in (world.dial, world.listen):
        with pytest.raises(ConfigurationError) as caught:
            await attempt("quic://localhost")
        assert caught.value.message == "url: 'quic://localhost' has no port, expected like quic://localhost:4433"


async def test_the_addresses_of_a_host_are_tried_in_order(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await opened(address_timeout=0.05, handshake_timeout=0.5)
    parts = urlsplit(world.url)
    assert parts.port is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        targets = [(socket.AF_INET, silent.getsockname()), (socket.AF_INET, ("127.0.0.1", parts.port))]

        async def resolve(address: object) -> list[Any]:
            return targets

        monkeypatch.setattr(transport, "_resolve", resolve)
        world.client_tls = ClientTls.load(ca="dev", server_name="localhost")
        client = await world.dial("quic://somewhere:1")
        assert client.connection.peer_address == f"127.0.0.1:{parts.port}"
        await world.listener.close()
        with pytest.raises(ConnectError) as caught:
            await world.dial("quic://somewhere:1")
    assert caught.value.message.startswith(f"cannot reach quic://somewhere:1: 127.0.0.1:{targets[0][1][1]}: no answer")
    assert f"; 127.0.0.1:{parts.port}: connection refused" in caught.value.message


async def test_an_address_that_answers_slowly_is_not_left_for_the_next(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await opened(address_timeout=0.1)
    async with Relay(world.url) as relay:
        host, port = urlsplit(relay.url).hostname, urlsplit(relay.url).port

        async def resolve(address: object) -> list[Any]:
            return [(socket.AF_INET, (host, port)), (socket.AF_INET, ("127.0.0.1", 1))]

        monkeypatch.setattr(transport, "_resolve", resolve)
        world.client_tls = ClientTls.load(ca="dev", server_name="localhost")
        relay.is_silent = True
        dialling = asyncio.ensure_future(world.dial("quic://somewhere:1"))
        await eventually(lambda: relay.from_client)
        relay.inject_back(b"not what the client waits for")
        await asyncio.sleep(0.2)
        relay.is_silent = False
        assert (await dialling).connection.peer_address == f"{host}:{port}"


async def test_a_port_in_use_says_what_to_do(opened: Open) -> None:
    world = await opened()
    with pytest.raises(ConnectError) as caught:
        await world.listen(world.url)
    assert caught.value.message == (
        f"{world.url} is in use by another program; stop it or listen on port 0 for a free one"
    )


async def test_an_address_of_another_machine_says_what_to_do(opened: Open) -> None:
    world = await opened()
    with pytest.raises(ConnectError) as caught:
        await world.listen("quic://192.0.2.1:0")
    assert caught.value.message == (
        "cannot listen on quic://192.0.2.1:0: this machine has no such address, try 0.0.0.0 or [::] for all it has"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EACCES, "cannot listen on quic://127.0.0.1:0: ports below 1024 need privileges, choose a higher one"),
        (errno.ENETDOWN, "cannot listen on quic://127.0.0.1:0: network is down"),
    ],
)
async def test_other_reasons_against_listening_are_said(
    opened: Open, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    world = await opened()

    def fail(*args: object, **options: object) -> socket.socket:
        raise OSError(number, "Network is down")

    monkeypatch.setattr(transport, "listen_udp", fail)
    with pytest.raises(ConnectError) as caught:
        await world.listen("quic://127.0.0.1:0")
    assert caught.value.message == text


@every_pair
async def test_ipv6(opened: Open) -> None:
    world = await opened("quic://[::1]:0")
    assert world.url.startswith("quic://[::1]:")
    client, server = await world.pair()
    await exchange(client, server, bytes(100_000))
    assert server.connection.peer_address.startswith("[::1]:")


@every_server
@pytest.mark.parametrize(
    ("wildcard", "hosts"), [("0.0.0.0", ["127.0.0.1", "127.0.0.2"]), ("[::]", ["127.0.0.1", "127.0.0.2", "[::1]"])]
)
async def test_a_wildcard_answers_from_the_address_that_was_asked(
    opened: Open, wildcard: str, hosts: list[str]
) -> None:
    world = await opened(f"quic://{wildcard}:0")
    port = urlsplit(world.url).port
    assert world.url == f"quic://{wildcard}:{port}"
    world.client_tls = ClientTls.load(ca="dev", server_name="localhost")
    for host in hosts:
        client, server = await world.pair(f"quic://{host}:{port}")
        await exchange(client, server, bytes(50_000))
        assert server.connection.peer_address.startswith("[::1]:" if host == "[::1]" else "127.0.0.")


# Life


@every_pair
async def test_a_hundred_connections_from_one_process(opened: Open) -> None:
    world = await opened()
    clients = await asyncio.gather(*(world.dial() for _ in range(100)))
    for index, client in enumerate(clients):
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"%d" % index, fin=True)
        client.connection.flush()
    for server in world.servers:
        await server.finish_count(1)
        server.connection.write(0, bytes(server.data[0]), fin=True)
        server.connection.flush()
    for index, client in enumerate(clients):
        await client.holds(0, b"%d" % index)
    assert stats(world)["connections"] == 100
    assert stats(world)["unknown_connection_ids"] == 0


@every_pair
async def test_connection_ids_are_followed_as_they_change(opened: Open) -> None:
    world = await opened()
    client, server = await world.pair()
    endpoint = world.listener._acceptor.endpoint  # type: ignore[attr-defined]
    await exchange(client, server)
    seen: set[bytes] = set()
    for _ in range(12):  # more than are issued at a time
        seen |= set(endpoint._routes)
        engine_of(client)._quic.change_connection_id()
        await exchange(client, server)
        engine_of(server)._quic.change_connection_id()
        await exchange(client, server)
    assert len(seen) >= 12
    (ids,) = endpoint.connections.values()
    assert ids == set(endpoint._routes)
    assert len(ids) <= 9  # 8 in use and the client's first choice
    assert stats(world)["unknown_connection_ids"] == 0
    server.connection.abort()
    assert endpoint._routes == {}


@every_pair
async def test_a_client_may_move_to_another_address(opened: Open) -> None:
    world = await opened()
    async with Relay(world.url) as relay:
        client, server = await world.pair(relay.url)
        await exchange(client, server)
        before = server.connection.peer_address
        await relay.rebind()
        await exchange(client, server, bytes(100_000))
        assert server.connection.peer_address != before
        assert server.reasons == []


@every_pair
@pytest.mark.parametrize("by_client", [True, False])
async def test_a_transfer_goes_on_while_the_client_moves(opened: Open, by_client: bool) -> None:
    world = await opened()
    async with Relay(world.url) as relay:
        client, server = await world.pair(relay.url)
        await exchange(client, server)
        writer, reader = (client, server) if by_client else (server, client)
        stream = writer.connection.open_stream(unidirectional=True)
        assert stream is not None
        left = 40

        def write_on(_: int) -> None:
            nonlocal left
            while left:
                left -= 1
                if not writer.connection.write(stream, bytes([left]) * 50_000, fin=not left):
                    break
            writer.connection.flush()

        writer.on_writable = write_on
        write_on(stream)
        for size in (300_000, 900_000, 1_500_000):
            while len(reader.data[stream]) <= size:
                await reader.until(lambda: reader.bursts)
                reader.bursts = 0
            await relay.rebind()
            assert client.connection.send_datagram(b"here I am")  # the server cannot know before the client speaks
            client.connection.flush()
        await reader.finish_count(2)
        assert reader.data[stream] == b"".join(bytes([index]) * 50_000 for index in reversed(range(40)))
        assert client.reasons == server.reasons == []


async def test_an_open_connection_survives_what_the_kernel_reports(opened: Open) -> None:
    world = await opened()
    client, server = await world.pair()
    engine_of(client)  # the endpoint of a client
    client.connection._link.failed(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    await exchange(client, server)


@every_pair
@pytest.mark.parametrize("method", ["receive", "deliver", "transmit", "timer"])
async def test_an_engine_that_raises_costs_its_own_connection_only(
    opened: Open, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    world = await opened()
    client, server = await world.pair()
    other = await world.pair()

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("inconsistent inside")

    setattr(engine_of(server), method, fail)
    stream = client.connection.open_stream()
    assert stream is not None
    client.connection.write(stream, b"x")
    client.connection.flush()
    reason = await server.ended()
    assert reason == CloseReason(None, "internal error: AssertionError('inconsistent inside')", by_peer=False)
    assert [record.name for record in caplog.records] == ["echostream.transport"]
    assert "failed: AssertionError('inconsistent inside')" in caplog.text
    await exchange(*other)


async def test_the_panic_of_a_native_engine_costs_its_own_connection_only(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    class PanicException(BaseException):  # as pyo3 has it
        pass

    def fail(*args: object) -> None:
        raise PanicException("index out of bounds")

    world = await opened()
    client, server = await world.pair()
    engine_of(server).receive = fail
    assert client.connection.send_datagram(b"x")
    client.connection.flush()
    assert (await server.ended()).reason == "internal error: PanicException('index out of bounds')"
    assert "failed: PanicException('index out of bounds')" in caplog.text
    await exchange(*await world.pair())


@every_client
async def test_an_engine_that_raises_in_the_handshake_fails_the_dial(
    opened: Open, engines: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await opened()

    def fail(self: object) -> None:
        raise AssertionError("inconsistent inside")

    monkeypatch.setattr(getattr(engine_module(engines[0]), f"{engines[0].capitalize()}Engine"), "timer", fail)
    with pytest.raises(ConnectError, match=r"failed: internal error: AssertionError\('inconsistent inside'\)"):
        await world.dial()


@every_pair
async def test_stream_limits_are_counted_and_streams_available_tells(opened: Open, engines: Pair) -> None:
    world = await opened(max_streams=16)
    client, server = await world.pair()
    ended = 0
    for unidirectional in (False, True):
        limit = stream_limit(engines[1], 16, unidirectional=unidirectional)
        streams = [client.connection.open_stream(unidirectional=unidirectional) for _ in range(limit + 1)]
        assert streams.index(None) == limit
        for stream in streams[:limit]:
            assert stream is not None
            client.connection.write(stream, b"x", fin=True)
        client.connection.flush()
        ended += limit
        await server.finish_count(ended)
        if not unidirectional:
            for stream in streams[:limit]:
                assert stream is not None
                server.connection.write(stream, b"", fin=True)
        server.connection.flush()
        while client.availables <= unidirectional:
            await client.until(lambda: client.bursts)
            client.bursts = 0
        assert client.connection.open_stream(unidirectional=unidirectional) is not None


@both_engines
async def test_watermarks_come_from_the_limits(opened: Open) -> None:
    world = await opened(limits=Limits(high_watermark_bytes=2000, low_watermark_bytes=1000))
    client, _ = await world.pair()
    stream = client.connection.open_stream()
    assert stream is not None
    assert client.connection.write(stream, bytes(2000))
    assert not client.connection.write(stream, b"x")
    client.connection.flush()
    await client.until(lambda: client.writables == [stream])


@every_pair
async def test_a_stop_of_a_waiting_writer_forgets_its_watermark(opened: Open) -> None:
    world = await opened(stream_window_bytes=1 << 14)
    client, server = await world.pair()
    stream = client.connection.open_stream()
    assert stream is not None
    assert not client.connection.write(stream, bytes(1 << 20))
    client.connection.flush()
    server.on_data = lambda stream_id, data, fin: server.connection.stop_stream(stream_id, 9)
    await client.until(lambda: client.stops)
    assert client.connection.unsent_bytes(stream) == 0


@every_pair
async def test_a_close_waits_for_the_peer_to_take_what_was_written_up_to_its_timeout(opened: Open) -> None:
    world = await opened(close_timeout=0.2)
    async with Relay(world.url) as relay:
        client, server = await world.pair(relay.url)
        stream = client.connection.open_stream()
        assert stream is not None
        await exchange(client, server)
        relay.is_silent = True
        client.connection.write(stream, b"never taken")
        started = asyncio.get_running_loop().time()
        client.connection.close(3000, "x" * 5000)
        reason = await client.ended()
        assert 0.15 < asyncio.get_running_loop().time() - started < 1.0
        assert reason == CloseReason(3000, "x" * 512, by_peer=False)


@every_pair
async def test_rtt_is_measured(opened: Open) -> None:
    world = await opened()
    client, server = await world.pair()
    await exchange(client, server)
    assert client.connection.rtt is not None
    assert 0 < client.connection.rtt < 1


@every_pair
async def test_larger_datagrams_can_be_configured(opened: Open) -> None:
    world = await opened(max_datagram_bytes=8952)
    client, server = await world.pair()
    await exchange(client, server, bytes(1_000_000))
    assert client.connection.max_datagram_payload_bytes == 8912
    assert client.connection.send_datagram(bytes(8912))
    client.connection.flush()
    await server.until(lambda: server.datagrams)


@every_pair
@pytest.mark.slow
async def test_a_vanished_peer_is_noticed_by_the_idle_timeout(opened: Open) -> None:
    world = await opened(idle_timeout=1.0)
    async with Relay(world.url) as relay:
        client, server = await world.pair(relay.url)
        await exchange(client, server)
        relay.is_silent = True
        expected = CloseReason(None, "idle timeout: no packet from the peer", by_peer=False)
        assert await client.ended() == expected
        assert await server.ended() == expected


@every_client
@pytest.mark.slow
async def test_a_quiet_client_keeps_its_connection_alive(opened: Open) -> None:
    world = await opened(idle_timeout=1.0, keepalive_interval=0.5)
    client, server = await world.pair()
    await exchange(client, server)
    received = stats(world)["packets_received"]
    await asyncio.sleep(2.2)
    assert client.reasons == server.reasons == []
    assert 3 <= stats(world)["packets_received"] - received <= 20
    await exchange(client, server)


@every_pair
async def test_a_close_from_within_writable_works(opened: Open) -> None:
    world = await opened()
    client, server = await world.pair()
    stream = client.connection.open_stream()
    assert stream is not None
    client.on_writable = lambda stream_id: client.connection.close(4004, "all written")
    assert not client.connection.write(stream, bytes(300_000))
    client.connection.flush()
    assert await server.ended() == CloseReason(4004, "all written", by_peer=True)
    assert len(server.data[stream]) == 300_000


@both_engines
async def test_senders_wait_while_the_socket_has_no_room(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await opened()
    client, server = await world.pair()
    sock = client.connection._link._socket  # type: ignore[attr-defined]
    sock._block(paused=True)
    stream = client.connection.open_stream()
    assert stream is not None
    client.connection.write(stream, bytes(10_000), fin=True)
    client.connection.flush()
    assert client.connection.unsent_bytes(stream) == 10_000
    await server.until(lambda: server.finished)
    assert sock.dropped_count == 0
