"""The seam between the endpoint and a sans-IO QUIC implementation.

An adapter implements `QuicEngine` for one connection (`engine_aioquic_connection.py`) and `QuicEngines` to make them
(`engine_aioquic.py`). Nothing here waits, reads a clock or owns a socket: packets and `now` go in, packets and calls on
an `EngineSink` come out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from echostream.transport.quic.tickets import Resumption, ServerTickets
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ServerTls

__all__ = ("AcceptEngine", "EngineSink", "MarkId", "QuicEngine", "QuicEngines", "ResetToken")


class EngineSink(Protocol):
    """What an engine calls from `deliver`."""

    def on_handshake(self, protocol: str | None) -> None:
        """The handshake is done and both keys are proven; `protocol` is the ALPN token."""

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        """Bytes of a stream in order."""

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        """RESET_STREAM arrived."""

    def on_stream_stopped(self, stream_id: int, code: int) -> None:
        """STOP_SENDING arrived; the engine has reset the stream with the same code."""

    def on_datagram(self, data: bytes) -> None:
        """A DATAGRAM frame arrived."""

    def on_streams_available(self) -> None:
        """The peer raised a stream limit at which `open_stream` had failed."""

    def on_connection_id(self, connection_id: bytes, *, issued: bool) -> None:
        """An own connection id is in use from now on, or retired."""

    def on_closed(self, *, application: bool, code: int, reason: str, by_peer: bool) -> None:
        """The connection ended. When this side found a reason (`by_peer` False), `transmit` has a last packet."""


class QuicEngine(ABC):
    """One connection. After `receive` or `handle_timer`: `deliver`, then `transmit`, then ask `timer`."""

    more: bool = False
    """Whether the last `transmit` stopped at its batch size with something left to send."""
    paced: bool = False
    """Whether the last `transmit` left something for a moment that may be nearer than the loop's timers can be set."""
    lost_count: int = 0
    """Packets that were found lost so far, as of the last `transmit`; sent again for want of an answer counts, too."""
    resumed: bool = False
    """Whether the handshake took up a ticket, so that no certificate was shown; known when `on_handshake` is called."""

    @property
    @abstractmethod
    def connection_id(self) -> bytes:
        """The own connection id that packets of the handshake carry."""

    @property
    @abstractmethod
    def peer_address(self) -> SocketAddress | None:
        """Where packets go now; changes when the peer migrates."""

    @property
    @abstractmethod
    def peer_chain(self) -> tuple[bytes, ...]:
        """The certificates (DER, leaf first) that the peer sent and proved to own; empty when none."""

    @property
    @abstractmethod
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds, or None before the first sample."""

    @abstractmethod
    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, now: float) -> None:
        """Take UDP payloads that came from one address."""

    @abstractmethod
    def receive_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        """Take a UDP payload with an unknown id; True when its end is the token of a stateless reset.

        RFC 9000 section 10.3.1. The connection is over then, and the engine is not asked again.
        """

    @abstractmethod
    def deliver(self, sink: EngineSink) -> None:
        """Report what happened since the last call."""

    @property
    @abstractmethod
    def has_news(self) -> bool:
        """Whether `transmit` or `handle_timer` left something to `deliver`."""

    @abstractmethod
    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """Return a batch of UDP payloads that may be sent now, and set `more`."""

    @abstractmethod
    def timer(self) -> float | None:
        """Return when `handle_timer` wants to be called, on the clock of `now`; may lie in the past."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """Handle what is due: loss, acknowledgements, idle timeout."""

    @abstractmethod
    def open_stream(self, *, unidirectional: bool) -> int | None:
        """Return a fresh stream id, or None at the peer's limit."""

    @abstractmethod
    def send(self, stream_id: int, data: bytes, *, fin: bool) -> int:
        """Queue bytes and return `unsent_bytes`; nothing happens when the sending side has ended."""

    @abstractmethod
    def unsent_bytes(self, stream_id: int) -> int:
        """Return the bytes that were queued and not sent for the first time; 0 for a stream that is gone."""

    @abstractmethod
    def has_unsent(self) -> bool:
        """Return whether stream data waits to be sent for the first time."""

    @abstractmethod
    def has_undelivered(self) -> bool:
        """Return whether stream data waits to be sent or acknowledged."""

    @abstractmethod
    def acknowledged(self) -> object:
        """Return a value that is another one at the next call if the peer has acknowledged anything meanwhile."""

    @abstractmethod
    def unacknowledged(self) -> list[int]:
        """Return the numbers of the packets that wait for an acknowledgement, and are not given up."""

    @abstractmethod
    def window_room(self) -> int:
        """Return the bytes that the congestion window leaves; negative when more is on its way."""

    @abstractmethod
    def reset(self, stream_id: int, code: int) -> None:
        """Abandon sending; nothing happens when it ended."""

    @abstractmethod
    def stop(self, stream_id: int, code: int) -> None:
        """Ask the peer to stop sending; nothing happens when it ended."""

    @property
    @abstractmethod
    def max_datagram_payload_bytes(self) -> int:
        """Largest payload `send_datagram` takes: what fits the path and the peer; 0 when the peer takes none."""

    @abstractmethod
    def datagram_room(self) -> int:
        """Return the bytes that the congestion window leaves beyond the DATAGRAM frames that wait for it."""

    @abstractmethod
    def send_datagram(self, data: bytes) -> bool:
        """Queue a DATAGRAM frame; False when it is too large or the queue is full."""

    @abstractmethod
    def ping(self) -> None:
        """Queue a PING."""

    @abstractmethod
    def change_connection_id(self) -> None:
        """Use another of the peer's connection ids from now on and retire the last one; nothing without a spare one."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Queue a CONNECTION_CLOSE with an application code."""

    @abstractmethod
    def fail(self, code: int, reason: str) -> None:
        """Queue a CONNECTION_CLOSE with a transport code (RFC 9000 section 20.1; TLS alerts are 0x100 + alert)."""


