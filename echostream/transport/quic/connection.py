"""One QUIC connection as the transport interface has it: an engine, its timer, its watermarks and its end.

The endpoint feeds it packets; whoever dialled or listens admits it when the handshake is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from echostream.config import ALPN, Limits, QuicSettings
from echostream.errors import CertificateError
from echostream.transport.base import CloseReason, Connection, Receiver, TransportInfo
from echostream.transport.quic.codes import TransportCode, explain, shorten
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.udp import SocketAddress, describe_error, format_address
from echostream.types import clock

__all__ = ("Admit", "QuicConnection", "QuicLink", "Refusal")

logger = logging.getLogger("echostream.transport")

_INFO = TransportInfo(scheme="quic", multiplexed=True, datagrams=True, secure=True)
_MAX_ROUNDS = 4
"""Batches one connection may send before others get their turn."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection ended before it was admitted."""

    reason: str
    code: int | None
    """Close or error code, where one was sent or received."""
    error: Exception | None
    """What `admit` or the engine raised."""


class QuicLink(Protocol):
    """What a connection needs of its endpoint."""

    @property
    def blocked(self) -> bool:
        """Whether the socket takes nothing now; `resume` is called later."""
        ...

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None) -> None:
        """Send packets."""

    def route(self, connection_id: bytes, connection: QuicConnection) -> None:
        """Hand packets with this id to a connection, too."""

    def unroute(self, connection_id: bytes, connection: QuicConnection) -> None:
        """The peer uses this id no longer."""

    def forget(self, connection: QuicConnection) -> None:
        """The connection has ended."""


Admit = Callable[["QuicConnection", tuple[bytes, ...]], Receiver]
"""Take in a connection whose handshake is done, with the peer's certificates (DER, leaf first), or raise."""


