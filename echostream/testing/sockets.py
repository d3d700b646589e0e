"""The UDP sockets of a simulated network: what the transport layer holds in place of the system's."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any, Protocol

from echostream.testing.host import SimHost
from echostream.testing.loop import SimLoop
from echostream.transport.sockets import SocketAddress
from echostream.transport.udp import Packet, UdpHandler, UdpSocket
from echostream.types import clock

__all__ = ("LOCAL", "PortNetwork", "SimPort", "family_of")

LOCAL = ("127.0.0.1", "::1")
_WILDCARDS = ("0.0.0.0", "::")


class PortNetwork(Protocol):
    """What a port needs of its network."""

    loop: SimLoop

    def send(self, port: SimPort, data: bytes, destination: SocketAddress) -> None:
        """Carry a packet."""

    def forget(self, port: SimPort) -> None:
        """A port was closed."""


class SimPort:
    """A socket before something reads from it (`VirtualPort` of `transport/sockets.py`), and its address after.

    Attributes:
        host: the machine that it is on.
        number: its port number; a NAT may change a client's.
        peer: where a client's is connected to.
    """

    def __init__(
        self,
        network: PortNetwork,
        host: SimHost,
        family: int,
        number: int,
        *,
        bound: str | None = None,
        peer: tuple[Any, ...] | None = None,
    ) -> None:
        self.host = host
        self.number = number
        self.peer = peer
        self._network = network
        self._family = family
        self._bound = bound
        self._socket: SimSocket | None = None

    def __repr__(self) -> str:
        return f"<SimPort {self.host.name}:{self.number}>"

    def getsockname(self) -> SocketAddress:
        """Where it is bound."""
        return _address(self._family, self._bound or self.host.address_of(self._family), self.number)

    def getpeername(self) -> SocketAddress:
        """Where it is connected to, as received packets have it."""
        if self.peer is None:
            raise OSError(errno.ENOTCONN, "transport endpoint is not connected")
        return _address(self._family, self.peer[0], self.peer[1])

    def close(self) -> None:
        """Give the port back."""
        self._network.forget(self)

    def attach(self, handler: UdpHandler, *, max_pending: int) -> UdpSocket:
        """Begin to read."""
        self._socket = SimSocket(self, self._network, handler, max_pending=max_pending)
        return self._socket

    def source_for(self, destination: str) -> SocketAddress:
        """Return the address that packets to a destination come from."""
        if destination in LOCAL:
            return _address(family_of(destination), destination, self.number)
        family = family_of(destination)
        return _address(family, self.host.address_of(family), self.number)

    def takes(self, destination: str) -> bool:
        """Whether packets to an address of its host are for it."""
        if self._bound is None or self._bound == "::":  # a client's, or of both families
            return True
        return self._bound == destination or (self._bound in _WILDCARDS and ":" not in destination)

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        """Take a packet."""
        if self._socket is not None and (self.peer is None or source[:2] == self.peer):
            self._socket.arrived(data, source)

    def refused(self) -> None:
        """Nobody listens where it sends to (ICMP port unreachable)."""
        if self._socket is not None and self.peer is not None:
            self._socket.refused()


class SimSocket(UdpSocket):
    """A UDP socket of the simulation. It never blocks: the links have the queues."""

    def __init__(self, port: SimPort, network: PortNetwork, handler: UdpHandler, *, max_pending: int) -> None:
        super().__init__(handler, port.getsockname(), max_pending=max_pending)
        self._port = port
        self._network = network
        self._context = copy_context()  # what it calls runs on its host
        self._burst: list[Packet] = []

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None = None) -> None:
        if self.closed:
            self.dropped_count += len(datagrams)
            return
        for data, address in datagrams:
            self._network.send(self._port, data, address)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._port.close()

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        """Take a packet; those of one moment are read as one burst."""
        if not self._burst:
            self._network.loop.call_soon(self._read, context=self._context)
        self._burst.append((data, source, None))

    def refused(self) -> None:
        """Report ECONNREFUSED."""
        self._network.loop.call_soon(self._fail, context=self._context)

    def _read(self) -> None:
        burst, self._burst = self._burst, []
        if not self.closed:
            self._handler.received(burst, clock.monotonic_ns())

    def _fail(self) -> None:
        if not self.closed:
            self._handler.failed(OSError(errno.ECONNREFUSED, "connection refused"))


def family_of(address: str) -> int:
    """Return the family of an address in text form."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _address(family: int, host: str, port: int) -> SocketAddress:
    return (host, port) if family == socket.AF_INET else (host, port, 0, 0)