ResetToken = Callable[[bytes], bytes]
"""Return the 16 bytes that the peer learns with a connection id (RFC 9000 section 10.3.2)."""

MarkId = Callable[[bytes], bytes]
"""Return the connection id to use instead of one that was drawn, of the same length; its own result is left alone."""

AcceptEngine = Callable[[bytes, bytes | None], QuicEngine]
"""Make the server's engine: (original destination id, id of the Retry or None)."""


class QuicEngines(ABC):
    """Makes engines of one kind with one configuration."""

    versions: tuple[int, ...]
    """Protocol versions, most preferred first."""
    needs_retry: bool = False
    """Whether a server engine can serve only clients whose address was proven by a Retry (RFC 9000 section 8.1.2)."""

    @abstractmethod
    def connect(
        self, address: SocketAddress, *, server_name: str, now: float, resumption: Resumption | None = None
    ) -> QuicEngine:
        """Make a client's engine with its first flight ready to `transmit`; the certificate chain is not checked.

        With a ticket for early data, streams can be opened and written at once.
        """

    @abstractmethod
    def acceptor(
        self,
        tls: ServerTls,
        reset_token: ResetToken | None = None,
        tickets: ServerTickets | None = None,
        mark_id: MarkId | None = None,
    ) -> AcceptEngine:
        """Return what makes server engines with this certificate.

        Args:
            tls: what they show.
            reset_token: of each connection id that they issue, as far as they let us; None for random ones.
            tickets: of the clients that come back; None for a full handshake each time.
            mark_id: given each connection id that they issue, as far as they let us.

        Raises:
            ConfigurationError: it cannot sign with this kind of key.
        """

    def can_serve(self, tls: ServerTls) -> bool:
        """Return whether a server engine can sign with this kind of key."""
        return True

    @abstractmethod
    def retry_packet(
        self, *, version: int, source: bytes, destination: bytes, original_destination: bytes, token: bytes
    ) -> bytes:
        """Build a Retry packet with its integrity tag (RFC 9001 section 5.8)."""

    def warm_up(self, tls: ServerTls) -> None:  # noqa: B027  # most have nothing to do
        """Do once what the first handshake of a process would wait for; a server calls it before it is ready."""
