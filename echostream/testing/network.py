"""A seeded network in virtual time: whole servers and clients run in it unmodified, and a failure can be replayed.

``SimNetwork(seed=7, link=Link(delay=0.02, loss=0.05)).run(scenario)`` runs ``scenario(network)``. Names of hosts are
host names: ``RpcServer("quic://server:4433")``, ``RpcClient.connect("quic://server:4433", ...)``. Code runs on the host
that it was started on: ``with network.host("phone"): ...``.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from echostream.errors import ConfigurationError
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame
from echostream.testing.host import HostClock, SimHost, here
from echostream.testing.link import Link, LinkState
from echostream.testing.loop import SimLoop
from echostream.transport.sockets import SocketAddress
from echostream.transport.udp import Packet, UdpHandler, UdpSocket
from echostream.types import clock, simulated

__all__ = ("FrameRecord", "SimNetwork")

T = TypeVar("T")

_LOOPBACK = Link(delay=0.00002)
_WILDCARDS = ("0.0.0.0", "::")
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame that arrived, as the trace keeps it."""

    at: float
    """Virtual seconds."""
    host: str
    """Where it arrived."""
    kind: str
    id: int
    digest: str
    """First half of the SHA-256 of its bytes, in hexadecimal."""


class SimNetwork:
    """Hosts, links and the packets between them."""

    def __init__(self, *, seed: int = 0, link: Link | None = None) -> None:
        """Make an empty network.

        Args:
            seed: the same seed gives the same fate to the same packet.
            link: how every two hosts are joined, unless `join` says otherwise.
        """
        self.seed = seed
        self.clock = HostClock(wall=clock.wall())
        self.loop = SimLoop(self.clock)
        self.trace: list[FrameRecord] = []
        """Every frame that arrived, in order."""
        self._link = link or Link()
        self._hosts: dict[str, SimHost] = {}
        self._links: dict[tuple[str, str], LinkState] = {}
        self._ports: dict[tuple[str, int], _Port] = {}
        self._cut: set[frozenset[str]] = set()

    def __repr__(self) -> str:
        return f"<SimNetwork seed={self.seed} {len(self._hosts)} hosts at {self.loop.time():.3f} s>"

    # For scenarios

    def run(self, scenario: Callable[[SimNetwork], Awaitable[T]]) -> T:
        """Run ``scenario(network)`` in virtual time and return what it returns; once for each network.

        Raises:
            SimDeadlockError: every task waits for nothing.
        """

        async def start() -> T:
            return await scenario(self)

        self.loop.surroundings = self
        with simulated(self.clock, self.seed):
            try:
                return self.loop.run_until_complete(start())
            except BaseException as error:
                error.add_note(f"in a simulation: seed={self.seed}, at {self.loop.time():.6f} virtual seconds")
                raise
            finally:
                self._close()

    def host(self, name: str) -> SimHost:
        """Return the host of a name; made when it is first named."""
        found = self._hosts.get(name)
        if found is None:
            if len(self._hosts) >= 254:
                raise ConfigurationError("host", "a simulation has at most 254 hosts")
            found = self._hosts[name] = SimHost(name, len(self._hosts) + 1, rebound=self._rebind)
        return found

    def join(self, first: str, second: str, link: Link, *, back: Link | None = None) -> None:
        """Set how two hosts are joined, from now on: `link` from the first to the second, `back` the other way."""
        self._state(first, second).link = link
        self._state(second, first).link = link if back is None else back

    def link_state(self, sender: str, receiver: str) -> LinkState:
        """Return one direction between two hosts, with its counts."""
        return self._state(sender, receiver)

    def partition(self, *names: str) -> None:
        """Cut these hosts off from all others; among themselves they still reach one another."""
        inside = set(names)
        for first in self._hosts:
            for second in self._hosts:
                if (first in inside) != (second in inside):
                    self._state(first, second).is_cut = True

    def heal(self) -> None:
        """End all partitions."""
        for state in self._links.values():
            state.is_cut = False

    # What the transport and the session layer find on the loop (`types.Surroundings`)

    @property
    def udp_network(self) -> SimNetwork:
        """The network of the loop: this one."""
        return self

    def observe_frame(self, frame: Frame, codec: FrameCodec) -> None:
        """Note a frame that arrived."""
        host = here.get()
        digest = hashlib.sha256(codec.encode(frame)).hexdigest()[:32]
        kind = type(frame).__name__.removesuffix("Frame")
        name = host.name if host is not None else ""
        self.trace.append(FrameRecord(round(self.loop.time(), 9), name, kind, frame.id, digest))

    def resolve(self, name: str, port: int) -> list[Any]:
        """Answer as `socket.getaddrinfo` does; a name that no host has is not known."""
        if name in _LOCAL:
            return _resolved(
                socket.AF_INET6 if ":" in name else socket.AF_INET, name.replace("localhost", "127.0.0.1"), port
            )
        if name in self._hosts:
            host = self._hosts[name]
            return _resolved(socket.AF_INET, host.address, port) + _resolved(
                socket.AF_INET6, host.address_of(socket.AF_INET6), port
            )
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, name)
            except OSError:
                continue
            return _resolved(family, name, port)
        raise socket.gaierror(socket.EAI_NONAME, f"no host {name!r} in this simulation: name it with network.host()")

    def bind(self, family: int, address: SocketAddress) -> _Port:
        """Make a server's socket."""
        host = self._current()
        number = address[1] or host.take_port()
        if address[0] not in (*_WILDCARDS, *_LOCAL, host.address_of(family)):
            raise OSError(errno.EADDRNOTAVAIL, "cannot assign requested address")
        if (host.name, number) in self._ports:
            raise OSError(errno.EADDRINUSE, "address already in use")
        return self._open(_Port(self, host, family, number, bound=address[0]))

    def connect(self, family: int, address: SocketAddress) -> _Port:
        """Make a client's socket."""
        host = self._current()
        return self._open(_Port(self, host, family, host.take_port(), peer=address[:2]))

    # For ports

    def send(self, port: _Port, data: bytes, destination: SocketAddress) -> None:
        """Carry a packet."""
        receiver = self._find_host(port.host, destination[0])
        if receiver is None:
            return  # nobody has the address (any more)
        local = destination[0] in _LOCAL
        source: SocketAddress = (destination[0] if local else port.host.address_of(port.family), port.number)
        if port.family == socket.AF_INET6:
            source = (source[0], source[1], 0, 0)
        state = self._state(port.host.name, receiver.name)
        for arrival in state.carry(data, self.loop.time()):
            self.loop.call_at(arrival.at, self._arrive, receiver, destination, arrival.data, source, port)

    def _arrive(
        self, host: SimHost, destination: SocketAddress, data: bytes, source: SocketAddress, sender: _Port
    ) -> None:
        if destination[0] not in _LOCAL and host.address_of(_family(destination[0])) != destination[0]:
            return  # it moved meanwhile
        target = self._ports.get((host.name, destination[1]))
        if target is None or target.socket is None:
            self.loop.call_soon(sender.refused)
            return
        target.socket.arrived(data, source)

    def _rebind(self, host: SimHost) -> None:
        """Give the client sockets of a host new outer ports."""
        for key, port in list(self._ports.items()):
            if key[0] == host.name and port.peer is not None:
                del self._ports[key]
                port.number = host.take_port()
                self._open(port)

    def forget(self, port: _Port) -> None:
        """A port was closed."""
        if self._ports.get((port.host.name, port.number)) is port:
            del self._ports[port.host.name, port.number]

    def _open(self, port: _Port) -> _Port:
        self._ports[port.host.name, port.number] = port
        return port

    def _current(self) -> SimHost:
        return here.get() or self.host("localhost")

    def _find_host(self, sender: SimHost, address: str) -> SimHost | None:
        if address in _LOCAL:
            return sender
        family = _family(address)
        return next((host for host in self._hosts.values() if host.address_of(family) == address), None)

    def _state(self, sender: str, receiver: str) -> LinkState:
        for name in (sender, receiver):
            self.host(name)  # both are there from now on
        state = self._links.get((sender, receiver))
        if state is None:
            link = _LOOPBACK if sender == receiver else self._link
            state = self._links[sender, receiver] = LinkState(link, f"{self.seed}/{sender}>{receiver}")
        return state

    def _close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class _Port:
    """A socket before something reads from it (`VirtualPort` of `sockets.py`)."""

    def __init__(
        self,
        network: SimNetwork,
        host: SimHost,
        family: int,
        number: int,
        *,
        bound: str | None = None,
        peer: tuple[Any, ...] | None = None,
    ) -> None:
        self.network = network
        self.host = host
        self.family = family
        self.number = number
        self.peer = peer
        self.socket: _SimSocket | None = None
        self._bound = bound

    def getsockname(self) -> SocketAddress:
        """Where it is bound."""
        name = self._bound or self.host.address_of(self.family)
        return (name, self.number) if self.family == socket.AF_INET else (name, self.number, 0, 0)

    def getpeername(self) -> SocketAddress:
        """Where it is connected to, as received packets have it."""
        if self.peer is None:
            raise OSError(errno.ENOTCONN, "transport endpoint is not connected")
        return (self.peer[0], self.peer[1]) if self.family == socket.AF_INET else (self.peer[0], self.peer[1], 0, 0)

    def close(self) -> None:
        """Give the port back."""
        self.network.forget(self)

    def attach(self, handler: UdpHandler, *, max_pending: int) -> UdpSocket:
        """Begin to read."""
        self.socket = _SimSocket(self, handler, max_pending=max_pending)
        return self.socket

    def refused(self) -> None:
        """Nobody listens where it sends to (ICMP port unreachable)."""
        if self.socket is not None and self.peer is not None:
            self.socket.refused()


