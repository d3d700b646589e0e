"""Tests for echostream.transport.udp and echostream.transport.sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from echostream.transport import ancillary, udp
from echostream.transport.sockets import SocketAddress, bind_udp, connect_udp, describe_error, format_address
from echostream.transport.udp import Packet, UdpSocket, open_udp
from echostream.types import clock
from tests.transport.conformance import PATIENCE, assert_nothing_left, eventually

BUFFER_BYTES = 1 << 20
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="UDP_GRO and UDP_SEGMENT are Linux's")


class Handler:
    def __init__(self) -> None:
        self.bursts: list[list[Packet]] = []
        self.groups: list[tuple[int, list[Packet]]] = []
        self.writables = 0
        self.errors: list[OSError] = []
        self._changed = asyncio.Event()

    @property
    def packets(self) -> list[bytes]:
        return [packet[0] for burst in self.bursts for packet in burst]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def received(self, packets: list[Packet], arrived_ns: int) -> None:
        assert arrived_ns <= clock.monotonic_ns()
        self.bursts.append(packets)
        self._changed.set()

    def received_stamped(self, groups: list[tuple[int, list[Packet]]]) -> None:
        self.groups += groups
        for _, packets in groups:
            self.bursts.append(packets)
        self._changed.set()

    def writable(self) -> None:
        self.writables += 1
        self._changed.set()

    def failed(self, error: OSError) -> None:
        self.errors.append(error)
        self._changed.set()


class FussySocket:
    """A real socket whose next sends fail as told."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.failures: list[OSError | None] = []
        self.calls: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        return self._sock.fileno()

    def _next(self, kind: str, count: int) -> None:
        self.calls.append((kind, count))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def send(self, data: bytes) -> int:
        self._next("send", 1)
        return self._sock.send(data)

    def sendto(self, data: bytes, address: Any) -> int:
        self._next("sendto", 1)
        return self._sock.sendto(data, address)

    def sendmsg(self, buffers: list[bytes], ancillary: Any, *rest: Any) -> int:
        self._next("sendmsg", len(buffers))
        return self._sock.sendmsg(buffers, ancillary, *rest)


