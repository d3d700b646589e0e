"""The TCP connections of a relay: two pipes each, which delay, narrow and stall what flows, and never lose of it."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final

from echostream.testing.link import Link, LinkState
from echostream.testing.relay_loop import RelayLoop
from echostream.testing.relay_udp import Note
from echostream.types import clock

__all__ = ("TcpSide",)

_READ_BYTES: Final = 16 << 10
_MAX_BACKLOG_BYTES: Final = 1 << 20
"""Bytes of one direction of one connection that wait here; above it nothing is read, and TCP slows the sender down."""
_CONNECT_TIMEOUT: Final = 1.0
_MAX_CONNECTIONS: Final = 1024


class TcpSide:
    """Runs in the relay's thread; `close` when that has ended."""

    def __init__(
        self,
        loop: RelayLoop,
        front: socket.socket,
        target: tuple[str, int],
        forward: LinkState,
        back: LinkState,
        note: Note,
        *,
        seed: int,
    ) -> None:
        self._loop = loop
        self._front = front
        self._target = target
        self._udp = (forward, back)
        self._ways = tuple(LinkState(_lossless(state.link), f"{seed}/tcp/{n}") for n, state in enumerate(self._udp))
        self._note = note
        self._connections: dict[_Connection, None] = {}
        front.setblocking(False)
        loop.watch(front, self._accept)

    def changed(self) -> None:
        """Take over what the links do now, and go on with what stood still."""
        for way, state in zip(self._ways, self._udp, strict=True):
            way.link, way.is_cut = _lossless(state.link), state.is_cut
        for connection in self._connections:
            connection.watch()

    def drop(self) -> None:
        """Reset every connection."""
        for connection in list(self._connections):
            connection.reset()

    def close(self) -> None:
        """Close the sockets."""
        self._front.close()
        for connection in list(self._connections):
            connection.close()

    def _accept(self) -> None:
        try:
            client, _ = self._front.accept()
        except OSError:  # gone again
            return
        if len(self._connections) >= _MAX_CONNECTIONS:
            _reset(client)
            return
        try:
            server = socket.create_connection(self._target, timeout=_CONNECT_TIMEOUT)
        except OSError:
            _reset(client)
            return
        connection = _Connection(self._loop, client, server, self._ways, self._note, self._connections.pop)
        self._connections[connection] = None
        connection.watch()


class _Connection:
    """A client's connection and the one to the server that goes with it."""

    def __init__(
        self,
        loop: RelayLoop,
        client: socket.socket,
        server: socket.socket,
        ways: tuple[LinkState, ...],
        note: Note,
        ended: Callable[[_Connection], object],
    ) -> None:
        self._loop = loop
        self._ended = ended
        self._pipes = (
            _Pipe(self, client, server, ways[0], lambda planned, applied: note(True, planned, applied)),
            _Pipe(self, server, client, ways[1], lambda planned, applied: note(False, planned, applied)),
        )
        self.is_closed = False
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def watch(self) -> None:
        """Watch for what both pipes can do now."""
        if self.is_closed:
            return
        first, second = self._pipes
        for source, sink in ((first, second), (second, first)):
            readable = source.read if source.may_read else None
            writable = sink.write if sink.has_output else None
            self._loop.watch(source.source, readable, writable)
        if first.is_over and second.is_over:
            self.close()

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call at a time, unless the connection has ended by then."""
        self._loop.call_at(when, lambda: None if self.is_closed else callback())

    def reset(self) -> None:
        """End it suddenly on both sides."""
        if not self.is_closed:
            for pipe in self._pipes:
                pipe.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        """Close both sockets."""
        self.is_closed = True
        for pipe in self._pipes:
            self._loop.watch(pipe.source, None)
            pipe.source.close()
        self._ended(self)


class _Pipe:
    """One direction."""

    def __init__(
        self,
        connection: _Connection,
        source: socket.socket,
        sink: socket.socket,
        way: LinkState,
        note: Callable[[float, float], None],
    ) -> None:
        self.source = source
        self.is_over = False
        self._connection = connection
        self._sink = sink
        self._way = way
        self._note = note
        self._backlog = 0
        self._output = bytearray()
        self._source_ended = False
        self._end_arrived = False

    @property
    def may_read(self) -> bool:
        """Whether more may come in."""
        return not self._source_ended and not self._way.is_cut and self._backlog < _MAX_BACKLOG_BYTES

    @property
    def has_output(self) -> bool:
        """Whether something waits to go out."""
        return bool(self._output)

    def read(self) -> None:
        """Take what came, and let it travel."""
        if not self.may_read:
            return
        try:
            data = self.source.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._connection.reset()
            return
        now = clock.monotonic()
        self._backlog += len(data)
        self._source_ended = not data
        [arrival] = self._way.carry(data, now)
        self._connection.call_at(arrival.at, lambda: self._arrive(data, now, arrival.at))
        self._connection.watch()

    def write(self) -> None:
        """Give the sink what it takes."""
        try:
            sent = self._sink.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._connection.reset()
            return
        del self._output[:sent]
        self._backlog -= sent
        if self._end_arrived and not self._output:
            self._end()
        self._connection.watch()

    def _arrive(self, data: bytes, since: float, due: float) -> None:
        self._note(due - since, clock.monotonic() - since)
        self._output += data
        self._end_arrived = not data
        self.write()

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
        self.is_over = True


def _lossless(link: Link) -> Link:
    return link.with_(loss=0.0, burst=1.0, reorder=0.0, duplicate=0.0, corrupt=0.0, queue_bytes=1 << 62, mtu=1 << 30)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
