"""A seeded network in virtual time: whole servers and clients run in it unmodified, and a failure can be replayed.

``SimNetwork(seed=7, link=Link(delay=0.02, loss=0.05)).run(scenario)`` runs ``scenario(network)``. Names of hosts are
host names: ``RpcServer("quic://server:4433")``, ``RpcClient.connect("quic://server:4433", ...)``. Code runs on the host
that it was started on: ``with network.host("phone"): ...``.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import ipaddress
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any, Final, TextIO, TypeVar

from echostream.errors import ConfigurationError
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame
from echostream.testing.host import HostClock, SimHost, here
from echostream.testing.link import Arrival, Link, LinkState
from echostream.testing.loop import SimDeadlockError, SimLoop, SimTimeLimitError, describe_tasks
from echostream.testing.replay import replay_command
from echostream.testing.sockets import LOCAL, SimPort, family_of
from echostream.testing.trace import FrameRecord, PacketRecord, record_frame
from echostream.transport.sockets import SocketAddress
from echostream.types import clock, simulated

__all__ = ("SimNetwork",)

T = TypeVar("T")

_LOOPBACK: Final = Link(delay=0.00002)
_MAX_HOSTS: Final = 254
_MAX_TRACE: Final = 1_000_000
"""Frames that the trace keeps, the newest: about 200 MB."""
_MAX_PACKETS: Final = 100_000
"""Packets that are kept where they are recorded, the newest: about 200 MB."""
_LANDING: Final = "SimNetwork._land("
_CLEAN_UP_SECONDS: Final = 60.0
"""Virtual time that what a scenario left running has to end."""


class SimNetwork:
    """Hosts, links and the packets between them.

    Attributes:
        seed: what the fates of all packets, and all randomness of the library, follow from.
        clock: virtual time.
        loop: the event loop that `run` uses.
        trace: every frame that arrived, in order; the newest million.
        packets: every packet that was sent since `record_packets`, in order; the newest 100,000.
        replay: the command that runs the same again, for the text of a failure.
    """

    def __init__(self, *, seed: int = 0, link: Link | None = None, limit: float | None = 3600.0) -> None:
        """Make an empty network.

        Args:
            seed: the same seed gives the same fate to the same packet.
            link: how every two hosts are joined, unless `join` says otherwise.
            limit: virtual seconds after which a scenario is stopped; None for none.
        """
        self.seed = seed
        self.clock = HostClock(wall=clock.wall())
        self.loop = SimLoop(self.clock)
        self.loop.limit = limit
        self.trace: deque[FrameRecord] = deque(maxlen=_MAX_TRACE)
        self.packets: deque[PacketRecord] = deque(maxlen=0)
        self.replay = replay_command(seed)
        self._link = link or Link()
        self._hosts: dict[str, SimHost] = {}
        self._links: dict[tuple[str, str], LinkState] = {}
        self._ports: dict[tuple[str, int], SimPort] = {}
        self._islands: list[frozenset[str]] = []
        self._flights: list[tuple[int, int, Callable[[], None]]] = []
        self._flight_count = 0

    def __repr__(self) -> str:
        return f"<SimNetwork seed={self.seed} {len(self._hosts)} hosts at {self.now:.3f} s>"

    # For scenarios

    def run(self, scenario: Callable[[SimNetwork], Awaitable[T]]) -> T:
        """Run ``scenario(network)`` in virtual time and return what it returns; once for each network.

        What it leaves running is cancelled; `leaks` tells beforehand. An error gets a note with seed, virtual time and
        the command that replays it.

        Raises:
            SimDeadlockError: every task waits for nothing; lists them.
            SimTimeLimitError: it is not over after `limit`; lists the tasks.
        """
        return Context().run(self._run, scenario)  # on no host, whatever the caller does

    def _run(self, scenario: Callable[[SimNetwork], Awaitable[T]]) -> T:
        async def start() -> T:
            return await scenario(self)

        if self.loop.is_closed():
            raise RuntimeError("this network has run already: make a new one for each scenario")
        self.loop.surroundings = self
        with simulated(self.clock, self.seed):
            try:
                result = self.loop.run_until_complete(start())
            except BaseException as error:
                error.add_note(f"in a simulation: seed={self.seed}, at {self.now:.6f} virtual seconds; {self.replay}")
                try:
                    self._end()
                except (SimDeadlockError, SimTimeLimitError) as second:
                    error.add_note(f"and what it left running could not be ended: {second}")
                raise
            else:
                self._end()
                return result

    def _end(self) -> None:
        """Cancel what was left running; the trace stays as it is."""
        loop = self.loop
        loop.surroundings, kept = None, self.trace
        self.trace = deque(maxlen=0)
        loop.limit = self.now + _CLEAN_UP_SECONDS
        try:
            while tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self.trace = kept
            self._ports.clear()
            self._flights.clear()
            loop.close()

    def leaks(self) -> list[str]:
        """Return what is still open, in words: sockets, tasks but the calling one, timers. Empty after a clean stop.

        Timers of asyncio itself are a sleeping task's, which is named, and packets on their way are nobody's.
        """
        found = [f"socket {port.host.name}:{port.number}" for port in self._ports.values()]
        own = asyncio.current_task() if self.loop.is_running() else None
        found += [f"task {line}" for line in describe_tasks(self.loop, leave_out=own).split("\n  ")[1:]]
        return found + [f"timer {line}" for line in self.loop.describe_timers() if not line.startswith(_LANDING)]

    def print_trace(self, file: TextIO | None = None) -> None:
        """Print every frame that arrived, one on a line: virtual seconds, host, kind, id, digest."""
        for record in self.trace:
            print(record, file=file or sys.stdout)

    def record_packets(self) -> None:
        """Keep every packet that is sent from now on in `packets`, with its fate."""
        self.packets = deque(maxlen=_MAX_PACKETS)

    @property
    def now(self) -> float:
        """Virtual seconds since the start, whatever the clock of a host shows."""
        return self.clock.now_ns / 1e9

    def host(self, name: str) -> SimHost:
        """Return the host of a name; made when it is first named."""
        found = self._hosts.get(name)
        if found is None:
            if len(self._hosts) >= _MAX_HOSTS:
                raise ConfigurationError("host", f"a simulation has at most {_MAX_HOSTS} hosts")
            found = self._hosts[name] = SimHost(name, len(self._hosts) + 1, self.clock, rebound=self._rebind)
        return found

    def join(self, first: str, second: str, link: Link, *, back: Link | None = None) -> None:
        """Set how two hosts are joined, from now on: `link` from the first to the second, `back` the other way."""
        self.link_state(first, second).link = link
        self.link_state(second, first).link = link if back is None else back

    def link_state(self, sender: str, receiver: str) -> LinkState:
        """Return one direction between two hosts, with its counts."""
        state = self._links.get((sender, receiver))
        if state is None:
            for name in (sender, receiver):
                self.host(name)  # both are there from now on
            link = _LOOPBACK if sender == receiver else self._link
            state = self._links[sender, receiver] = LinkState(link, f"{self.seed}/{sender}>{receiver}")
            state.is_cut = self._is_cut(sender, receiver)
        return state

    def partition(self, *names: str) -> None:
        """Cut these hosts off from all others; among themselves they still reach one another. Adds to earlier ones.

        Raises:
            ConfigurationError: there is no such host.
        """
        for name in names:
            if name not in self._hosts:
                raise ConfigurationError("partition", f"no host {name!r}, there are {', '.join(self._hosts)}")
        self._islands.append(frozenset(names))
        self._cut()

    def heal(self) -> None:
        """End all partitions."""
        self._islands.clear()
        self._cut()

    # What the transport and the session layer find on the loop

    @property
    def udp_network(self) -> SimNetwork:
        """The network of the loop: this one."""
        return self

    def observe_frame(self, frame: Frame, codec: FrameCodec) -> None:
        """Note a frame that arrived."""
        host = here.get()
        self.trace.append(record_frame(self.now, host.name if host is not None else "", frame, codec))

    def resolve(self, name: str, port: int) -> list[Any]:
        """Answer as `socket.getaddrinfo` does; a name that no host has is not known."""
        host = self._hosts.get(name)
        if host is not None:
            addresses = [host.address, host.address6]
        elif name == "localhost":
            addresses = list(LOCAL)
        else:
            try:
                addresses = [str(ipaddress.ip_address(name))]
            except ValueError:
                raise socket.gaierror(
                    socket.EAI_NONAME, f"no host {name!r} in this simulation: name it with network.host()"
                ) from None
        return [_resolved(address, port) for address in addresses]

    def bind(self, family: int, address: SocketAddress) -> SimPort:
        """Make a server's socket."""
        host = self._current()
        number = address[1] or host.take_port()
        if address[0] not in ("0.0.0.0", "::", *LOCAL, host.address_of(family)):
            raise OSError(errno.EADDRNOTAVAIL, "cannot assign requested address")
        if (host.name, number) in self._ports:
            raise OSError(errno.EADDRINUSE, "address already in use")
        return self._open(SimPort(self, host, family, number, bound=address[0]))

    def connect(self, family: int, address: SocketAddress) -> SimPort:
        """Make a client's socket."""
        host = self._current()
        return self._open(SimPort(self, host, family, host.take_port(), peer=address[:2]))

    # For ports

    def send(self, port: SimPort, data: bytes, destination: SocketAddress) -> None:
        """Carry a packet."""
        receiver = self._find_host(port.host, destination[0])
        source = port.source_for(destination[0])
        arrivals: list[Arrival] = []
        if receiver is not None:  # else nobody has the address (any more)
            land = partial(self._arrive, receiver, destination, source, port)
            arrivals = self._fly(port.host, receiver, data, land)
        if self.packets.maxlen:
            name = receiver.name if receiver is not None else ""
            record = PacketRecord(self.now, port.host.name, name, source, destination, data, tuple(arrivals))
            self.packets.append(record)

    def forget(self, port: SimPort) -> None:
        """A port was closed."""
        if self._ports.get((port.host.name, port.number)) is port:
            del self._ports[port.host.name, port.number]

    # Inside

    def _fly(self, sender: SimHost, receiver: SimHost, data: bytes, land: Callable[[bytes], None]) -> list[Arrival]:
        arrivals = self.link_state(sender.name, receiver.name).carry(data, self.now)
        for arrival in arrivals:
            at_ns = round(arrival.at * 1e9)
            self._flight_count += 1
            # A heap of our own: the loop's does not keep the order of what is due at one moment.
            flight: tuple[int, int, Callable[[], None]] = (at_ns, self._flight_count, partial(land, arrival.data))
            heapq.heappush(self._flights, flight)
            self.loop.call_at_ns(at_ns, self._land)
        return arrivals

    def _land(self) -> None:
        while self._flights and self._flights[0][0] <= self.clock.now_ns:
            heapq.heappop(self._flights)[2]()

    def _arrive(
        self, host: SimHost, destination: SocketAddress, source: SocketAddress, sender: SimPort, data: bytes
    ) -> None:
        name = destination[0]
        if name not in LOCAL and host.address_of(family_of(name)) != name:
            return  # it moved meanwhile
        target = self._ports.get((host.name, destination[1]))
        if target is not None and target.takes(name):
            target.arrived(data, source)
        else:
            self._fly(host, sender.host, b"port unreachable", lambda _: sender.refused())

    def _rebind(self, host: SimHost) -> None:
        """Give the client sockets of a host new outer ports."""
        for (name, _), port in list(self._ports.items()):
            if name == host.name and port.peer is not None:
                self.forget(port)
                port.number = host.take_port()
                self._open(port)

    def _open(self, port: SimPort) -> SimPort:
        self._ports[port.host.name, port.number] = port
        return port

    def _current(self) -> SimHost:
        return here.get() or self.host("localhost")

    def _find_host(self, sender: SimHost, address: str) -> SimHost | None:
        if address in LOCAL:
            return sender
        family = family_of(address)
        return next((host for host in self._hosts.values() if host.address_of(family) == address), None)

    def _is_cut(self, first: str, second: str) -> bool:
        return any((first in island) != (second in island) for island in self._islands)

    def _cut(self) -> None:
        for (first, second), state in self._links.items():
            state.is_cut = self._is_cut(first, second)


def _resolved(address: str, port: int) -> tuple[int, int, int, str, SocketAddress]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_DGRAM, 0, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_DGRAM, 0, "", (address, port)
