"""Why QUIC connections end: transport error codes and how they read to people."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ("RESET_REASON", "Refusal", "TransportCode", "explain", "shorten")


class TransportCode(enum.IntEnum):
    """RFC 9000 section 20.1; a TLS alert (RFC 8446 section 6) is 0x100 + alert."""

    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x1
    CONNECTION_REFUSED = 0x2
    PROTOCOL_VIOLATION = 0xA
    HANDSHAKE_FAILURE = 0x100 + 40
    BAD_CERTIFICATE = 0x100 + 42
    NO_APPLICATION_PROTOCOL = 0x100 + 120


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection ended before it was admitted."""

    reason: str
    said: str
    """The other side's words."""
    code: int | None
    """Close or error code, where one was sent or received."""
    error: Exception | None
    """What `admit` or the socket raised."""


RESET_REASON = "it knows this connection no longer, as after a restart (stateless reset)"
"""RFC 9000 section 10.3."""

_NAMES = {
    0x0: "no error",
    0x1: "internal error",
    0x2: "connection refused",
    0x3: "flow control error",
    0x4: "stream limit error",
    0x5: "stream state error",
    0x6: "final size error",
    0x7: "frame encoding error",
    0x8: "transport parameter error",
    0x9: "connection id limit error",
    0xA: "protocol violation",
    0xB: "invalid token",
    0xC: "application error",
    0xD: "crypto buffer exceeded",
    0xE: "key update error",
    0xF: "AEAD limit reached",
    0x10: "no viable path",
    0x11: "version negotiation error",
    0x128: "TLS alert handshake failure",
    0x12A: "TLS alert bad certificate",
    0x12E: "TLS alert certificate unknown",
    0x130: "TLS alert unknown authority",
    0x178: "TLS alert no application protocol",
}
_MAX_REASON_BYTES = 512
"""Of a close reason: it must fit a packet beside the rest."""


def explain(code: int, reason: str, *, by_peer: bool) -> str:
    """Say a transport error in words, such as ``"closed by the peer: protocol violation (bad frame)"``."""
    if not by_peer and reason.lower() == "idle timeout":
        return "idle timeout: no packet from the peer"
    if by_peer and code == TransportCode.NO_ERROR:
        return f"{reason or 'closed'} by the peer"
    name = _NAMES.get(code) or (f"TLS alert {code - 0x100}" if 0x100 <= code < 0x200 else f"error {code:#x}")
    side = "the peer found: " if by_peer else ""
    return f"{side}{name} ({reason})" if reason else f"{side}{name}"


def shorten(reason: str) -> str:
    """Cut a close reason to what surely fits a packet, at a character boundary."""
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
