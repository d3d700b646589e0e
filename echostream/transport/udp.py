"""A UDP socket that reads and writes in batches, and what waits while the kernel has no room.

Knows nothing of QUIC. Where the kernel has UDP_GRO and UDP_SEGMENT one system call moves many packets; elsewhere one
call moves one. A loop without `add_reader` (the proactor of Windows) gets the asyncio datagram transport instead.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol, cast

from echostream.transport.ancillary import (
    ANCILLARY_BYTES,
    IP_PKTINFO,
    IPV6_RECVPKTINFO,
    IS_LINUX,
    SO_TIMESTAMPNS,
    UDP_GRO,
    UDP_SEGMENT,
    Ancillary,
    Packet,
    on_own_clock,
    source_option,
    split,
    stamp_of,
)
from echostream.transport.sockets import SocketAddress, VirtualPort
from echostream.types import clock

__all__ = ("Packet", "UdpHandler", "UdpSocket", "open_udp")

logger = logging.getLogger("echostream.transport")


class UdpHandler(Protocol):
    """What a socket calls; `received` and `writable` come from the event loop, `failed` also from within `send`."""

    def received(self, packets: list[Packet], arrived_ns: int) -> None:
        """A burst of packets arrived; it was read until `arrived_ns`, in monotonic nanoseconds."""

    def received_stamped(self, groups: list[tuple[int, list[Packet]]]) -> None:
        """The same while `UdpSocket.stamp` is on: (when the kernel took them, packets), in order of arrival."""

    def writable(self) -> None:
        """The packets that waited are gone: `blocked` is False again."""

    def failed(self, error: OSError) -> None:
        """The kernel reported an error, such as ECONNREFUSED; the socket goes on."""


class UdpSocket(ABC):
    """An open socket."""

    def __init__(self, handler: UdpHandler, address: SocketAddress, *, max_pending: int) -> None:
        self.address = address
        """Where it is bound."""
        self.blocked = False
        """Whether packets wait for room in the kernel: send no more until `UdpHandler.writable`."""
        self.closed = False
        self.dropped_count = 0
        """Packets that were given to `send` and never left."""
        self._handler = handler
        self._max_pending = max_pending

    @abstractmethod
    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None = None) -> None:
        """Send now, or as soon as there is room.

        Args:
            datagrams: payloads with destinations; runs with one destination and size leave together.
            source: third item of a received `Packet`: the own address to send from.
        """

    def stamp(self, wanted: bool) -> None:  # noqa: B027  # most have no better ones
        """Let the kernel say when each packet arrived, where it can, and report them by `received_stamped`.

        Without it a packet seems to arrive when the event loop comes to it.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the socket at once; what waits is lost. Idempotent."""


async def open_udp(
    sock: socket.socket | VirtualPort,
    handler: UdpHandler,
    *,
    connected: bool,
    receive_burst: int,
    max_pending: int,
    gro: bool = True,
    gso: bool = True,
) -> UdpSocket:
    """Attach a socket to the running loop.

    Args:
        sock: from `bind_udp` or `connect_udp`; belongs to the result from now on.
        handler: what is called.
        connected: whether it came from `connect_udp`.
        receive_burst: packets taken at one wake-up.
        max_pending: packets that may wait for room; the newest above it is dropped and counted.
        gro: take merged packets where the kernel can.
        gso: send runs in one call where the kernel can.
    """
    if isinstance(sock, VirtualPort):
        return sock.attach(handler, max_pending=max_pending)
    loop = asyncio.get_running_loop()
    batched = _BatchedSocket(
        sock, handler, loop=loop, connected=connected, receive_burst=receive_burst, max_pending=max_pending
    )
    try:
        loop.add_reader(sock, batched.read)
    except NotImplementedError:
        _, plain = await loop.create_datagram_endpoint(
            lambda: _TransportSocket(sock, handler, connected=connected, max_pending=max_pending), sock=sock
        )
        return plain
    batched.enable(gro=gro, gso=gso)
    return batched


_READ_BYTES = 65_535
_MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of older kernels."""
_MAX_RUN_BYTES = 65_000
"""A run is one IP packet to the kernel: 65,535 minus its headers."""
_NO_BUFFER_PAUSE = 0.005
"""Seconds after ENOBUFS: the socket counts as writable meanwhile, so there is nothing to wait for but time."""

