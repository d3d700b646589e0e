"""Many connections on one UDP socket: every packet to its connection by the destination id.

A client's endpoint has one connection and ends with it. A server's has an `Acceptor`, which answers those it does not
know, and ends when it is closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from echostream.config import QuicSettings
from echostream.transport.quic.demux import CONNECTION_ID_BYTES, LongHeader
from echostream.transport.quic.diagnostics import key_log
from echostream.transport.quic.former import Farewell, FormerIds
from echostream.transport.quic.life import ConnectionLife
from echostream.transport.sockets import SocketAddress, VirtualPort
from echostream.transport.udp import Packet, UdpSocket, open_udp
from echostream.types import clock

__all__ = ("Endpoint", "EndpointStats", "Greeter")

_GREETING_SECONDS = 0.0005
"""That strangers may take of a turn of the loop: about 25 Retries, or one handshake that begins."""
_LONG_HEADER = 0x80
"""Of the first byte (RFC 9000 section 17.2); short headers have the connection id right behind it."""
_SHORT_HEADER_BYTES = 1 + CONNECTION_ID_BYTES
_MAX_STRANGERS = 1024
"""First packets that wait for their turn, 1.2 MB; those above it are dropped, and sent again if the client is real."""


@dataclass(slots=True)
class EndpointStats:
    """Counters since the endpoint was opened; plain integers on the hot path, read by collectors."""

    packets_received: int = 0
    packets_sent: int = 0
    packets_sent_again: int = 0
    """Of them second copies, because packets were lost (`Limits.copy_share`)."""
    packets_dropped_sending: int = 0
    """The kernel had no room for long, or refused them."""
    malformed_packets: int = 0
    unknown_connection_ids: int = 0
    """Late packets of connections that ended are among them."""
    stateless_resets_sent: int = 0
    """To peers of connections that this process does not know: those of its predecessor, as a rule."""
    stateless_resets_received: int = 0
    small_initials: int = 0
    """Initials under 1,200 bytes (RFC 9000 section 14.1)."""
    version_negotiations: int = 0
    retries: int = 0
    invalid_tokens: int = 0
    handshakes_started: int = 0
    handshakes_resumed: int = 0
    """Done with a session ticket, so that no certificate was shown."""
    early_connections: int = 0
    """Opened by early data, before the handshake was done."""
    handshakes_refused: int = 0
    """Over a limit, or while no more are accepted."""
    packets_handed_over: int = 0
    """To another worker of this port, whose connection they were of."""
    packets_not_handed_over: int = 0
    """Another worker had no room for them."""
    socket_errors: int = 0
    """Reported by the kernel, such as ICMP."""
    connections: int = 0
    """Open now, half-open ones included."""


class Greeter(Protocol):
    """What answers packets that belong to no connection."""

    def greet(self, header: LongHeader, packet: Packet, now: float) -> ConnectionLife | None:
        """Return the new connection that the packet opens, if it opens one."""

    def reset(self, packet: Packet, connection_id: bytes, now: float) -> None:
        """Answer a packet of a connection that was never known here, or long ago."""

    def forget(self, connection: ConnectionLife) -> None:
        """A connection ended."""


class Endpoint:
    """The owner of a socket, from `open` on.

    Args:
        greeter: for a server; a client's endpoint has none.
    """

    def __init__(self, greeter: Greeter | None = None) -> None:
        self.counters = EndpointStats()
        self.connections: dict[ConnectionLife, set[bytes]] = {}
        """With their connection ids."""
        self._greeter = greeter
        self._routes: dict[bytes, ConnectionLife] = {}
        self._former = FormerIds()
        self._strangers: deque[tuple[LongHeader, Packet]] = deque()
        self._greeting: asyncio.Handle | None = None
        self._socket: UdpSocket | None = None
        self._stamps_wanted = 0

    async def open(self, sock: socket.socket | VirtualPort, settings: QuicSettings, *, connected: bool) -> None:
        """Take over a socket of `bind_udp` or `connect_udp`."""
        self._socket = await open_udp(
            sock,
            self,
            connected=connected,
            receive_burst=settings.receive_burst,
            max_pending=settings.max_pending_packets,
            gso=key_log() is None,  # a capture on this machine would show runs as one packet, which no tool can read
        )

    def add(self, connection: ConnectionLife, *connection_ids: bytes) -> None:
        """Route packets with these ids to a connection."""
        self.connections[connection] = set(connection_ids)
        self._routes.update(dict.fromkeys(connection_ids, connection))

    def close(self) -> None:
        """Abort what is left and release the socket. Idempotent."""
        for connection in tuple(self.connections):
            connection.abort()
        if self._greeting is not None:
            self._greeting.cancel()
        self._strangers.clear()
        if self._socket is not None:
            self._socket.close()

    def stats(self) -> dict[str, int]:
        """Return the counters by name."""
        self.counters.connections = len(self.connections)
        if self._socket is not None:
            self.counters.packets_dropped_sending = self._socket.dropped_count
        return asdict(self.counters)

    # UdpHandler

    def received(self, packets: list[Packet], arrived_ns: int) -> None:
        """Hand out a burst: all packets first, so that one acknowledgement answers them, then each connection's end.

        Strangers come last, and a little at a time: those who are in hardly wait for a flood of them.
        """
        touched: dict[ConnectionLife, None] = {}
        self._hand_out(packets, arrived_ns / 1e9, arrived_ns, touched)
        self._end_burst(touched)

    def received_stamped(self, groups: list[tuple[int, list[Packet]]]) -> None:
        """Hand out a burst whose packets have own times of arrival: what each brings is handed up with its own."""
        now = clock.monotonic()
        touched: dict[ConnectionLife, None] = {}
        for arrived_ns, packets in groups:
            of_group: dict[ConnectionLife, None] = {}
            self._hand_out(packets, now, arrived_ns, of_group)
            for connection in of_group:
                connection.hand_up()
            touched |= of_group
        self._end_burst(touched)

    def _hand_out(
        self, packets: list[Packet], now: float, arrived_ns: int, touched: dict[ConnectionLife, None]
    ) -> None:
        """Give packets to their connections, and note those in `touched`."""
        self.counters.packets_received += len(packets)
        run: list[bytes] = []
        last: ConnectionLife | None = None
        last_address: SocketAddress | None = None
        last_source: bytes | None = None
        last_id: bytes | None = None
        for packet in packets:
            data, address, source = packet
            if data[1:_SHORT_HEADER_BYTES] == last_id and address == last_address and data[0] < _LONG_HEADER:
                run.append(data)  # goes where the last one went, as most of a burst do
                continue
            connection = self._find(packet, now)
            if connection is None:
                continue
            if connection is not last or address != last_address:
                if last is not None and last_address is not None:
                    last.receive(run, last_address, last_source, now, arrived_ns)
                run, last, last_address, last_source = [], connection, address, source
                touched[connection] = None
            last_id = data[1:_SHORT_HEADER_BYTES] if data[0] < _LONG_HEADER else None
            run.append(data)
        if last is not None and last_address is not None:
            last.receive(run, last_address, last_source, now, arrived_ns)

    def _end_burst(self, touched: dict[ConnectionLife, None]) -> None:
        for connection in touched:
            self._finish(connection)
        if self._strangers and self._greeting is None:
            self._greet()

    def writable(self) -> None:
        """Go on sending after the kernel had no room."""
        for connection in tuple(self.connections):
            if self.blocked:
                return
            connection.resume()

    def failed(self, error: OSError) -> None:
        """Note what the kernel reported: a handshake that goes on may end by it, an open connection never."""
        self.counters.socket_errors += 1
        if self._greeter is None:
            for connection in tuple(self.connections):
                connection.socket_failed(error)

    # QuicLink

    @property
    def blocked(self) -> bool:
        """Whether the socket takes no packets now."""
        return self._socket is not None and self._socket.blocked

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None) -> None:
        """Send packets of a connection, or answers to strangers."""
        if self._socket is not None:
            self.counters.packets_sent += len(datagrams)
            self._socket.send(datagrams, source)

    def send_again(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None) -> None:
        """Send second copies of packets."""
        self.counters.packets_sent_again += len(datagrams)
        self.send(datagrams, source)

    def stamp(self, wanted: bool) -> None:
        """Let the kernel stamp packets while any connection wants it."""
        before = self._stamps_wanted
        self._stamps_wanted = before + (1 if wanted else -1)
        if self._socket is not None and not before * self._stamps_wanted:
            self._socket.stamp(wanted)

    def route(self, connection_id: bytes, connection: ConnectionLife) -> None:
        """Hand packets with this id to a connection, too."""
        self._routes[connection_id] = connection
        self.connections[connection].add(connection_id)

    def unroute(self, connection_id: bytes, connection: ConnectionLife) -> None:
        """The peer uses this id no longer."""
        self._routes.pop(connection_id, None)
        self.connections[connection].discard(connection_id)
        self._former.add((connection_id,), None, clock.monotonic())

    def forget(self, connection: ConnectionLife, farewell: Farewell | None) -> None:
        """A connection ended; a client's endpoint ends with it."""
        connection_ids = self.connections.pop(connection, set())
        for connection_id in connection_ids:
            self._routes.pop(connection_id, None)
        if self._greeter is None:
            if self._socket is not None:
                self._socket.close()
            return
        self._greeter.forget(connection)
        if farewell is not None:
            self._former.add(connection_ids, farewell, clock.monotonic())

    def look_around(self, now: float) -> None:
        """A server stays where it is."""

    def _find(self, packet: Packet, now: float) -> ConnectionLife | None:
        data = packet[0]
        if len(data) <= CONNECTION_ID_BYTES:
            self.counters.malformed_packets += 1
            return None
        if data[0] >= _LONG_HEADER:
            return self._find_long(packet, now)
        connection_id = data[1:_SHORT_HEADER_BYTES]
        connection = self._routes.get(connection_id)
        if connection is None:
            self._take_stray(packet, connection_id, now)
        return connection

    def _find_long(self, packet: Packet, now: float) -> ConnectionLife | None:
        header = LongHeader.parse(packet[0])
        if header is None:
            self.counters.malformed_packets += 1
            return None
        connection = self._routes.get(header.destination)
        if connection is not None:
            return connection
        if self._greeter is None:
            self.counters.unknown_connection_ids += 1
            return None
        if self._former.knows(header.destination, now):
            self._take_late(packet, header.destination)
        elif len(self._strangers) < _MAX_STRANGERS:
            self._strangers.append((header, packet))
        else:
            self.counters.handshakes_refused += 1
        return None

    def _greet(self) -> None:
        """Take first packets of connections that are none yet, for a while; the rest in the next turn of the loop."""
        self._greeting = None
        now = clock.monotonic()
        until = now + _GREETING_SECONDS
        opened: dict[ConnectionLife, None] = {}
        while self._strangers and now <= until:
            header, packet = self._strangers.popleft()
            connection = self._routes.get(header.destination)
            if connection is None and self._greeter is not None:
                connection = self._greeter.greet(header, packet, now)
            if connection is not None:
                connection.receive((packet[0],), packet[1], packet[2], now, int(now * 1e9))
                opened[connection] = None
            now = clock.monotonic()
        for connection in opened:
            self._finish(connection)
        if self._strangers:
            self._greeting = asyncio.get_running_loop().call_soon(self._greet)

    def _finish(self, connection: ConnectionLife) -> None:
        connection.finish()
        if connection.is_mute:
            self.counters.malformed_packets += 1
            connection.abort()

    def _take_stray(self, packet: Packet, connection_id: bytes, now: float) -> None:
        """Take a packet of no connection, with a short header."""
        if self._former.knows(connection_id, now):
            self._take_late(packet, connection_id)
            return
        self.counters.unknown_connection_ids += 1
        if self._greeter is not None:
            self._greeter.reset(packet, connection_id, now)
            return
        for connection in tuple(self.connections):
            if connection.receive_reset(packet[0], packet[1], now):
                self.counters.stateless_resets_received += 1

    def _take_late(self, packet: Packet, connection_id: bytes) -> None:
        """Take a packet of an id that was in use lately."""
        self.counters.unknown_connection_ids += 1
        data, address, source = packet
        answer = self._former.answer(connection_id, data, address)
        if answer is not None:
            self.send([(answer, address)], source)
