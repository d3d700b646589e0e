"""The relay on real sockets: what it does to packets and to streams, what it counts, and that it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import pytest

from echostream import ConfigurationError, RpcClient, handler
from echostream.testing import ImpairmentRelay, Link
from tests.serving import QUIC, open_sockets, served, until

PATIENCE = 5.0


@handler("double")
async def double(number: int) -> int:
    return 2 * number


class _Echo(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.senders: list[tuple[str, int]] = []
        self.received: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is no subclass before 3.13

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.senders.append(addr)
        self.received.append(data)
        self.transport.sendto(data, addr)


@asynccontextmanager
async def udp_echo() -> AsyncGenerator[tuple[str, _Echo]]:
    transport, echo = await asyncio.get_running_loop().create_datagram_endpoint(_Echo, local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    try:
        yield f"{host}:{port}", echo
    finally:
        transport.close()
        await asyncio.sleep(0)


@contextmanager
def dialled(relay: ImpairmentRelay) -> Generator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", relay.port))
        yield sock


async def ask(sock: socket.socket, data: bytes, timeout: float = PATIENCE) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, data)
    return await asyncio.wait_for(loop.sock_recv(sock, 2000), timeout)


async def asks(sock: socket.socket, data: bytes) -> bool:
    """Whether an answer comes soon."""
    with contextlib.suppress(TimeoutError):
        return await ask(sock, data, 0.05) == data
    return False


async def test_packets_take_their_time_and_it_is_logged() -> None:
    async with udp_echo() as (address, _):
        with ImpairmentRelay(address, link=Link(delay=0.02), back=Link(delay=0.01)) as relay, dialled(relay) as sock:
            began = time.monotonic()
            for number in range(5):
                assert await ask(sock, b"%d" % number) == b"%d" % number
            assert time.monotonic() - began >= 5 * 0.03
            await until(lambda: len(relay.log) == 10)
            log = list(relay.log)
    assert [entry.to_server for entry in log] == [True, False] * 5
    for entry in log:
        assert entry.planned == pytest.approx(0.02 if entry.to_server else 0.01, abs=1e-6)
        assert entry.applied >= entry.planned
    assert sorted(entry.applied - entry.planned for entry in log)[5] < 0.02


async def test_fate_of_packets_follows_from_the_seed() -> None:
    async def received(seed: int) -> list[bytes]:
        async with udp_echo() as (address, echo):
            link = Link(delay=0.0, loss=0.3, duplicate=0.2)
            with ImpairmentRelay(address, link=link, seed=seed) as relay, dialled(relay) as sock:
                for number in range(50):
                    sock.send(b"%d" % number)
                await until(lambda: relay.forward.sent == 50)
                await asyncio.sleep(0.02)
                assert len(echo.received) == 50 - relay.forward.lost + relay.forward.duplicated
            return echo.received

    assert await received(1) == await received(1) != await received(2)


async def test_cut_loses_and_heal_mends() -> None:
    async with udp_echo() as (address, _):
        with ImpairmentRelay(address) as relay, dialled(relay) as sock:
            assert await ask(sock, b"a") == b"a"
            relay.cut()
            assert not await asks(sock, b"b")
            assert relay.forward.lost == 1
            relay.heal()
            assert await ask(sock, b"c") == b"c"
            relay.cut(forward=False)
            assert not await asks(sock, b"d")
            assert relay.back.lost == 1


async def test_rebind_changes_the_port_towards_the_server() -> None:
    async with udp_echo() as (address, echo):
        with ImpairmentRelay(address) as relay, dialled(relay) as sock, dialled(relay) as other:
            await ask(sock, b"a")
            await ask(other, b"b")
            relay.rebind()
            await ask(sock, b"c")
            await ask(other, b"d")
    assert len(set(echo.senders)) == 4


async def test_steps_run_at_their_times() -> None:
    async with udp_echo() as (address, _):
        steps = [(0.03, ImpairmentRelay.cut), (0.15, ImpairmentRelay.heal)]
        with ImpairmentRelay(address, steps=steps) as relay, dialled(relay) as sock:
            assert await ask(sock, b"a") == b"a"
            await until(lambda: relay.forward.is_cut)
            await until(lambda: not relay.forward.is_cut)
            assert await ask(sock, b"b") == b"b"


async def test_what_a_step_raises_is_raised_at_the_end() -> None:
    def fail(_relay: ImpairmentRelay) -> None:
        raise LookupError("step")

    relay = ImpairmentRelay("127.0.0.1:9", steps=[(0.0, fail)])
    relay.start()
    await until(lambda: relay._loop is not None and relay._loop._failure)
    with pytest.raises(LookupError, match="step"):
        relay.cut()
    with pytest.raises(LookupError, match="step"):
        relay.stop()
    relay.stop()


async def test_an_oldest_client_gives_way_and_nothing_waits_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.testing.relay_udp._MAX_CLIENTS", 1)
    monkeypatch.setattr("echostream.testing.relay_udp._MAX_FLYING", 1)
    async with udp_echo() as (address, _):
        with (
            ImpairmentRelay(address, link=Link(delay=0.05), back=Link(delay=0.0)) as relay,
            dialled(relay) as first,
            dialled(relay) as second,
        ):
            first.send(b"a")
            first.send(b"b")
            await asyncio.sleep(0.02)
            assert (relay.forward.sent, relay.forward.overflowed) == (2, 1)
            second.send(b"c")  # the first is forgotten: its packet on the way goes nowhere
            await asyncio.sleep(0.1)
            assert await ask(second, b"d") == b"d"


async def test_a_whole_server_behind_a_bad_relay() -> None:
    link = Link(delay=0.002, jitter=0.003, loss=0.02, reorder=0.2, duplicate=0.05)
    async with served(double, url=QUIC) as server:
        with ImpairmentRelay(server.addresses[0], link=link, seed=1) as relay:
            url = f"quic://{relay.address}"
            async with RpcClient.connect(url, fingerprint=server.fingerprint, timeout=PATIENCE) as client:
                answers = await asyncio.gather(*(client.request("double", n, returns=int) for n in range(100)))
                relay.rebind()
                answers += await asyncio.gather(*(client.request("double", n, returns=int) for n in range(100)))
    assert answers == [2 * number for number in range(100)] * 2


# TCP


@asynccontextmanager
async def tcp_echo() -> AsyncGenerator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(relay: ImpairmentRelay) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_stream_comes_whole_and_late() -> None:
    sent = bytes(range(256)) * 4096
    bad = Link(delay=0.02, jitter=0.01, loss=0.5, corrupt=0.5, duplicate=0.5, reorder=0.5)
    async with tcp_echo() as address:
        with ImpairmentRelay(address, link=bad) as relay:
            async with connected(relay) as (reader, writer):
                began = time.monotonic()
                writer.write(sent)
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(-1), PATIENCE) == sent
                assert time.monotonic() - began >= 0.04
            assert min(entry.applied - entry.planned for entry in relay.log) >= 0


async def test_bandwidth_holds_a_stream_back() -> None:
    async with tcp_echo() as address:
        with ImpairmentRelay(address, link=Link(delay=0.0, bandwidth=1e6), back=Link(delay=0.0)) as relay:
            async with connected(relay) as (reader, writer):
                began = time.monotonic()
                writer.write(bytes(100_000))
                await asyncio.wait_for(reader.readexactly(100_000), PATIENCE)
                assert 0.1 <= time.monotonic() - began < 1


async def test_a_cut_stream_stands_still_and_goes_on() -> None:
    async with tcp_echo() as address:
        with ImpairmentRelay(address) as relay:
            async with connected(relay) as (reader, writer):
                writer.write(b"a")
                assert await asyncio.wait_for(reader.readexactly(1), PATIENCE) == b"a"
                relay.cut()
                writer.write(b"b")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.readexactly(1), 0.05)
                relay.heal()
                assert await asyncio.wait_for(reader.readexactly(1), PATIENCE) == b"b"
                relay.join(Link(delay=0.05))
                began = time.monotonic()
                writer.write(b"c")
                await asyncio.wait_for(reader.readexactly(1), PATIENCE)
                assert time.monotonic() - began >= 0.1


async def test_dropped_connections_are_reset() -> None:
    async with tcp_echo() as address:
        with ImpairmentRelay(address) as relay:
            async with connected(relay) as (reader, writer):
                writer.write(b"a")
                await asyncio.wait_for(reader.readexactly(1), PATIENCE)
                relay.drop_connections()
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(reader.read(1), PATIENCE)


async def test_a_client_that_vanishes_ends_both_sides() -> None:
    async with tcp_echo() as address:
        with ImpairmentRelay(address) as relay:
            async with connected(relay) as (reader, writer):
                writer.write(b"a")
                await asyncio.wait_for(reader.readexactly(1), PATIENCE)
                assert len(relay._tcp._connections) == 1  # type: ignore[union-attr]
                writer.transport.abort()
            await until(lambda: not relay._tcp._connections)  # type: ignore[union-attr]


async def test_nobody_behind_the_relay_is_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = unused.getsockname()
        with ImpairmentRelay(target) as relay:
            for limit in (1024, 0):
                monkeypatch.setattr("echostream.testing.relay_tcp._MAX_CONNECTIONS", limit)
                with pytest.raises(ConnectionResetError):
                    async with connected(relay) as (reader, _):
                        await asyncio.wait_for(reader.readexactly(1), PATIENCE)


async def test_a_reader_that_stops_holds_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.testing.relay_tcp._MAX_BACKLOG_BYTES", 1 << 16)
    stop = asyncio.Event()
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await stop.wait()
        while data := await reader.read(1 << 16):
            taken += len(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 12)
    with ImpairmentRelay("{}:{}".format(*server.sockets[0].getsockname())) as relay:
        async with connected(relay) as (reader, writer):
            writer.write(bytes(32 << 20))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.2)
            stop.set()
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    assert taken == 32 << 20
    server.close()
    await server.wait_closed()


# Life


async def test_nothing_is_left_and_it_may_start_again() -> None:
    before, threads = open_sockets(), threading.active_count()
    relay = ImpairmentRelay("[::1]:4433")
    assert repr(relay) == "<ImpairmentRelay stopped to ::1:4433>"
    with pytest.raises(RuntimeError, match="the relay does not run: start it first"):
        _ = relay.port
    for _ in range(2):
        relay.start()
        assert f"127.0.0.1:{relay.port}" in repr(relay)
        with pytest.raises(RuntimeError, match="the relay runs already"):
            relay.start()
        with socket.create_connection(("127.0.0.1", relay.port)), dialled(relay) as sock:
            sock.send(b"a")
            await asyncio.sleep(0.01)
        relay.stop()
    relay.cut()  # before a start, for the next one
    assert (open_sockets(), threading.active_count()) == (before, threads)


def test_a_thread_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.testing.relay._STOP_TIMEOUT", 0.01)
    release = threading.Event()

    def wait(_relay: ImpairmentRelay) -> None:
        release.wait(PATIENCE)

    relay = ImpairmentRelay("127.0.0.1:9", steps=[(0.0, wait)])
    relay.start()
    loop = relay._loop
    assert loop is not None
    with pytest.raises(TimeoutError, match="the relay's thread did not end within"):
        relay.stop()
    release.set()
    monkeypatch.undo()
    relay._loop = loop
    relay.stop()


@pytest.mark.parametrize("target", ["nowhere", "host:", ":1", "quic://host", "host:http"])
def test_a_target_that_is_no_address(target: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address, expected like"):
        ImpairmentRelay(target)


def test_a_relay_on_ipv6() -> None:
    with ImpairmentRelay(("::1", 9), host="::1") as relay:
        assert relay.address == f"[::1]:{relay.port}"


def test_a_port_that_udp_has_taken_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.testing.relay._PORT_TRIES", 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        create = socket.create_server
        monkeypatch.setattr(socket, "create_server", lambda address, family: create(("127.0.0.1", port), family=family))
        with pytest.raises(OSError, match="in use"):
            ImpairmentRelay("127.0.0.1:9").start()
