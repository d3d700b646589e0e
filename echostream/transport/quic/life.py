"""How a QUIC connection begins and ends: admission, refusal, the kernel's errors, the peer's close, its own, a bug.

`connection.py` adds what happens in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from echostream.config import ALPN, QuicSettings
from echostream.errors import CertificateError
from echostream.transport.base import CloseReason, Connection, Receiver
from echostream.transport.quic.codes import RESET_REASON, Refusal, TransportCode, explain, shorten
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.quic.former import Farewell
from echostream.transport.quic.pump import EnginePump, PacketOutlet
from echostream.transport.sockets import SocketAddress, describe_error, format_address
from echostream.types import clock

__all__ = ("Admit", "ConnectionLife", "QuicLink", "Refused", "State")

logger = logging.getLogger("echostream.transport")


class QuicLink(PacketOutlet, Protocol):
    """What a connection needs of its endpoint."""

    def route(self, connection_id: bytes, connection: ConnectionLife) -> None:
        """Hand packets with this id to a connection, too."""

    def unroute(self, connection_id: bytes, connection: ConnectionLife) -> None:
        """The peer uses this id no longer."""

    def forget(self, connection: ConnectionLife, farewell: Farewell | None) -> None:
        """The connection has ended; without a farewell the peer may be told so by anybody."""

    def stamp(self, wanted: bool) -> None:
        """Let the kernel say when packets arrived, for one connection more, or for one less."""

    def look_around(self, now: float) -> None:
        """Nothing came for a while: see whether this machine is elsewhere now."""


class State(enum.Enum):
    """What a connection is in; never an earlier one again."""

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


Admit = Callable[["ConnectionLife", tuple[bytes, ...]], Receiver]
"""Take in a connection whose handshake is done, with the peer's certificates (DER, leaf first), or raise."""

Refused = Callable[["ConnectionLife", Refusal], None]
"""Hear that a connection ended before it was admitted."""


