"""``memory://``, ``pipe://``: connections between two parties on one event loop, for tests and programs in one process.

Behaves as QUIC does where a receiver can tell: same stream ids, order per stream, half-close, reset, stop, watermarks,
datagrams, close codes. What is sent arrives in the next turn of the loop; nothing is copied, lost or encrypted. A
``pipe://`` is the same without datagrams: all that is sent arrives in one order, as over TCP.
"""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import itertools
import logging
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

from echostream.config import Limits
from echostream.errors import ConfigurationError, ConnectError
from echostream.transport.base import (
    Accept,
    Address,
    CloseReason,
    Connection,
    Listener,
    Receiver,
    Transport,
    TransportInfo,
)
from echostream.types import clock

__all__ = ("MemoryListener", "MemoryTransport", "PipeTransport")

logger = logging.getLogger("echostream.transport")

_INFO = {
    "memory": TransportInfo(scheme="memory", multiplexed=True, datagrams=True, secure=False),
    "pipe": TransportInfo(scheme="pipe", multiplexed=False, datagrams=False, secure=False),
}
_MAX_DATAGRAM_PAYLOAD_BYTES = 1160
"""What QUIC surely carries, so that a test in memory does not pass with more."""
_MAX_QUEUED_DATAGRAMS = 256

_numbers = itertools.count(1)
_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, MemoryListener]] = WeakKeyDictionary()
"""The doors of each loop: a connection cannot cross loops."""


class MemoryTransport(Transport[object, object]):
    """Connects parties of one event loop by name; `tls` is ignored.

    Args:
        limits: watermarks of the streams.
    """

    scheme = "memory"

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    async def dial(self, address: Address, *, accept: Accept, tls: object = None) -> Connection:
        """Connect; see `Transport.dial`."""
        doors = _doors()
        listener = doors.get(str(address))
        if listener is None:
            raise ConnectError(f"nobody listens on {address}{_hint(str(address), doors)}")
        return listener.connect(accept, self._limits)

    async def listen(self, address: Address, *, accept: Accept, tls: object = None) -> MemoryListener:
        """Open a listener; see `Transport.listen`."""
        if address.port is not None:
            raise ConfigurationError("url", f"{str(address)!r} has a port, expected like {address.scheme}://name")
        doors = _doors()
        if str(address) in doors:
            raise ConnectError(f"{address} is in use by another listener; close it or choose another name")
        listener = MemoryListener(address, accept=accept, limits=self._limits, doors=doors)
        doors[str(address)] = listener
        return listener


class PipeTransport(MemoryTransport):
    """The same without datagrams."""

    scheme = "pipe"


class MemoryListener(Listener):
    """A name that can be dialled."""

    def __init__(self, address: Address, *, accept: Accept, limits: Limits, doors: dict[str, MemoryListener]) -> None:
        self.url = str(address)
        self._scheme = address.scheme
        self._accept = accept
        self._limits = limits
        self._doors = doors
        self._is_accepting = True
        self._connections: dict[MemoryConnection, None] = {}
        self._context = contextvars.copy_context()

    def __repr__(self) -> str:
        return f"<MemoryListener {self.url} {len(self._connections)} connections>"

    def connect(self, accept: Accept, limits: Limits) -> MemoryConnection:
        """Make a pair; returns the dialler's end.

        Raises:
            ConnectError: no more connections are taken.
        """
        if not self._is_accepting:
            raise ConnectError(f"{self.url} takes no new connections: shutting down")
        context = contextvars.copy_context()
        info = _INFO[self._scheme]
        client = MemoryConnection(self.url, limits, info, is_client=True, forget=lambda _: None, context=context)
        name = f"{self._scheme}://client-{next(_numbers)}"
        server = MemoryConnection(name, self._limits, info, is_client=False, forget=self._forget, context=self._context)
        self._connections[server] = None
        client.peer, server.peer = server, client
        try:
            server.admit(self._accept)
        except Exception as error:
            self._connections.pop(server, None)
            logger.debug("x %s was not admitted: %r", server.peer_address, error)
            raise ConnectError(f"handshake with {self.url} failed: not admitted") from error
        try:
            client.admit(accept)
        except BaseException:
            server.abort()
            raise
        if client.has_ended:
            raise ConnectError(f"handshake with {self.url} failed: aborted")
        return client

    def stop_accepting(self) -> None:
        self._is_accepting = False

    async def close(self) -> None:
        self._is_accepting = False
        if self._doors.get(self.url) is self:
            del self._doors[self.url]
        for connection in tuple(self._connections):
            connection.abort()

    def _forget(self, connection: MemoryConnection) -> None:
        self._connections.pop(connection, None)