class _State(enum.Enum):
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class QuicConnection(Connection):
    """An engine with a socket.

    Args:
        engine: with its first flight ready (client) or before its first packet (server).
        link: the endpoint.
        address: where the peer is.
        settings: timeouts.
        limits: watermarks.
        keepalive: whether this side keeps the connection alive (the client does).
        admit: called when the handshake is done; returns the receiver, or raises to refuse the peer.
        refused: called instead of `Receiver.closed` when the connection ends before it was admitted.
        refusal: why the peer is turned away after its first packet, or None.
    """

    info = _INFO

    def __init__(
        self,
        engine: QuicEngine,
        link: QuicLink,
        *,
        address: SocketAddress,
        settings: QuicSettings,
        limits: Limits,
        keepalive: bool,
        admit: Admit,
        refused: Callable[[QuicConnection, Refusal], None],
        refusal: str | None = None,
    ) -> None:
        now = clock.monotonic()
        self.peer_address = format_address(address)
        self.peer_certificate = None
        self._engine = engine
        self._link = link
        self._address = address
        self._source: bytes | None = None  # own address that packets must come from, see udp.Packet
        self._settings = settings
        self._high, self._low = limits.high_watermark_bytes, limits.low_watermark_bytes
        self._keepalive = settings.keepalive_interval if keepalive else None
        self._admit = admit
        self._refused = refused
        self._refusal = refusal
        self._receiver: Receiver | None = None
        self._state = _State.HANDSHAKE
        self._reason: CloseReason | None = None
        self._above: set[int] = set()  # streams whose writers wait for `writable`
        self._dirty = True  # whether the engine may have something to send
        self._answered = False
        self._in_burst = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._notice: asyncio.Handle | None = None
        self._last_active = now
        self._deadline: float | None = now + settings.handshake_timeout  # of the handshake, later of the close

    def __repr__(self) -> str:
        return f"<QuicConnection {self.peer_address} {self._state.name}>"

    # Connection

    def open_stream(self, *, unidirectional: bool = False) -> int | None:
        if self._state is not _State.OPEN:
            return None
        return self._engine.open_stream(unidirectional=unidirectional)

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> bool:
        if self._state is not _State.OPEN:
            return True
        self._dirty = True
        if self._engine.send(stream_id, data, fin=fin) <= self._high:
            return True
        self._above.add(stream_id)
        return False

    def flush(self) -> None:
        if not self._dirty or self._state is not _State.OPEN:
            return
        self._transmit()
        if not self._in_burst:  # in a burst its end does the rest, once
            self._deliver()
            self._arm()
            if self._above and self._notice is None:  # not from within the writer's own call
                self._notice = self._loop.call_soon(self._notify)

    def unsent_bytes(self, stream_id: int) -> int:
        return self._engine.unsent_bytes(stream_id) if self._state is _State.OPEN else 0

    def reset_stream(self, stream_id: int, code: int) -> None:
        if self._state is _State.OPEN:
            self._dirty = True
            self._engine.reset(stream_id, code)

    def stop_stream(self, stream_id: int, code: int) -> None:
        if self._state is _State.OPEN:
            self._dirty = True
            self._engine.stop(stream_id, code)

    def send_datagram(self, data: bytes) -> bool:
        if self._state is not _State.OPEN or not self._engine.send_datagram(data):
            return False
        self._dirty = True
        return True

    @property
    def max_datagram_payload_bytes(self) -> int:
        return self._engine.max_datagram_payload_bytes if self._state is _State.OPEN else 0

    @property
    def rtt(self) -> float | None:
        return self._engine.rtt

    def close(self, code: int, reason: str = "") -> None:
        if self._state is not _State.OPEN:
            return
        self._state = _State.CLOSING
        self._reason = CloseReason(code, shorten(reason), by_peer=False)
        self._deadline = clock.monotonic() + self._settings.close_timeout
        self._transmit()
        if not self._in_burst:
            self._settle()

    def abort(self) -> None:
        if self._state is not _State.CLOSED:
            self._engine.fail(TransportCode.NO_ERROR, "aborted")
            self._say()
            self._end(CloseReason(None, "aborted", by_peer=False))
        self._report()

    # Driven by the endpoint

    @property
    def is_handshaking(self) -> bool:
        """Whether it was not admitted yet."""
        return self._state is _State.HANDSHAKE

    @property
    def is_mute(self) -> bool:
        """Whether the first packet made no sense to the engine: it had no answer."""
        return self._state is _State.HANDSHAKE and not self._answered and not self._link.blocked

    def start(self) -> None:
        """Send the client's first flight."""
        self._transmit()
        self._settle()

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float) -> None:
        """Take packets of one wake-up; `finish` follows when all were handed out."""
        if self._state is _State.CLOSED:
            return
        self._last_active = now
        self._source = source
        self._dirty = True
        try:
            self._engine.receive(datagrams, address, now)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends this connection only
            self._break(error)
            return
        if address != self._address and (current := self._engine.peer_address) is not None:
            self._address = current
            self.peer_address = format_address(current)

    def finish(self) -> None:
        """End a wake-up: hand up what arrived, let the receiver answer, transmit, set the timer."""
        if self._refusal is not None:
            self.refuse(TransportCode.CONNECTION_REFUSED, self._refusal)
        if self._state is _State.CLOSED:
            return
        self._in_burst = True
        self._deliver()
        if self._receiver is not None and self._state is _State.OPEN:
            try:
                self._receiver.burst_ended()
            except Exception as error:  # noqa: BLE001
                self._break(error)
        self._in_burst = False
        self._transmit()
        self._settle()

    def resume(self) -> None:
        """The socket takes packets again."""
        self._dirty = True
        self._transmit()
        self._settle()

    def socket_failed(self, error: OSError) -> None:
        """The kernel reported an error; once the connection is open it may be anybody's, so only time tells."""
        if self._state is _State.HANDSHAKE:
            self._loop.call_soon(self._give_up, error)  # not from within `send`

    def refuse(self, code: TransportCode, reason: str) -> None:
        """Turn the peer away before it is admitted."""
        if self._state is _State.HANDSHAKE:
            self._engine.fail(code, reason)
            self._say()
            self._end(CloseReason(None, reason, by_peer=False), code=code)

    # EngineSink

    def on_handshake(self, protocol: str | None) -> None:
        if protocol != ALPN:
            self.refuse(TransportCode.NO_APPLICATION_PROTOCOL, f"expected {ALPN}, got {protocol}")
            return
        chain = self._engine.peer_chain
        self.peer_certificate = chain[0] if chain else None
        self._state = _State.OPEN
        self._deadline = None
        try:
            self._receiver = self._admit(self, chain)
        except CertificateError as error:
            self._turn_away(error, TransportCode.BAD_CERTIFICATE)
        except Exception as error:  # noqa: BLE001  # the application's
            self._turn_away(error, TransportCode.INTERNAL_ERROR)
        else:
            if self._state is _State.CLOSED:  # by the application, while it admitted
                self._report()

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.stream_data(stream_id, data, fin)

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.stream_reset(stream_id, code)

    def on_stream_stopped(self, stream_id: int, code: int) -> None:
        self._above.discard(stream_id)
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.stream_stopped(stream_id, code)

    def on_datagram(self, data: bytes) -> None:
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.datagram(data)

    def on_streams_available(self) -> None:
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.streams_available()

    def on_connection_id(self, connection_id: bytes, *, issued: bool) -> None:
        if self._state is not _State.CLOSED:
            if issued:
                self._link.route(connection_id, self)
            else:
                self._link.unroute(connection_id, self)

    def on_closed(self, *, application: bool, code: int, reason: str, by_peer: bool) -> None:
        if self._state is not _State.CLOSED:
            self._say()  # the last packet, where this side found the reason
            text = reason if application else explain(code, reason, by_peer=by_peer)
            self._end(CloseReason(code if application else None, text, by_peer=by_peer), code=code)
            self._report()

    # Work

    def _transmit(self) -> None:
        if self._link.blocked or self._state is _State.CLOSED:
            return
        self._dirty = False
        engine = self._engine
        try:
            for _ in range(_MAX_ROUNDS):
                datagrams = engine.transmit(clock.monotonic())
                if not datagrams:
                    return
                self._answered = True
                self._link.send(datagrams, self._source)
                if not engine.more or self._link.blocked:
                    return
        except Exception as error:  # noqa: BLE001
            self._break(error)

    def _deliver(self) -> None:
        outer, self._in_burst = self._in_burst, True
        try:
            self._engine.deliver(self)
        except Exception as error:  # noqa: BLE001
            self._break(error)
        self._in_burst = outer

    def _settle(self) -> None:
        """After a transmission: ids that it issued, writers that may go on, the end of a close, the timer."""
        self._deliver()
        if self._state is _State.OPEN and self._above:
            self._notify()
            if self._dirty:
                self._transmit()
        if self._state is _State.CLOSING and not self._engine.has_undelivered():
            self._leave()
        self._arm()

    def _notify(self) -> None:
        self._notice = None
        self._in_burst = True
        for stream_id in tuple(self._above):
            if self._receiver is not None and self._engine.unsent_bytes(stream_id) <= self._low:
                self._above.discard(stream_id)
                try:
                    self._receiver.writable(stream_id)
                except Exception as error:  # noqa: BLE001
                    self._break(error)
        self._in_burst = False

    def _arm(self) -> None:
        """Set the timer; an earlier one stays and looks again when it fires, which is cheaper than to move it."""
        if self._state is _State.CLOSED:
            return
        at = self._next_time()
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - clock.monotonic()), self._on_timer)

    def _next_time(self) -> float | None:
        try:
            at = self._engine.timer()
        except Exception as error:  # noqa: BLE001
            self._break(error)
            return None
        if self._deadline is not None and (at is None or self._deadline < at):
            at = self._deadline
        if self._keepalive is not None and (at is None or self._last_active + self._keepalive < at):
            at = self._last_active + self._keepalive
        return at

    def _on_timer(self) -> None:
        self._timer = None
        now = clock.monotonic()
        if self._deadline is not None and now >= self._deadline:
            self._expire()
            return
        try:
            if self._keepalive is not None and now >= self._last_active + self._keepalive:
                self._last_active = now
                self._dirty = True
                self._engine.ping()
            due = self._engine.timer()
            if due is not None and due <= now:
                self._dirty = True
                self._engine.handle_timer(now)
        except Exception as error:  # noqa: BLE001
            self._break(error)
        if self._dirty:
            self._transmit()
        self._settle()

    # The end

    def _give_up(self, error: OSError) -> None:
        if self._state is _State.HANDSHAKE:
            self._end(CloseReason(None, describe_error(error), by_peer=False), error=error)

    def _expire(self) -> None:
        if self._state is _State.CLOSING:
            self._leave()
        else:
            self.refuse(TransportCode.NO_ERROR, f"the handshake took longer than {self._settings.handshake_timeout:g} s")

    def _leave(self) -> None:
        """End a close: tell the peer, free everything, tell the receiver from the loop (`close` is being called)."""
        reason = self._reason
        if reason is not None and reason.code is not None:
            self._engine.close(reason.code, reason.reason)
        self._say(copies=2)
        self._end(reason)
        self._notice = self._loop.call_soon(self._report)

    def _turn_away(self, error: Exception, code: TransportCode) -> None:
        """The peer was not admitted, because of `error`."""
        self._engine.fail(code, str(error) if isinstance(error, CertificateError) else "refused")
        self._say()
        self._end(CloseReason(None, str(error), by_peer=False), code=code, error=error)

    def _break(self, error: Exception) -> None:
        """The engine or the receiver raised: a bug, which costs this connection and nothing else."""
        if self._state is _State.CLOSED:
            return
        logger.warning("! connection with %s failed: %r", self.peer_address, error, exc_info=error)
        with contextlib.suppress(Exception):
            self._engine.fail(TransportCode.INTERNAL_ERROR, "internal error")
        self._say()
        self._end(CloseReason(None, f"internal error: {error!r}", by_peer=False), error=error)
        self._report()

    def _say(self, *, copies: int = 1) -> None:
        """Send the packet that ends the connection; nobody acknowledges it, hence the copies."""
        try:
            datagrams = self._engine.transmit(clock.monotonic())
        except Exception as error:  # noqa: BLE001
            logger.debug("! no last packet for %s: %r", self.peer_address, error)
        else:
            if datagrams:
                self._link.send(datagrams * copies, self._source)

    def _end(self, reason: CloseReason | None, *, code: int | None = None, error: Exception | None = None) -> None:
        admitted = self._receiver is not None
        self._state = _State.CLOSED
        self._reason = reason
        self._above.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None
        self._link.forget(self)
        if not admitted and reason is not None:
            self._refused(self, Refusal(reason.reason, code, error))

    def _report(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._reason is not None:
            try:
                receiver.closed(self._reason)
            except Exception:
                logger.exception("! the receiver of %s raised in closed()", self.peer_address)