class Pair:
    """A client's and a server's socket."""

    client: UdpSocket
    server: UdpSocket
    fussy: FussySocket

    def __init__(self) -> None:
        self.at_client, self.at_server = Handler(), Handler()

    async def open(self, **options: Any) -> None:
        settings: dict[str, Any] = {"receive_burst": 64, "max_pending": 100} | options
        server = bind_udp(socket.AF_INET, ("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES)
        self.server = await open_udp(server, self.at_server, connected=False, **settings)
        client = connect_udp(socket.AF_INET, server.getsockname(), buffer_bytes=BUFFER_BYTES)
        self.fussy = FussySocket(client)
        self.client = await open_udp(self.fussy, self.at_client, connected=True, **settings)

    def send(self, *payloads: bytes) -> None:
        self.client.send([(payload, self.server.address) for payload in payloads])

    async def arrived(self, *payloads: bytes) -> None:
        await self.at_server.until(lambda: len(self.at_server.packets) >= len(payloads))
        assert self.at_server.packets == list(payloads)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    pair.client.close()
    pair.client.close()
    pair.server.close()
    await asyncio.sleep(0)
    assert_nothing_left()


@pytest.mark.parametrize(("gro", "gso"), [(True, True), (True, False), (False, True), (False, False)])
async def test_packets_arrive_one_by_one_in_order_however_they_travel(pair: Pair, gro: bool, gso: bool) -> None:
    await pair.open(gro=gro, gso=gso)
    payloads = [b"a" * 1200] * 30 + [b"b" * 700] + [b"c" * 1200] * 2 + [b"d" * 1300] + [b"e"] * 3
    pair.send(*payloads)
    await pair.arrived(*payloads)
    assert {packet[1] for burst in pair.at_server.bursts for packet in burst} == {pair.client.address}
    assert {packet[2] for burst in pair.at_server.bursts for packet in burst} == {None}
    pair.server.send([(b"back", pair.client.address), (b"back", pair.client.address), (b"end", pair.client.address)])
    await pair.at_client.until(lambda: len(pair.at_client.packets) == 3)
    assert pair.at_client.packets == [b"back", b"back", b"end"]


@LINUX
async def test_a_run_of_one_size_leaves_in_one_call(pair: Pair) -> None:
    await pair.open()
    pair.send(*[bytes(1000)] * 10, bytes(10), bytes(1000))
    assert pair.fussy.calls == [("sendmsg", 11), ("send", 1)]


@LINUX
async def test_a_run_is_bounded_by_segments_and_bytes(pair: Pair) -> None:
    await pair.open()
    pair.send(*[bytes(100)] * 100)
    pair.send(*[bytes(9000)] * 10)
    assert pair.fussy.calls == [("sendmsg", 64), ("sendmsg", 36), ("sendmsg", 7), ("sendmsg", 3)]


@LINUX
async def test_a_run_has_one_destination(pair: Pair) -> None:
    await pair.open()
    elsewhere = bind_udp(socket.AF_INET, ("127.0.0.1", 0), buffer_bytes=BUFFER_BYTES)
    with elsewhere:
        pair.server.send([(b"one", pair.client.address), (b"two", elsewhere.getsockname())])
        await pair.at_client.until(lambda: pair.at_client.packets)
        assert pair.at_client.packets == [b"one"]
        assert elsewhere.recv(100) == b"two"


async def test_a_burst_is_bounded(pair: Pair) -> None:
    await pair.open(receive_burst=4, gro=False, gso=False)
    pair.send(*[bytes([index]) for index in range(10)])
    await pair.arrived(*[bytes([index]) for index in range(10)])
    assert [len(burst) for burst in pair.at_server.bursts] == [4, 4, 2]


@pytest.mark.parametrize("error", [BlockingIOError(), OSError(errno.ENOBUFS, "no buffers")])
async def test_what_finds_no_room_waits_and_leaves_in_order(pair: Pair, error: OSError) -> None:
    await pair.open(gso=False)
    pair.fussy.failures = [None, error, None, error]
    pair.send(b"1", b"2", b"3")
    assert pair.client.blocked
    pair.send(b"4")
    await pair.arrived(b"1", b"2", b"3", b"4")
    assert not pair.client.blocked
    assert pair.at_client.writables == 1
    assert pair.client.dropped_count == 0


async def test_what_waits_is_bounded_and_the_newest_is_dropped(pair: Pair) -> None:
    await pair.open(gso=False, max_pending=2)
    pair.fussy.failures = [BlockingIOError()]
    pair.send(b"1", b"2", b"3", b"4")
    assert pair.client.dropped_count == 2
    await pair.arrived(b"1", b"2")


async def test_what_waits_at_the_close_is_counted(pair: Pair) -> None:
    await pair.open(gso=False)
    pair.fussy.failures = [OSError(errno.ENOBUFS, "no buffers")]
    pair.send(b"1", b"2")
    pair.client.close()
    pair.send(b"3")
    assert pair.client.dropped_count == 3


@LINUX
@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
async def test_a_device_that_cannot_cut_runs_gets_single_packets_from_then_on(pair: Pair, number: int) -> None:
    await pair.open()
    pair.fussy.failures = [OSError(number, "no offload")]
    pair.send(b"1", b"2")
    pair.send(b"3", b"4")
    await pair.arrived(b"1", b"2", b"3", b"4")
    assert pair.fussy.calls == [("sendmsg", 2), ("send", 1), ("send", 1), ("send", 1), ("send", 1)]
    assert pair.at_client.errors == []


@LINUX
async def test_a_run_that_is_too_large_is_tried_singly(pair: Pair) -> None:
    await pair.open()
    too_large = OSError(errno.EMSGSIZE, "message too long")
    pair.fussy.failures = [too_large, None, too_large, None, BlockingIOError()]
    pair.send(b"1", b"2", b"3", b"4")
    await pair.arrived(b"1", b"3", b"4")
    assert pair.client.dropped_count == 1
    assert pair.at_client.errors == [too_large, too_large]
    pair.send(b"5", b"6")
    assert pair.fussy.calls[-1] == ("sendmsg", 2)


async def test_an_error_of_an_earlier_packet_does_not_cost_this_one(pair: Pair) -> None:
    await pair.open()
    pair.fussy.failures = [ConnectionRefusedError(errno.ECONNREFUSED, "refused")]
    pair.send(b"1")
    await pair.arrived(b"1")
    assert pair.client.dropped_count == 0
    assert [error.errno for error in pair.at_client.errors] == [errno.ECONNREFUSED]


async def test_a_refusal_is_reported(pair: Pair) -> None:
    await pair.open()
    pair.server.close()
    pair.send(b"anybody there?")
    await pair.at_client.until(lambda: pair.at_client.errors)
    assert pair.at_client.errors[0].errno == errno.ECONNREFUSED
    assert not pair.client.closed


async def test_a_handler_may_close_the_socket_when_it_fails(pair: Pair) -> None:
    await pair.open()
    pair.server.close()

    def close(error: OSError) -> None:
        pair.client.close()

    pair.at_client.failed = close  # type: ignore[method-assign]
    pair.send(b"anybody there?")
    await eventually(lambda: pair.client.closed)


@LINUX
@pytest.mark.parametrize(
    ("family", "host", "target"),
    [
        (socket.AF_INET, "0.0.0.0", "127.0.0.3"),
        (socket.AF_INET6, "::", "127.0.0.3"),
        (socket.AF_INET6, "::", "::1"),
    ],
)
async def test_a_wildcard_socket_tells_and_takes_its_own_address(family: int, host: str, target: str) -> None:
    handler = Handler()
    bound: SocketAddress = (host, 0) if family == socket.AF_INET else (host, 0, 0, 0)
    sock = bind_udp(family, bound, buffer_bytes=BUFFER_BYTES)
    server = await open_udp(sock, handler, connected=False, receive_burst=8, max_pending=8)
    client_family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with connect_udp(client_family, (target, server.address[1]), buffer_bytes=BUFFER_BYTES) as client:
        client.send(b"ping")
        await handler.until(lambda: handler.packets)
        _, address, source = handler.bursts[0][0]
        assert source is not None
        server.send([(b"pong", address), (b"pong", address), (b"!", address)], source)
        server.send([(b"single", address)], source)
        for expected in (b"pong", b"pong", b"!", b"single"):
            assert await asyncio.get_running_loop().sock_recv(client, 100) == expected
    server.close()


def test_a_link_local_source_keeps_its_interface() -> None:
    link_local = bytes.fromhex("fe80") + bytes(13) + b"\x01" + struct.pack("i", 3)
    routed = bytes.fromhex("2001") + bytes(13) + b"\x01" + struct.pack("i", 3)
    assert ancillary.source_option(socket.AF_INET6, link_local)[2] == link_local
    assert ancillary.source_option(socket.AF_INET6, routed)[2] == routed[:16] + bytes(4)


async def test_a_kernel_without_the_options_is_fine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "UDP_GRO", 9999)
    monkeypatch.setattr(udp, "UDP_SEGMENT", 9998)
    await pair.open()
    pair.send(b"1", b"1")
    await pair.arrived(b"1", b"1")
    assert [name for name, _ in pair.fussy.calls] == ["send", "send"]


async def test_a_loop_without_readers_pauses_as_well(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", missing)
    await pair.open()
    pair.send(b"1")
    await pair.arrived(b"1")
    assert isinstance(pair.client, udp._TransportSocket)
    pair.client.pause_writing()
    assert pair.client.blocked
    pair.send(b"lost", b"lost")
    assert pair.client.dropped_count == 2
    pair.client.resume_writing()
    assert not pair.client.blocked
    assert pair.at_client.writables == 1
    pair.server.close()
    await asyncio.sleep(0.01)  # asyncio closes it in a later turn
    pair.send(b"refused")
    await pair.at_client.until(lambda: pair.at_client.errors)
    pair.client.error_received(ValueError("not the kernel's"))
    assert [error.errno for error in pair.at_client.errors] == [errno.ECONNREFUSED]
    pair.client.close()
    pair.send(b"lost")
    assert pair.client.dropped_count == 3


def test_a_failed_bind_or_connect_leaves_no_socket() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        bind_udp(socket.AF_INET, ("192.0.2.1", 0), buffer_bytes=BUFFER_BYTES)
    with pytest.raises(OSError, match="denied"):
        connect_udp(socket.AF_INET, ("255.255.255.255", 9), buffer_bytes=BUFFER_BYTES)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.1", 4433), "192.0.2.1:4433"),
        (("2001:db8::1", 4433, 0, 0), "[2001:db8::1]:4433"),
        (("::ffff:192.0.2.1", 4433, 0, 0), "192.0.2.1:4433"),
    ],
)
def test_addresses_read_as_in_urls(address: SocketAddress, text: str) -> None:
    assert format_address(address) == text


