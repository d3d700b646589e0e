"""One QUIC connection as the transport interface has it: streams, watermarks, admission and its end.

The endpoint feeds it packets; whoever dialled or listens admits it when the handshake is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from echostream.config import ALPN, Limits, QuicSettings
from echostream.errors import CertificateError
from echostream.transport.base import CloseReason, Connection, Receiver, TransportInfo
from echostream.transport.quic.codes import Refusal, TransportCode, explain, shorten
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.quic.pump import EnginePump, PacketOutlet
from echostream.transport.sockets import SocketAddress, describe_error, format_address
from echostream.types import clock

__all__ = ("Admit", "QuicConnection", "QuicLink")

logger = logging.getLogger("echostream.transport")


class QuicLink(PacketOutlet, Protocol):
    """What a connection needs of its endpoint."""

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

    info = TransportInfo(scheme="quic", multiplexed=True, datagrams=True, secure=True)

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
        self.peer_address = format_address(address)
        self.peer_certificate = None
        self._engine = engine
        self._pump = EnginePump(engine, link, address=address, wake=self._on_timer)
        self._link = link
        self._settings = settings
        self._high, self._low = limits.high_watermark_bytes, limits.low_watermark_bytes
        self._keepalive = settings.keepalive_interval if keepalive else None
        self._admit = admit
        self._refused = refused
        self._refusal = refusal
        self._receiver: Receiver | None = None
        self._state = _State.HANDSHAKE
        self._reason: CloseReason | None = None
        self._above: dict[int, int] = {}  # streams whose writers wait for `writable`: until so much is unsent
        self._in_burst = False
        self._notice: asyncio.Handle | None = None
        self._last_active = clock.monotonic()
        self._deadline: float | None = self._last_active + settings.handshake_timeout  # later: of the close

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
        self._pump.dirty = True
        if self._engine.send(stream_id, data, fin=fin) <= self._high:
            return True
        self._above.setdefault(stream_id, self._low)
        return False

    def sent(self, stream_id: int) -> bool:
        if self.unsent_bytes(stream_id):
            self._above[stream_id] = 0
            self.flush()
        return stream_id not in self._above

    def flush(self) -> None:
        if not self._pump.dirty or self._state is not _State.OPEN:
            return
        self._guard(self._pump.transmit)
        if not self._in_burst:  # in a burst its end does the rest, once
            self._guard(self._look_after)
            if self._above and self._notice is None:  # not from within the writer's own call
                self._notice = asyncio.get_running_loop().call_soon(self._notify_later)

    def unsent_bytes(self, stream_id: int) -> int:
        return self._engine.unsent_bytes(stream_id) if self._state is _State.OPEN else 0

    def reset_stream(self, stream_id: int, code: int) -> None:
        if self._state is _State.OPEN:
            self._pump.dirty = True
            self._above.pop(stream_id, None)
            self._engine.reset(stream_id, code)

    def stop_stream(self, stream_id: int, code: int) -> None:
        if self._state is _State.OPEN:
            self._pump.dirty = True
            self._engine.stop(stream_id, code)

    def send_datagram(self, data: bytes) -> bool:
        if self._state is not _State.OPEN or not self._engine.send_datagram(data):
            return False
        self._pump.dirty = True
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
        if not self._in_burst:
            self.resume()

    def abort(self) -> None:
        if self._state is not _State.CLOSED:
            if not self.is_mute:  # no answer to what made no sense
                self._engine.fail(TransportCode.NO_ERROR, "aborted")
                self._pump.send_last()
            self._end(CloseReason(None, "aborted", by_peer=False))
        self._report()

    # Driven by the endpoint

    @property
    def is_mute(self) -> bool:
        """Whether the first packet made no sense: the engine had no answer."""
        return self._state is _State.HANDSHAKE and self._pump.is_mute

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float) -> None:
        """Take packets of one wake-up; `finish` follows when all were handed out."""
        self._last_active = now
        self._guard(self._receive, datagrams, address, source, now)

    def finish(self) -> None:
        """End a wake-up: hand up what arrived, let the receiver answer, transmit, set the timer."""
        if self._refusal is not None:
            self._refuse(TransportCode.CONNECTION_REFUSED, self._refusal)
        self._in_burst = True
        self._guard(self._engine.deliver, self)
        if self._receiver is not None and self._state is _State.OPEN:
            self._guard(self._receiver.burst_ended)
        self._in_burst = False
        if self._pump.dirty and self._state is _State.OPEN and not self._above:
            self._pump.wake_soon()  # what the application does next may share a packet with the acknowledgement
        else:
            self.resume()

    def resume(self) -> None:
        """Transmit and look after all else: the first flight, after a wake-up, when the socket takes packets again."""
        self._guard(self._pump.transmit)
        self._guard(self._settle)

    def socket_failed(self, error: OSError) -> None:
        """The kernel reported an error; once the connection is open it may be anybody's, so only time tells."""
        asyncio.get_running_loop().call_soon(self._give_up, error)  # not from within `send`

    # EngineSink

    def on_handshake(self, protocol: str | None) -> None:
        if protocol != ALPN:
            self._refuse(TransportCode.NO_APPLICATION_PROTOCOL, f"expected {ALPN}, got {protocol}")
            return
        chain = self._engine.peer_chain
        self.peer_certificate = chain[0] if chain else None
        self._state = _State.OPEN
        self._deadline = None
        try:
            self._receiver = self._admit(self, chain)
        except Exception as error:  # noqa: BLE001  # the certificate's, or the application's
            self._turn_away(error)
        else:
            if self._reason is not None:  # it ended while it was admitted
                self._report()

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.stream_data(stream_id, data, fin)

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        if self._state is _State.OPEN and self._receiver is not None:
            self._receiver.stream_reset(stream_id, code)

    def on_stream_stopped(self, stream_id: int, code: int) -> None:
        self._above.pop(stream_id, None)
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
            route = self._link.route if issued else self._link.unroute
            route(connection_id, self)

    def on_closed(self, *, application: bool, code: int, reason: str, by_peer: bool) -> None:
        if self._state is not _State.CLOSED:
            self._pump.send_last()  # where this side found the reason
            text = reason if application else explain(code, reason, by_peer=by_peer)
            self._end(CloseReason(code if application else None, text, by_peer=by_peer), code=code, said=reason)
            self._report()

    # Work

    def _guard(self, call: Callable[..., object], *args: object) -> None:
        """The one way in from the loop: whatever the engine or the receiver raises ends this connection only."""
        if self._state is not _State.CLOSED:
            try:
                call(*args)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # the panic of a native engine is no Exception
                self._break(error)

    def _receive(self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float) -> None:
        if self._pump.receive(datagrams, address, source, now):
            self.peer_address = format_address(self._pump.address)

    def _settle(self) -> None:
        """After a transmission: writers that may go on, the end of a close, the rest."""
        if self._above and self._state is _State.OPEN:
            self._notify()
        if self._state is _State.CLOSING and not self._engine.has_undelivered():
            self._leave()
        else:
            self._look_after()

    def _look_after(self) -> None:
        """Learn the connection ids that a transmission issued, and set the timer."""
        outer, self._in_burst = self._in_burst, True
        self._engine.deliver(self)
        self._in_burst = outer
        if self._state is _State.CLOSED:
            return
        at = self._deadline
        if self._keepalive is not None and (at is None or self._last_active + self._keepalive < at):
            at = self._last_active + self._keepalive
        self._pump.arm(at)

    def _notify_later(self) -> None:
        self._notice = None
        self._guard(self._settle)

    def _notify(self) -> None:
        outer, self._in_burst = self._in_burst, True
        for stream_id, level in tuple(self._above.items()):
            if self._receiver is not None and self._engine.unsent_bytes(stream_id) <= level:
                self._above.pop(stream_id, None)
                self._receiver.writable(stream_id)
        self._in_burst = outer
        self._pump.transmit()

    def _on_timer(self) -> None:
        self._guard(self._tick, clock.monotonic())

    def _tick(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._expire()
            return
        if self._keepalive is not None and now >= self._last_active + self._keepalive:
            self._last_active = now
            self._pump.dirty = True
            self._engine.ping()
        self._pump.handle_timer(now)
        self._pump.transmit()
        self._settle()

    # The end

    def _expire(self) -> None:
        if self._state is _State.CLOSING:
            self._leave()
        else:
            self._refuse(TransportCode.NO_ERROR, f"the handshake took over {self._settings.handshake_timeout:g} s")

    def _leave(self) -> None:
        """End a close: tell the peer, free everything, and tell the receiver from the loop."""
        reason = self._reason
        if reason is not None and reason.code is not None:
            self._engine.close(reason.code, reason.reason)
        self._pump.send_last(copies=2)
        self._end(reason)
        asyncio.get_running_loop().call_soon(self._report)  # `close` may be what its caller is in

    def _refuse(self, code: TransportCode, reason: str) -> None:
        if self._state is _State.HANDSHAKE:
            self._engine.fail(code, reason)
            self._pump.send_last()
            self._end(CloseReason(None, reason, by_peer=False), code=code)

    def _turn_away(self, error: Exception) -> None:
        """The peer was not admitted."""
        untrusted = isinstance(error, CertificateError)
        code = TransportCode.BAD_CERTIFICATE if untrusted else TransportCode.INTERNAL_ERROR
        self._engine.fail(code, "certificate not trusted" if untrusted else "not admitted")
        self._pump.send_last()
        self._end(CloseReason(None, str(error), by_peer=False), error=error)

    def _give_up(self, error: OSError) -> None:
        if self._state is _State.HANDSHAKE:
            self._end(CloseReason(None, describe_error(error), by_peer=False), error=error)

    def _break(self, error: BaseException) -> None:
        """The engine or the receiver raised: a bug, which costs this connection and nothing else."""
        if self._state is _State.CLOSED:
            return
        logger.warning("! connection with %s failed: %r", self.peer_address, error, exc_info=error)
        with contextlib.suppress(Exception):
            self._engine.fail(TransportCode.INTERNAL_ERROR, "internal error")
        self._pump.send_last()
        self._end(CloseReason(None, f"internal error: {error!r}", by_peer=False))
        self._report()

    def _end(
        self, reason: CloseReason | None, *, said: str = "", code: int | None = None, error: Exception | None = None
    ) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._reason = reason
        self._above.clear()
        self._pump.stop()
        if self._notice is not None:
            self._notice.cancel()
        self._link.forget(self)
        if self._receiver is None and reason is not None:
            self._refused(self, Refusal(reason.reason, said, code, error))

    def _report(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._reason is not None:
            try:
                receiver.closed(self._reason)
            except Exception:
                logger.exception("! the receiver of %s raised in closed()", self.peer_address)
