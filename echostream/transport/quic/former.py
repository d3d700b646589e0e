"""Connection ids that were in use lately: what comes for them is late, repeated, or from a peer that missed the end.

Sans-IO. Without this a late packet of an id that was retired would be answered by a stateless reset, a peer that missed
the close would wait for its idle timeout, and a first packet that an attacker repeats would open a connection again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from echostream.transport.sockets import SocketAddress

__all__ = ("Farewell", "FormerIds")

LINGER = 10.0
"""Seconds: well over three probe timeouts of most paths (RFC 9000 section 10.2), and as long as a Retry token lives."""
_MAX_IDS = 16_384
"""About 4 MB; above it the oldest are forgotten early."""
_MAX_AMPLIFICATION = 3
"""RFC 9000 section 8.1, for a peer whose address was never validated."""


@dataclass(slots=True)
class Farewell:
    """The last words of a connection, to be said again when its peer goes on (RFC 9000 section 10.2.1)."""

    packet: bytes
    """The one that carries CONNECTION_CLOSE; empty where the peer closed, and nothing is said."""
    address: SocketAddress
    """Where it went; nobody else gets it."""
    heard: int = 0
    """Packets that came since."""

    def answer(self, packet: bytes, address: SocketAddress) -> bytes | None:
        """Return what to say to a packet: something at the first, second, fourth, eighth and so on."""
        self.heard += 1
        if not self.packet or address != self.address or self.heard & (self.heard - 1):
            return None
        return self.packet if len(self.packet) <= _MAX_AMPLIFICATION * len(packet) else None


class FormerIds:
    """The ids, the oldest first."""

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, tuple[float, Farewell | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, connection_ids: Iterable[bytes], farewell: Farewell | None, now: float) -> None:
        """Remember ids for `LINGER` seconds.

        Args:
            connection_ids: no longer in use.
            farewell: of their connection; None when it lives and the peer retired the ids.
            now: any clock, in seconds.
        """
        for connection_id in connection_ids:
            self._ids[connection_id] = (now + LINGER, farewell)
            self._ids.move_to_end(connection_id)
        self.forget(now)

    def knows(self, connection_id: bytes, now: float) -> bool:
        """Whether an id was in use lately."""
        self.forget(now)
        return connection_id in self._ids

    def answer(self, connection_id: bytes, packet: bytes, address: SocketAddress) -> bytes | None:
        """Return what is to be said to a packet of a known id."""
        farewell = self._ids[connection_id][1]
        return None if farewell is None else farewell.answer(packet, address)

    def forget(self, now: float) -> None:
        """Drop what is over its time, or too much."""
        while self._ids:
            until, _ = next(iter(self._ids.values()))
            if until > now and len(self._ids) <= _MAX_IDS:
                return
            self._ids.popitem(last=False)