_OFFLOAD_ERRORS = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
_NO_BUFFER_ERRORS = frozenset({errno.ENOBUFS, errno.ENOMEM})
_WILDCARDS = frozenset({"0.0.0.0", "::"})


class _BatchedSocket(UdpSocket):
    """Reads and writes by `add_reader` and `add_writer`."""

    def __init__(
        self,
        sock: socket.socket,
        handler: UdpHandler,
        *,
        loop: asyncio.AbstractEventLoop,
        connected: bool,
        receive_burst: int,
        max_pending: int,
    ) -> None:
        super().__init__(handler, sock.getsockname(), max_pending=max_pending)
        self._sock = sock
        self._loop = loop
        self._connected = connected
        self._burst = receive_burst
        self._gso = False
        self._ancillary_bytes = 0
        self._pending: deque[Packet] = deque()
        self._retry: asyncio.TimerHandle | None = None

    def enable(self, *, gro: bool, gso: bool) -> None:
        """Switch on what the kernel has."""
        if not IS_LINUX:
            return
        self._gso = gso and self._try_option(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        if gro and self._try_option(socket.IPPROTO_UDP, UDP_GRO, 1):
            self._ancillary_bytes = ANCILLARY_BYTES
        # A machine with several addresses must answer from the one that was asked.
        if self.address[0] in _WILDCARDS:
            if self._sock.family == socket.AF_INET6:
                self._try_option(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            else:
                self._try_option(socket.IPPROTO_IP, IP_PKTINFO, 1)
            self._ancillary_bytes = ANCILLARY_BYTES

    def read(self) -> None:
        """Take a burst; called by the loop."""
        packets: list[Packet] = []
        recvmsg, size = self._sock.recvmsg, self._ancillary_bytes
        while len(packets) < self._burst:
            try:
                data, ancillary, _, address = recvmsg(_READ_BYTES, size)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._handler.failed(error)
                break  # reported once; what stands behind it wakes the loop again
            if ancillary:
                split(packets, data, address, ancillary)
            else:
                packets.append((data, address, None))
        if packets and not self.closed:
            self._handler.received(packets, clock.monotonic_ns())

    def stamp(self, wanted: bool) -> None:
        if self.closed or not IS_LINUX or not self._try_option(socket.SOL_SOCKET, SO_TIMESTAMPNS, int(wanted)):
            return
        self._loop.add_reader(self._sock, self._read_stamped if wanted else self.read)

    def _read_stamped(self) -> None:
        """Take a burst and what the kernel says about when its packets came."""
        groups: list[tuple[int, list[Packet]]] = []
        count = 0
        while count < self._burst:
            try:
                data, ancillary, _, address = self._sock.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._handler.failed(error)
                break
            packets: list[Packet] = []
            split(packets, data, address, ancillary)
            groups.append((stamp_of(ancillary), packets))
            count += len(packets)
        if groups and not self.closed:
            self._handler.received_stamped(on_own_clock(groups))

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None = None) -> None:
        if self.closed:
            self.dropped_count += len(datagrams)
            return
        index = 0
        while index < len(datagrams) and not self.blocked:
            index = self._send_run(datagrams, index, source)
        for data, address in datagrams[index:]:
            if len(self._pending) < self._max_pending:
                self._pending.append((data, address, source))
            else:
                self.dropped_count += 1

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        if self._retry is not None:
            self._retry.cancel()
        self.dropped_count += len(self._pending)
        self._pending.clear()
        self._sock.close()

    def _try_option(self, level: int, option: int, value: int) -> bool:
        try:
            self._sock.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    def _send_run(self, datagrams: Sequence[tuple[bytes, SocketAddress]], start: int, source: bytes | None) -> int:
        """Send one or more datagrams from `start` on; return the first index that is not done (`start` if blocked)."""
        end = _run_end(datagrams, start) if self._gso and start + 1 < len(datagrams) else start + 1
        try:
            self._send_now(datagrams, start, end, source)
        except (BlockingIOError, InterruptedError):
            self._block(paused=False)
            return start
        except OSError as error:
            if error.errno in _NO_BUFFER_ERRORS:
                self._block(paused=True)
                return start
            if end - start > 1 and error.errno in _OFFLOAD_ERRORS:
                self._gso = False  # the device cannot cut runs
                return start
            self._handler.failed(error)
            return self._send_again(datagrams, start, end, source)
        return end

    def _send_again(
        self, datagrams: Sequence[tuple[bytes, SocketAddress]], start: int, end: int, source: bytes | None
    ) -> int:
        """The error may have been an earlier packet's (ICMP), or one of a run was too large: try one by one."""
        for index in range(start, end):
            try:
                self._send_now(datagrams, index, index + 1, source)
            except (BlockingIOError, InterruptedError):
                self._block(paused=False)
                return index
            except OSError as error:
                self.dropped_count += 1
                self._handler.failed(error)
        return end

    def _send_now(
        self, datagrams: Sequence[tuple[bytes, SocketAddress]], start: int, end: int, source: bytes | None
    ) -> None:
        data, address = datagrams[start]
        if end - start == 1 and source is None:
            if self._connected:
                self._sock.send(data)
            else:
                self._sock.sendto(data, address)
            return
        ancillary: Ancillary = []
        if end - start > 1:
            ancillary.append((socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", len(data))))
        if source is not None:
            ancillary.append(source_option(self._sock.family, source))
        buffers = [item[0] for item in datagrams[start:end]]
        if self._connected:
            self._sock.sendmsg(buffers, ancillary)
        else:
            self._sock.sendmsg(buffers, ancillary, 0, address)

    def _block(self, *, paused: bool) -> None:
        if self.blocked:
            return
        self.blocked = True
        if paused:
            self._retry = self._loop.call_later(_NO_BUFFER_PAUSE, self._drain)
        else:
            self._loop.add_writer(self._sock, self._drain)

    def _drain(self) -> None:
        """Room again: send what waits, in order."""
        self._loop.remove_writer(self._sock)
        self._retry = None
        self.blocked = False
        waiting, self._pending = self._pending, deque()
        while waiting:
            data, address, source = waiting.popleft()
            self.send([(data, address)], source)
            if self.blocked:
                self._pending.extend(waiting)
                return
        if not self.closed:
            self._handler.writable()


def _run_end(datagrams: Sequence[tuple[bytes, SocketAddress]], start: int) -> int:
    """Return the end of the run from `start` that UDP_SEGMENT takes: one destination, one size, a shorter last one."""
    data, address = datagrams[start]
    size = len(data)
    stop = min(len(datagrams), start + _MAX_SEGMENTS, start + max(1, _MAX_RUN_BYTES // max(1, size)))
    index = start
    for following, destination in islice(datagrams, start + 1, stop):
        index += 1
        if len(following) != size or destination != address:
            return index + 1 if len(following) < size and destination == address else index
    return stop


class _TransportSocket(UdpSocket, asyncio.DatagramProtocol):
    """The same over asyncio's datagram transport, one packet per call, for loops without `add_reader`."""

    def __init__(self, sock: socket.socket, handler: UdpHandler, *, connected: bool, max_pending: int) -> None:
        super().__init__(handler, sock.getsockname(), max_pending=max_pending)
        self._connected = connected
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is no subclass before 3.13

    def datagram_received(self, data: bytes, addr: SocketAddress) -> None:
        self._handler.received([(data, addr, None)], clock.monotonic_ns())

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self._handler.failed(exc)

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._handler.writable()

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None = None) -> None:
        if self._transport is None or self.closed or self.blocked:
            self.dropped_count += len(datagrams)
            return
        for data, address in datagrams:
            self._transport.sendto(data, None if self._connected else address)

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
