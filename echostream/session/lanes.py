"""Lanes: the transport streams that the unary calls of one side share, and which call takes which.

One lane puts many small calls into one packet, which is what makes them fast. Calls that fill about a packet each
take turns over several, so that none waits for the lost packet of another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from echostream.protocol.hello import LANES
from echostream.protocol.link import LANE

if TYPE_CHECKING:
    from echostream.config import Limits
    from echostream.protocol.peer import PeerProtocol

__all__ = ("Lanes",)


class Lanes:
    """The lanes of one side of a connection; further ones are opened when they are first wanted."""

    __slots__ = ("_count", "_next", "_open_stream", "_opened", "_protocol", "from_bytes", "small_bytes")

    def __init__(self, protocol: PeerProtocol, limits: Limits, open_stream: Callable[[], int | None]) -> None:
        """Make them.

        Args:
            protocol: the machine; whether the peer knows lanes is known to it later.
            limits: how many, and from what size on.
            open_stream: returns a fresh two-way transport stream, or None where the peer allows no more.
        """
        self._protocol = protocol
        self._open_stream = open_stream
        self._count = limits.lanes
        self._opened = [LANE]
        self._next = 0
        self.from_bytes = limits.lane_payload_bytes if limits.lanes > 1 else sys.maxsize
        """Payload size from which on calls ask `take` for their lane; smaller ones take the first."""
        self.small_bytes = min(self.from_bytes, limits.large_payload_bytes)
        """Payload size below which a call neither asks for its lane nor has its turn to wait for."""

    def take(self) -> int:
        """Return the lane of the next call of about a packet."""
        if len(self._opened) < self._count:
            self._open()
        self._next = (self._next + 1) % len(self._opened)
        return self._opened[self._next]

    def _open(self) -> None:
        stream_id = None
        if LANES in self._protocol.features:
            stream_id = self._open_stream()
        if stream_id is None:
            self._count = len(self._opened)
        else:
            self._protocol.calls.open_lane(stream_id)
            self._opened.append(stream_id)