class ConnectionLife(Connection):
    """The states of a connection, and who hears of its end.

    Args:
        engine: with its first flight ready (client) or before its first packet (server).
        link: the endpoint.
        address: where the peer is.
        settings: timeouts.
        admit: called when the handshake is done; returns the receiver, or raises to refuse the peer.
            On an early connection it is called at its begin, too, without certificates.
        refused: called instead of `Receiver.closed` when the connection ends before it was admitted.
        refusal: why the peer is turned away after its first packet, or None.
    """

    def __init__(
        self,
        engine: QuicEngine,
        link: QuicLink,
        *,
        address: SocketAddress,
        settings: QuicSettings,
        admit: Admit,
        refused: Refused,
        refusal: str | None = None,
    ) -> None:
        self.peer_address = format_address(address)
        self.peer_certificate = None
        self._engine = engine
        self._pump = EnginePump(engine, link, address=address, settings=settings, wake=self._on_timer)
        self._link = link
        self._settings = settings
        self._admit = admit
        self._refused = refused
        self._refusal = refusal
        self._receiver: Receiver | None = None
        self._state = State.HANDSHAKE
        self._reason: CloseReason | None = None
        self._in_burst = False  # within a call of the endpoint, whose end does the rest
        self._deadline: float | None = None  # of the handshake, later of the close
        self.give(settings.handshake_timeout)

    def give(self, handshake_timeout: float) -> None:
        """Let the handshake take that many seconds from now."""
        self._handshake_timeout = handshake_timeout
        self._deadline = clock.monotonic() + handshake_timeout

    # Driven by the endpoint

    @abstractmethod
    def receive(
        self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float, arrived_ns: int
    ) -> None:
        """Take packets of one wake-up; `finish` follows when all were handed out."""

    @abstractmethod
    def hand_up(self) -> None:
        """Hand up what arrived so far, before packets with another time of arrival follow."""

    @abstractmethod
    def finish(self) -> None:
        """End a wake-up: hand up what arrived, let the receiver answer, transmit, set the timer."""

    @abstractmethod
    def resume(self) -> None:
        """Transmit and look after all else: the first flight, after a wake-up, when the socket takes packets again."""

    @abstractmethod
    def moved(self) -> None:
        """Go on from another address of this machine."""

    @abstractmethod
    def _on_timer(self) -> None:
        """The timer's time has come."""

    @abstractmethod
    def _ended(self) -> None:
        """Release what only an open connection has."""

    @property
    def is_mute(self) -> bool:
        """Whether the first packet made no sense: the engine had no answer."""
        return self._state is State.HANDSHAKE and self._pump.is_mute

    @property
    def receiver(self) -> Receiver | None:
        """Who was told by `admit` to take what arrives."""
        return self._receiver

    @property
    def resumed(self) -> bool:
        """Whether the handshake took up a session ticket, so that the peer showed no certificate."""
        return self._engine.resumed

    @property
    def handshaking(self) -> bool:
        """Whether the handshake goes on."""
        return self._state is State.HANDSHAKE or self.early

    def open_early(self) -> None:
        """Open before the handshake is done: a client with a ticket for it, a server whose client did so."""
        self._state = State.OPEN
        self.early = True
        self._take_in(())

    @property
    def may_move(self) -> bool:
        """Whether it may go on from another address of this machine: not in the handshake (RFC 9000 section 9)."""
        return self._state in (State.OPEN, State.CLOSING) and not self.early

    def socket_failed(self, error: OSError) -> None:
        """The kernel reported an error; once the connection is open it may be anybody's, so only time tells."""
        asyncio.get_running_loop().call_soon(self._give_up, error)  # not from within `send`

    def receive_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        """Take a packet with an unknown id: the peer may have lost its state. Returns whether it was that."""
        if self._state is State.CLOSED or not self._recognises_reset(data, address, now):
            return False
        self._end(CloseReason(None, RESET_REASON, by_peer=True), said=RESET_REASON)
        self._report()
        return True

    # Connection

    def close(self, code: int, reason: str = "") -> None:
        if self._state is not State.OPEN:
            return
        self._state = State.CLOSING
        self._reason = CloseReason(code, shorten(reason), by_peer=False)
        self._deadline = clock.monotonic() + self._settings.close_timeout
        if not self._in_burst:
            self.resume()

    def abort(self) -> None:
        if self._state is not State.CLOSED:
            if not self.is_mute:  # no answer to what made no sense
                self._engine.fail(TransportCode.NO_ERROR, "aborted")
                self._pump.send_last()
            self._end(CloseReason(None, "aborted", by_peer=False))
        self._report()

    # EngineSink

    def on_handshake(self, protocol: str | None) -> None:
        if self._state is State.CLOSED:  # by what was reported right before
            return
        if protocol != ALPN:
            self._refuse(TransportCode.NO_APPLICATION_PROTOCOL, f"expected {ALPN}, got {protocol}")
            return
        early, self.early = self.early, False
        if self._state is not State.CLOSING:  # an early one may have been closed meanwhile
            self._state = State.OPEN
            self._deadline = None
        chain = self._engine.peer_chain
        if chain:
            self.peer_certificate = chain[0]
        self._take_in(chain)
        if early and self._receiver is not None and self.on_proven is not None:
            self.on_proven()

    def on_closed(self, *, application: bool, code: int, reason: str, by_peer: bool) -> None:
        if self._state is not State.CLOSED:
            if not (self.is_mute and code == TransportCode.PROTOCOL_VIOLATION):  # of a probe that came before the hello
                self._pump.send_last()  # where this side found the reason
            text = reason if application else explain(code, reason, by_peer=by_peer)
            self._end(CloseReason(code if application else None, text, by_peer=by_peer), code=code, said=reason)
            self._report()

    # Work

    def _take_in(self, chain: tuple[bytes, ...]) -> None:
        try:
            self._receiver = self._admit(self, chain)
        except Exception as error:  # noqa: BLE001  # the certificate's, or the application's
            self._turn_away(error)
        else:
            if self._state is State.CLOSED:  # it ended while it was admitted
                self._report()

    def _guard(self, call: Callable[..., object], *args: object) -> None:
        """The one way in from the loop: whatever the engine or the receiver raises ends this connection only."""
        if self._state is not State.CLOSED:
            try:
                call(*args)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # the panic of a native engine is no Exception
                self._break(error)

    def _recognises_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        try:
            return self._engine.receive_reset(data, address, now)
        except Exception as error:  # noqa: BLE001  # anybody may have sent it
            logger.debug("! %s could not take a packet of an unknown connection: %r", self.peer_address, error)
            return False

    def _expire(self) -> None:
        if self._state is State.CLOSING:
            self._leave()
        else:
            self._refuse(TransportCode.NO_ERROR, f"the handshake took over {self._handshake_timeout:g} s")

    def _leave(self) -> None:
        """End a close: tell the peer, free everything, and tell the receiver from the loop."""
        reason = self._reason
        if reason is not None and reason.code is not None:
            self._engine.close(reason.code, reason.reason)
        self._pump.send_last(copies=2)
        self._end(reason)
        asyncio.get_running_loop().call_soon(self._report)  # `close` may be what its caller is in

    def _refuse(self, code: TransportCode, reason: str) -> None:
        if self.handshaking:
            self._engine.fail(code, reason)
            self._pump.send_last()
            self._end(CloseReason(None, reason, by_peer=False), code=code)
            self._report()

    def _turn_away(self, error: Exception) -> None:
        """The peer was not admitted."""
        untrusted = isinstance(error, CertificateError)
        code = TransportCode.BAD_CERTIFICATE if untrusted else TransportCode.INTERNAL_ERROR
        self._engine.fail(code, "certificate not trusted" if untrusted else "not admitted")
        self._pump.send_last()
        self._end(CloseReason(None, str(error), by_peer=False), error=error)
        self._report()

    def _give_up(self, error: OSError) -> None:
        if self.handshaking:
            self._end(CloseReason(None, describe_error(error), by_peer=False), error=error)
            self._report()

    def _break(self, error: BaseException) -> None:
        """The engine or the receiver raised: a bug, which costs this connection and nothing else."""
        if self._state is State.CLOSED:
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
        if self._state is State.CLOSED:
            return
        farewell = self._make_farewell(reason)
        self._state = State.CLOSED
        self._reason = reason
        self._pump.stop()
        self._ended()
        self._link.forget(self, farewell)
        if self._receiver is None and reason is not None:
            self._refused(self, Refusal(reason.reason, said, code, error))

    def _make_farewell(self, reason: CloseReason | None) -> Farewell | None:
        """Say what a peer is to hear that goes on sending; None where it cannot know that the connection is over."""
        is_over = reason is not None and reason.by_peer
        is_half_open = self._state is State.HANDSHAKE and not self.is_mute
        if self._pump.last_words or is_over or is_half_open:
            return Farewell(self._pump.last_words, self._pump.address)
        return None

    def _report(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._reason is not None:
            try:
                receiver.closed(self._reason)
            except Exception:
                logger.exception("! the receiver of %s raised in closed()", self.peer_address)
