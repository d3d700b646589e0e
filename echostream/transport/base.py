"""What every transport offers: connections that carry streams of bytes. Knows nothing of frames.

Data goes down by method calls and comes up through a `Receiver`, which the transport asks for once, when the
connection is ready: ``receiver = accept(connection)``. Nothing here awaits per frame: bytes are pushed up as they
arrive, and writes are gathered by the caller and given down in few calls, followed by one `flush()`.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from echostream.errors import ConfigurationError
from echostream.types import clock

__all__ = (
    "Accept",
    "Address",
    "Beat",
    "CloseReason",
    "Connection",
    "Listener",
    "Receiver",
    "Transport",
    "TransportInfo",
)

ClientTlsT = TypeVar("ClientTlsT")
ServerTlsT = TypeVar("ServerTlsT")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial or listen: ``quic://host:port``, ``memory://name``, ``pipe://name``."""

    scheme: str
    host: str
    """Host name or IP address without brackets; the name for ``memory``."""
    port: int | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse a URL.

        Raises:
            ConfigurationError: no scheme, no host, or a port outside 0 to 65535.
        """
        if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance] - port numbers come here
            raise ConfigurationError("url", f"{url!r} is no text, expected like 'quic://host:4433'")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError("url", f"{url!r} is not a URL ({error}), expected like quic://host:4433") from None
        if "://" not in url or not parts.scheme:
            raise ConfigurationError("url", f"{url!r} has no scheme, expected like quic://host:4433")
        if not host:
            raise ConfigurationError("url", f"{url!r} names no host, expected like quic://host:4433")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            raise ConfigurationError("url", f"{url!r} has more than scheme, host and port")
        return cls(parts.scheme, host, port)

    @property
    def is_in_process(self) -> bool:
        """Whether only programs of this event loop can reach it, so that nothing needs to be encrypted."""
        return self.scheme in ("memory", "pipe")

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach it."""
        try:
            return self.is_in_process or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if self.port is None else f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TransportInfo:
    """What a transport can do."""

    scheme: str
    """``"quic"``, ``"memory"``, ``"pipe"``."""
    multiplexed: bool
    """Whether its streams are independent of one another (no head-of-line blocking between them)."""
    datagrams: bool
    """Whether it carries unreliable datagrams."""
    secure: bool
    """Whether the peer is authenticated and the bytes are encrypted."""


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a connection ended."""

    code: int | None
    """Application close code, or None when the link failed (idle timeout, handshake, crypto, reset)."""
    reason: str
    """Short text."""
    by_peer: bool
    """Whether the other side said so."""


class Receiver(Protocol):
    """What a connection calls when something arrives. Calls are synchronous and must not raise."""

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        """Bytes of a stream, in order; `fin` says that no more follow. A new id is a stream that the peer opened."""

    def stream_reset(self, stream_id: int, code: int) -> None:
        """The peer abandoned its sending side: no more bytes of this stream come."""

    def stream_stopped(self, stream_id: int, code: int) -> None:
        """The peer reads no more of this stream; what was written and not yet sent is gone."""

    def datagram(self, data: bytes, arrived_ns: int) -> None:
        """An unreliable datagram.

        Args:
            data: what was sent.
            arrived_ns: when its packet came, in monotonic nanoseconds: read at the socket, before decryption.
        """

    def writable(self, stream_id: int) -> None:
        """The unsent bytes of a stream, for which `write` or `sent` had returned False, fell as far as they asked."""

    def streams_available(self) -> None:
        """`open_stream`, which had returned None, may succeed now."""

    def burst_ended(self) -> None:
        """All that arrived in one wake-up was handed over: a good moment to write and flush answers."""

    def closed(self, reason: CloseReason) -> None:
        """The connection ended; nothing follows. Called exactly once."""


Beat = Callable[[Any], bool]
"""Given the receiver of a connection from which nothing came for a while: send something, and say whether it left."""


class Connection(ABC):
    """One authenticated link with many streams.

    Stream ids follow RFC 9000 section 2.1: bit 0 says who opened it (0 client, 1 server), bit 1 whether it goes
    one way only. Every method is safe after the close: it does nothing (`open_stream` returns None).
    """

    info: TransportInfo
    peer_address: str
    """Where the peer is now, ``"192.0.2.1:4433"`` or ``"[2001:db8::1]:4433"``."""
    peer_certificate: bytes | None
    """The peer's leaf certificate (DER), or None."""
    arrived_ns: int = 0
    """When the packets came whose data were handed up last, as in `Receiver.datagram`; 0 where that is not known."""
    early: bool = False
    """Whether the handshake still goes on. What a client sends then, an attacker may send again, as a connection."""
    on_proven: Callable[[], None] | None = None
    """Set by the receiver of an early connection: called when the handshake is done."""
    greeting: object | None = None
    """On an early connection of a client: what `keep_greeting` got on the one that it continues."""
    keep_greeting: Callable[[object], None] | None = None
    """Takes what a client wants to know when it connects early again; None where it cannot."""

    @abstractmethod
    def open_stream(self, *, unidirectional: bool = False) -> int | None:
        """Return a fresh stream id, or None while the peer allows no more (`streams_available` tells when)."""

    @abstractmethod
    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> bool:
        """Queue bytes on a stream; nothing happens when its sending side has ended (finished, reset, stopped).

        Returns:
            False when the stream holds more unsent bytes than the high watermark: wait for `writable`, at the low
            one, before writing more (nothing is lost if you do not, but memory grows).
        """

    @abstractmethod
    def sent(self, stream_id: int) -> bool:
        """Return whether all that was written on a stream was sent once; if not, `writable` follows when it was."""

    @abstractmethod
    def flush(self) -> None:
        """Give what was written to the network now, as far as flow and congestion control let it."""

    @abstractmethod
    def unsent_bytes(self, stream_id: int) -> int:
        """Return the bytes of a stream that were written and not yet sent for the first time."""

    @abstractmethod
    def has_undelivered(self) -> bool:
        """Return whether anything that was written waits to be sent, or for the peer to acknowledge it."""

    @abstractmethod
    def acknowledged(self) -> object:
        """Return a value that is another one at the next call if the peer has acknowledged anything meanwhile."""

    @abstractmethod
    def reset_stream(self, stream_id: int, code: int) -> None:
        """Abandon sending on a stream."""

    @abstractmethod
    def stop_stream(self, stream_id: int, code: int) -> None:
        """Ask the peer to send no more on a stream."""

    @abstractmethod
    def send_datagram(self, data: bytes) -> bool:
        """Queue an unreliable datagram; False when it is too large or there is no room."""

    def send_datagram_now(self, data: bytes) -> int | None:
        """Send an unreliable datagram at once; nothing else that was written should wait for `flush`.

        Returns:
            When it was given to the network, in monotonic nanoseconds, or None where `send_datagram` returns False.
        """
        if not self.send_datagram(data):
            return None
        left_ns = clock.monotonic_ns()
        self.flush()
        return left_ns

    def keep_alive(self, interval: float, beat: Beat) -> None:  # noqa: B027  # nothing dies by itself elsewhere
        """Let the receiver keep the connection alive, where this side does.

        Args:
            interval: seconds without a packet after which it is asked; at most what the transport is configured to.
            beat: called with the receiver; sends something, or returns False to let the transport do so.
        """

    def stamp_arrivals(self, wanted: bool) -> None:  # noqa: B027  # most have no better ones
        """Let `Receiver.datagram` be told when the kernel took each packet, where it says so, until that is unwanted.

        It costs a little for each packet of all connections of the socket.
        """

    @property
    @abstractmethod
    def max_datagram_payload_bytes(self) -> int:
        """Largest datagram that `send_datagram` takes; 0 when the transport has none."""

    @property
    @abstractmethod
    def datagram_room_bytes(self) -> int:
        """Bytes of datagrams that may be sent now: what congestion control leaves, less the datagrams that wait for it.

        0 or less when there is no room; more than that is queued, and its age is beyond the control of who sends it.
        """

    @property
    @abstractmethod
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds, or None where unknown."""

    @abstractmethod
    def close(self, code: int, reason: str = "") -> None:
        """Close in order: what was written is offered to the network once more, then the peer is told.

        `Receiver.closed` follows at the latest after the transport's close timeout.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop the link now; `Receiver.closed` is called before this returns."""


Accept = Callable[[Connection], Receiver]
"""Called once per connection, when it is ready (handshake done, peer verified)."""


class Listener(ABC):
    """An open door."""

    url: str
    """The URL really bound (port 0 resolved), such as ``"quic://127.0.0.1:49152"``."""

    @abstractmethod
    def stop_accepting(self) -> None:
        """Refuse new connections; the ones that are open go on."""

    @abstractmethod
    async def close(self) -> None:
        """Abort what is left and release the socket. Idempotent."""


class Transport(ABC, Generic[ClientTlsT, ServerTlsT]):
    """A way to reach other programs, chosen by the scheme of a URL."""

    scheme: ClassVar[str]

    @abstractmethod
    async def dial(self, address: Address, *, accept: Accept, tls: ClientTlsT) -> Connection:
        """Connect; returns once the connection is ready and `accept` was called. The caller bounds the time.

        Raises:
            ConnectError: nobody there, refused, or the handshake failed.
            CertificateError: the peer's certificate did not pass.
        """

    @abstractmethod
    async def listen(self, address: Address, *, accept: Accept, tls: ServerTlsT) -> Listener:
        """Open a listener.

        Raises:
            ConnectError: the address cannot be bound; the text names the address and what to try.
        """
