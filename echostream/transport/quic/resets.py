"""Stateless reset (RFC 9000 section 10.3): how a server that lost its state says so. Sans-IO.

The token of a connection id is a keyed hash of it, and the key comes from the server's private key: there is no file to
keep, and after a restart with the same certificate on the same address the same ids have the same tokens. Servers that
share a private key have different keys where their addresses differ; those that share the address too must not let
a connection wander from one to the other, or an observer of its packets may have the other one end it (section 21.11).
"""

from __future__ import annotations

import hashlib
import hmac

from echostream.bucket import TokenBucket
from echostream.types import random_bytes

__all__ = ("MIN_RESET_BYTES", "TOKEN_BYTES", "StatelessResets")

TOKEN_BYTES = 16
MIN_RESET_BYTES = 21
"""Five bytes that cannot be foreseen, and the token: shorter ones are no packets (section 10.3)."""
_MAX_RESET_BYTES = 42
"""As small as the smallest packets of a connection: more would only cost."""


class StatelessResets:
    """Tokens of a server's connection ids, and the packets that show them.

    Args:
        key: 32 secret bytes, the same after a restart.
        per_second: resets at most; in a burst as many.
    """

    def __init__(self, key: bytes, *, per_second: int) -> None:
        self._key = key
        self._rate = TokenBucket(per_second, burst=per_second)

    def token(self, connection_id: bytes) -> bytes:
        """Return the token that the peer learns together with a connection id."""
        return hmac.digest(self._key, connection_id, hashlib.sha256)[:TOKEN_BYTES]

    def answer(self, packet: bytes, connection_id: bytes, now: float) -> bytes | None:
        """Return the reset for a packet with an unknown id, or None where there must be none.

        It is always shorter than the packet: two endpoints that take each other's resets for packets fall silent after
        a few (section 10.3.3).
        """
        size = min(len(packet) - 1, _MAX_RESET_BYTES)
        if size < MIN_RESET_BYTES or not self._rate.take(now):
            return None
        start = random_bytes(size - TOKEN_BYTES)
        return bytes([0x40 | start[0] & 0x3F]) + start[1:] + self.token(connection_id)
