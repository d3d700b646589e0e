"""What an endpoint must read and write of QUIC packets itself: ids, version negotiation, Retry tokens. Sans-IO.

RFC 8999 (what all versions share), RFC 9000 sections 6, 8.1 and 17.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from echostream.transport.sockets import SocketAddress
from echostream.types import random_bytes

__all__ = ("CONNECTION_ID_BYTES", "LongHeader", "RetryTokens", "version_negotiation_packet")

CONNECTION_ID_BYTES = 8
"""Length of the ids that we issue: short packet headers do not tell."""

_MAX_CONNECTION_ID_BYTES = 20
_VERSION_2 = 0x6B3343CF


class LongHeader(NamedTuple):
    """The start of a packet of the handshake."""

    version: int
    destination: bytes
    source: bytes
    is_initial: bool
    token: bytes
    """Of an Initial packet; empty elsewhere."""

    @classmethod
    def parse(cls, packet: bytes) -> LongHeader | None:
        """Read the first header of a UDP payload; None when it is truncated or malformed."""
        try:
            first, version, length = struct.unpack_from("!BIB", packet)
            destination, offset = _slice(packet, 6, length)
            source, offset = _slice(packet, offset + 1, packet[offset])
            # The fixed bit and the type, which RFC 9369 section 3.2 renumbers.
            is_initial = (first & 0x70) >> 4 == (5 if version == _VERSION_2 else 4) and version != 0
            token = b""
            if is_initial:
                length, offset = _variable_integer(packet, offset)
                token, offset = _slice(packet, offset, length)
                length, offset = _variable_integer(packet, offset)
                _slice(packet, offset, length)
        except (IndexError, struct.error):
            return None
        if len(destination) > _MAX_CONNECTION_ID_BYTES or len(source) > _MAX_CONNECTION_ID_BYTES:
            return None
        return cls(version, destination, source, is_initial, token)


def version_negotiation_packet(header: LongHeader, versions: tuple[int, ...]) -> bytes:
    """Build the answer to a packet of an unknown version (RFC 9000 section 17.2.1)."""
    return b"".join(
        (
            bytes([0x80 | random_bytes(1)[0]]),
            bytes(4),
            bytes([len(header.source)]),
            header.source,
            bytes([len(header.destination)]),
            header.destination,
            struct.pack(f"!{len(versions)}I", *versions),
        )
    )


class RetryTokens:
    """Proves that a client receives at the address it sends from, without memory (RFC 9000 section 8.1.2)."""

    _LIFETIME = 10.0  # seconds, not more than `former.LINGER`: see `check`
    _TAG_BYTES = 16

    def __init__(self, key: bytes | None = None) -> None:
        """Prepare.

        Args:
            key: 32 secret bytes that other processes of this machine have, too; None for some of its own.
        """
        self._key = key or random_bytes(32)

    def make(self, address: SocketAddress, *, original: bytes, retry_source: bytes, now: float) -> bytes:
        """Return a token for a client.

        Args:
            address: where the Retry goes.
            original: destination id of the client's first Initial; comes back from `check`.
            retry_source: id that the client must use next.
            now: any clock that `check` sees too, in seconds.
        """
        body = struct.pack("!q", int(now * 1000)) + original
        return body + self._tag(address, body, retry_source)

    def check(self, token: bytes, address: SocketAddress, *, destination: bytes, now: float) -> bytes | None:
        """Return the original destination id, or None for a token that is forged, stolen or too old.

        A token is bound to one connection id. A client answers a Retry at once (RFC 9000 section 8.1.4), so the first
        packet that shows the token opens the connection of that id; whoever repeats it reaches that connection while
        it lives, and nothing when it ended, for as long as the token lives.
        """
        body, tag = token[: -self._TAG_BYTES], token[-self._TAG_BYTES :]
        if len(body) < 8 or not hmac.compare_digest(tag, self._tag(address, body, destination)):
            return None
        (issued,) = struct.unpack_from("!q", body)
        return body[8:] if -0.001 <= now - issued / 1000 <= self._LIFETIME else None

    def _tag(self, address: SocketAddress, body: bytes, retry_source: bytes) -> bytes:
        host = address[0].encode()  # as the kernel writes it: the same each time
        content = b"".join((bytes([len(host)]), host, struct.pack("!HB", address[1], len(retry_source)), retry_source))
        return hmac.digest(self._key, content + body, hashlib.sha256)[: self._TAG_BYTES]


def _slice(packet: bytes, start: int, length: int) -> tuple[bytes, int]:
    end = start + length
    if end > len(packet):
        raise IndexError
    return packet[start:end], end


def _variable_integer(packet: bytes, offset: int) -> tuple[int, int]:
    size = 1 << (packet[offset] >> 6)
    data, end = _slice(packet, offset, size)
    return int.from_bytes(data) & ((1 << (8 * size - 2)) - 1), end