class _SimSocket(UdpSocket):
    """A UDP socket of the simulation. It never blocks: the links have the queues."""

    def __init__(self, port: _Port, handler: UdpHandler, *, max_pending: int) -> None:
        super().__init__(handler, port.getsockname(), max_pending=max_pending)
        self._port = port
        self._context = copy_context()
        self._burst: list[Packet] = []

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None = None) -> None:
        if self.closed:
            self.dropped_count += len(datagrams)
            return
        for data, address in datagrams:
            self._port.network.send(self._port, data, address)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._port.close()

    def arrived(self, data: bytes, source: SocketAddress) -> None:
        """Take a packet; those of one moment are read as one burst."""
        if self.closed or (self._port.peer is not None and source[:2] != self._port.peer):
            return
        if not self._burst:
            self._port.network.loop.call_soon(self._read, context=self._context)
        self._burst.append((data, source, None))

    def refused(self) -> None:
        """Report ECONNREFUSED."""
        if not self.closed:
            self._context.run(self._handler.failed, OSError(errno.ECONNREFUSED, "connection refused"))

    def _read(self) -> None:
        burst, self._burst = self._burst, []
        if not self.closed:
            self._handler.received(burst)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _resolved(family: int, host: str, port: int) -> list[Any]:
    address = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
    return [(family, socket.SOCK_DGRAM, 0, "", address)]