def test_errors_read_in_lower_case() -> None:
    assert describe_error(OSError(errno.EACCES, "Permission denied")) == "permission denied"
    assert describe_error(OSError("odd")) == "odd"


# Times of arrival


@LINUX
async def test_the_kernel_says_when_packets_came_however_late_they_are_read(pair: Pair) -> None:
    await pair.open()
    pair.server.stamp(True)
    before_ns = clock.monotonic_ns()
    pair.send(b"one", b"another")
    pair.send(b"two")
    sent_ns = clock.monotonic_ns()
    while clock.monotonic_ns() < sent_ns + 20_000_000:
        pass  # the loop is busy
    await pair.arrived(b"one", b"another", b"two")
    first, *_, last = (arrived_ns for arrived_ns, _ in pair.at_server.groups)
    assert before_ns <= first <= last <= sent_ns + 10_000_000
    pair.server.stamp(False)
    pair.send(b"three")
    await pair.arrived(b"one", b"another", b"two", b"three")
    assert sum(len(packets) for _, packets in pair.at_server.groups) == 3


@LINUX
async def test_merged_packets_share_the_time_of_their_arrival_and_errors_are_told(pair: Pair) -> None:
    await pair.open()
    pair.server.stamp(True)
    pair.client.stamp(True)
    run = [bytes([number]) * 1000 for number in range(20)]
    pair.send(*run)
    await pair.arrived(*run)
    assert len(pair.at_server.groups) < len(run)
    pair.server.close()
    pair.server.stamp(True)
    pair.send(b"nobody")
    await pair.at_client.until(lambda: pair.at_client.errors)
    assert pair.at_client.errors[0].errno == errno.ECONNREFUSED


@pytest.mark.parametrize("stamp", [0, 10**18, 2 * 10**18])
async def test_a_stamp_of_a_calendar_that_was_set_counts_for_nothing(
    stamp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long ago or not yet: the packets came when they were read."""
    monkeypatch.setattr(ancillary, "clock", SimpleNamespace(wall=lambda: 1.5e9, monotonic_ns=lambda: 77))
    packets: list[Packet] = [(b"x", ("127.0.0.1", 1), None)]
    assert ancillary.on_own_clock([(stamp, packets)]) == [(77, packets)]
    assert ancillary.on_own_clock([(15 * 10**17 - 70, packets)]) == [(7, packets)]


def test_a_packet_without_a_stamp_has_none() -> None:
    other = (socket.SOL_SOCKET, ancillary.SO_TIMESTAMPNS, b"short")
    assert ancillary.stamp_of([(0, 0, b""), other]) == 0