class _SendingSide:
    """What one end wrote on one stream and the other has not taken."""

    __slots__ = ("has_ended", "level", "unsent_bytes")

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.has_ended = False
        """By `fin`, a reset, or the peer's stop: nothing can be written."""
        self.level: int | None = None
        """Unsent bytes at which `writable` is due, if it is."""


class MemoryConnection(Connection):
    """One end of a pair."""

    def __init__(
        self,
        peer_address: str,
        limits: Limits,
        info: TransportInfo,
        *,
        is_client: bool,
        forget: Callable[[MemoryConnection], None],
        context: contextvars.Context,
    ) -> None:
        self.info = info
        self.peer_address = peer_address
        self.peer_certificate = None
        self._limits = limits
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._context = context
        own = 0 if is_client else 1
        self._next_id = [own, own | 2]
        self._next_peer_id = [own ^ 1, own ^ 1 | 2]
        self.peer: MemoryConnection | None = None
        self._receiver: Receiver | None = None
        self._is_open = True
        self._reason: CloseReason | None = None
        self._sending: dict[int, _SendingSide] = {}
        self._outbox: deque[Callable[[MemoryConnection], None]] = deque()
        self._carrier: asyncio.Handle | None = None
        self._queued_datagrams = 0

    def __repr__(self) -> str:
        return f"<MemoryConnection {self.peer_address} {'OPEN' if self._is_open else 'CLOSED'}>"

    @property
    def has_ended(self) -> bool:
        """Whether the receiver was told, or will be as soon as there is one."""
        return self._reason is not None

    def admit(self, accept: Accept) -> None:
        """Ask for the receiver."""
        self._receiver = accept(self)
        if self._reason is not None:  # it ended while it was admitted
            self._report()

    def open_stream(self, *, unidirectional: bool = False) -> int | None:
        if not self._is_open:
            return None
        stream_id = self._next_id[unidirectional]
        self._next_id[unidirectional] += 4
        self._sending[stream_id] = _SendingSide()
        return stream_id

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> bool:
        side = self._sending.get(stream_id)
        if not self._is_open or side is None or side.has_ended:
            return True
        side.has_ended = fin
        side.unsent_bytes += len(data)
        if data or fin:
            self._post(lambda peer: self._carry_data(peer, stream_id, side, data, fin))
        if side.unsent_bytes <= self._limits.high_watermark_bytes:
            return True
        if side.level is None:
            side.level = self._limits.low_watermark_bytes
        return False

    def sent(self, stream_id: int) -> bool:
        side = self._sending.get(stream_id)
        if not self._is_open or side is None:
            return True
        if side.unsent_bytes:
            side.level = 0
        return side.level is None

    def flush(self) -> None:
        """Do nothing: what is written leaves in the next turn of the loop."""

    def unsent_bytes(self, stream_id: int) -> int:
        side = self._sending.get(stream_id)
        return side.unsent_bytes if side is not None and self._is_open else 0

    def has_undelivered(self) -> bool:
        return bool(self._outbox)

    def acknowledged(self) -> object:
        return object()  # what is sent arrives

    def reset_stream(self, stream_id: int, code: int) -> None:
        if self._is_open and self._sending.pop(stream_id, None) is not None:
            self._post(lambda peer: peer._take_reset(stream_id, code))

    def stop_stream(self, stream_id: int, code: int) -> None:
        if self._is_open:
            self._post(lambda peer: peer._take_stop(stream_id, code))

    def send_datagram(self, data: bytes) -> bool:
        most = self.max_datagram_payload_bytes
        if not most or len(data) > most or self._queued_datagrams >= _MAX_QUEUED_DATAGRAMS:
            return False
        self._queued_datagrams += 1
        self._post(lambda peer: self._carry_datagram(peer, data))
        return True

    @property
    def max_datagram_payload_bytes(self) -> int:
        return _MAX_DATAGRAM_PAYLOAD_BYTES if self._is_open and self.info.datagrams else 0

    @property
    def datagram_room_bytes(self) -> int:
        room = _MAX_QUEUED_DATAGRAMS - self._queued_datagrams
        return room * self.max_datagram_payload_bytes

    @property
    def rtt(self) -> float | None:
        return None

    def close(self, code: int, reason: str = "") -> None:
        if self._is_open:
            self._is_open = False
            self._post(lambda peer: self._carry_close(peer, code, reason))

    def abort(self) -> None:
        if self._reason is None and self.peer is not None:
            self._loop.call_soon(self.peer._end, CloseReason(None, "aborted by the peer", by_peer=True))
        self._end(CloseReason(None, "aborted", by_peer=False))

    # On the way to the peer

    def _post(self, item: Callable[[MemoryConnection], None]) -> None:
        self._outbox.append(item)
        if self._carrier is None and self.peer is not None:
            self._schedule(self.peer)

    def _schedule(self, peer: MemoryConnection) -> None:
        # In the receiver's context: a network carries no context variables of whoever happened to write.
        self._carrier = self._loop.call_soon(self._carry, context=peer._context)

    def _carry(self) -> None:
        """Hand over what was written until now; what is written meanwhile leaves in the next turn."""
        self._carrier = None
        peer = self.peer
        for _ in range(len(self._outbox)):
            if peer is None or not self._outbox:
                return
            item = self._outbox.popleft()
            peer._guard(item, peer)
        if self._outbox and self._carrier is None and peer is not None:
            self._schedule(peer)
        if peer is not None and peer._receiver is not None and peer._is_open:
            peer._guard(peer._receiver.burst_ended)
        for stream_id, side in tuple(self._sending.items()):
            if side.level is not None and side.unsent_bytes <= side.level:
                side.level = None
                if self._receiver is not None and self._is_open:
                    self._guard(self._receiver.writable, stream_id)

    def _carry_data(self, peer: MemoryConnection, stream_id: int, side: _SendingSide, data: bytes, fin: bool) -> None:
        if self._sending.get(stream_id) is not side:
            return  # reset or stopped meanwhile
        side.unsent_bytes -= len(data)
        if fin:
            del self._sending[stream_id]
            if side.level is not None and self._receiver is not None and self._is_open:
                self._guard(self._receiver.writable, stream_id)
        peer._learn_stream(stream_id)
        if peer._receiver is not None and peer._is_open:
            peer._receiver.stream_data(stream_id, data, fin)

    def _carry_datagram(self, peer: MemoryConnection, data: bytes) -> None:
        self._queued_datagrams -= 1
        if peer._receiver is not None and peer._is_open:
            peer._receiver.datagram(data, clock.monotonic_ns())

    def _carry_close(self, peer: MemoryConnection, code: int, reason: str) -> None:
        peer._end(CloseReason(code, reason, by_peer=True))
        self._end(CloseReason(code, reason, by_peer=False))

    # At the peer

    def _learn_stream(self, stream_id: int) -> None:
        """Note a stream that the other end opened, and with it all lower ones (RFC 9000 section 2.1)."""
        kind = stream_id >> 1 & 1
        if stream_id & 1 == self._next_peer_id[kind] & 1:
            while self._next_peer_id[kind] <= stream_id:
                if not kind:
                    self._sending[self._next_peer_id[kind]] = _SendingSide()
                self._next_peer_id[kind] += 4

    def _take_reset(self, stream_id: int, code: int) -> None:
        self._learn_stream(stream_id)
        if self._receiver is not None and self._is_open:
            self._receiver.stream_reset(stream_id, code)

    def _take_stop(self, stream_id: int, code: int) -> None:
        self._learn_stream(stream_id)
        if self._sending.pop(stream_id, None) is not None and self._is_open:
            self._post(lambda peer: peer._take_reset(stream_id, code))  # as QUIC answers a stop
            if self._receiver is not None:
                self._receiver.stream_stopped(stream_id, code)

    # The end

    def _guard(self, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception as error:
            logger.warning("! connection with %s failed: %r", self.peer_address, error, exc_info=error)
            self.abort()

    def _end(self, reason: CloseReason) -> None:
        if self._reason is None:
            self._reason = reason
            self._is_open = False
            self._sending.clear()
            self._outbox.clear()
            if self._carrier is not None:
                self._carrier.cancel()
                self._carrier = None
            self.peer = None
            self._forget(self)
        self._report()

    def _report(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._reason is not None:
            try:
                receiver.closed(self._reason)
            except Exception:
                logger.exception("! the receiver of %s raised in closed()", self.peer_address)


def _doors() -> dict[str, MemoryListener]:
    return _listeners.setdefault(asyncio.get_running_loop(), {})


def _hint(url: str, doors: dict[str, MemoryListener]) -> str:
    near = difflib.get_close_matches(url, doors, n=3, cutoff=0.8)  # much is alike by the scheme alone
    return f", did you mean {' or '.join(near)}?" if near else ": listen on it first, in the same event loop"
