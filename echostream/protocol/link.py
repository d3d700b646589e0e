"""What the call table, the stream table and the machine of one connection share: ids, limits, outbox, checks."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from echostream.config import Limits
from echostream.errors import CloseCode, LocalProtocolError, RemoteProtocolError, ResourceError
from echostream.protocol.account import Share
from echostream.protocol.codec import FrameCodec
from echostream.protocol.events import HoldingRefused
from echostream.protocol.hello import PeerLimits
from echostream.protocol.outbox import LANE, Outbox
from echostream.protocol.payload import PayloadCodec
from echostream.types import Role

__all__ = ("LANE", "Link")

_FIRST_LANE: Final = frozenset({LANE})
"""Shared by all connections that have no more: most are idle, and a set of its own takes 216 bytes, a dict 64."""

_MAX_REMEMBERED: Final = 256
"""Stops and cancellations that are remembered because they may have overtaken what they are about; most came after it
and its end."""


class Link:
    """State of one connection that more than one part of the machine needs."""

    __slots__ = (
        "bit",
        "cancelled",
        "claimed",
        "codec",
        "dropped_datagrams",
        "features",
        "go_away_id",
        "held",
        "in_use",
        "lanes",
        "last_remote_id",
        "late_frames",
        "limits",
        "next_id",
        "next_probe_ns",
        "out",
        "owed_acks",
        "owners",
        "payload",
        "peer_lanes",
        "peer_limits",
        "ready",
        "refused_count",
        "refused_probes",
        "stopped",
        "stray_answers",
        "unreported",
    )

    def __init__(self, role: Role, codec: FrameCodec, payload: PayloadCodec, limits: Limits, held: Share) -> None:
        self.codec = codec
        self.payload = payload
        self.limits = limits
        """What this side keeps the peer to."""
        self.peer_limits = PeerLimits()
        """What the peer asks this side to keep."""
        self.held = held
        """What this side holds for the peer."""
        self.out = Outbox()
        self.owners: dict[int, Any] = {}
        """Transport stream to the call or application stream that has it for its own."""
        self.claimed: dict[int, None] = {}
        """Transport streams on which the peer opened a call or an application stream, until it ends its half."""
        self.lanes = _FIRST_LANE
        """Transport streams that unary calls of this side share."""
        self.peer_lanes = _FIRST_LANE
        """Transport streams that unary calls of the peer share."""
        self.cancelled: dict[int, None] = {}
        """The last calls that the peer cancelled while they were not here, oldest first."""
        self.stopped: dict[int, None] = {}
        """The last transport streams that the peer stopped reading while nothing was open there, oldest first."""
        self.features: frozenset[str] = frozenset()
        """What both sides can do."""
        self.bit = 1 if role is Role.CLIENT else 0
        self.next_id = 1 if role is Role.CLIENT else 2
        self.last_remote_id = 0
        self.go_away_id: int | None = None
        """Last id of the peer that this side sees to, once it asked for no more."""
        self.owed_acks: dict[int, None] = {}
        """Events of the peer that wait for their Ack."""
        self.in_use: list[Container[int]] = [self.owed_acks]
        """Tables of all that the peer's ids may name now; each adds itself."""
        self.late_frames = 0
        """Frames for calls and streams that had already ended here: dropped and counted."""
        self.unreported: list[Any] = []
        """Protocol events right before a violation: what raises leaves them here, for they happened all the same."""
        self.refused_count = 0
        """What was refused because this side would have held too much."""
        self.dropped_datagrams = 0
        """Datagrams that were none of this version, or not what both sides agreed on."""
        self.next_probe_ns = 0
        """When the next probe of the peer would come if all came evenly."""
        self.refused_probes = 0
        """Probes over `max_probes_per_second`."""
        self.stray_answers = 0
        """Answers to no probe of this side, or second ones."""
        self.ready = False
        """Whether the Hello exchange is over and the connection not closed."""

    def is_local(self, number: int) -> bool:
        """Whether this side gave out the id."""
        return number & 1 == self.bit

    def take_id(self) -> int:
        """Return a fresh id."""
        number = self.next_id
        self.next_id = number + 2
        return number

    def note_remote_id(self, number: int, what: str) -> None:
        """Note an id that the peer gives out, to a call, an event or a stream.

        Raises:
            RemoteProtocolError: it is 0, one of this side's, or in use.
        """
        if number > self.last_remote_id and number & 1 != self.bit:
            self.last_remote_id = number
            return
        self._check_remote_id(number, what)
        if any(number in table for table in self.in_use):
            raise RemoteProtocolError(f"{what} id {number} is in use")

    def _check_remote_id(self, number: int, what: str) -> None:
        if number == 0 or number & 1 == self.bit:
            raise RemoteProtocolError(f"{what} id {number} is not one of the peer's")

    def note_event(self, number: int, *, wants_ack: bool) -> None:
        """Note an event of the peer.

        Raises:
            RemoteProtocolError: its id is none of the peer's or in use, or too many wait for their Ack.
        """
        self.note_remote_id(number, "event")
        if not wants_ack:
            return
        limit = self.limits.max_unacknowledged_events
        if len(self.owed_acks) >= limit:
            raise RemoteProtocolError(
                f"more than {limit} events wait for their acks (max_unacknowledged_events)",
                close_code=CloseCode.LIMIT_EXCEEDED,
            )
        self.owed_acks[number] = None

    def claim(self, stream_id: int, what: str) -> bool:
        """Note that a frame opens a call, an application stream or a lane on a transport stream.

        Returns:
            False when the peer gave it up already: the stop of the transport stream overtook the frame.

        Raises:
            RemoteProtocolError: this side could not answer there, or the stream had its one already.
        """
        if stream_id & 3 != self.bit:  # RFC 9000 section 2.1: who opened it, and whether it goes both ways
            raise RemoteProtocolError(f"{what} on stream {stream_id}, which is not a two-way stream of the peer")
        if stream_id in self.claimed or stream_id in self.peer_lanes:
            raise RemoteProtocolError(f"second {what} on stream {stream_id}")
        self.claimed[stream_id] = None
        if stream_id in self.stopped:
            self.late_frames += 1
            return False
        return True

    def note_stop(self, stream_id: int) -> None:
        """The peer reads nothing of a transport stream on which nothing is open: not yet, or no longer."""
        if stream_id & 3 == self.bit and stream_id not in self.claimed:
            _remember(self.stopped, stream_id)

    def is_lane(self, stream_id: int) -> bool:
        """Whether unary calls of either side share this transport stream."""
        return stream_id in self.lanes or stream_id in self.peer_lanes

    def is_remote_one_way(self, stream_id: int) -> bool:
        """Whether the peer opened this transport stream and nothing can be sent back on it (RFC 9000 section 2.1)."""
        return stream_id & 3 == self.bit | 2

    def note_cancel(self, number: int) -> None:
        """The peer cancelled a call that is not here: it has ended, or its large request is still on its way.

        Raises:
            RemoteProtocolError: the id is none of the peer's.
        """
        self._check_remote_id(number, "cancel")
        self.last_remote_id = max(self.last_remote_id, number)
        self.late_frames += 1
        _remember(self.cancelled, number)

    def is_refused(self, number: int) -> bool:
        """Whether the peer uses an id above the one this side said would be the last."""
        return self.go_away_id is not None and number > self.go_away_id

    def require_ready(self, what: str) -> None:
        """Raise LocalProtocolError unless frames may be sent."""
        if not self.ready:
            raise LocalProtocolError(f"cannot {what}: the session is not open")

    def check_payload(self, size: int) -> None:
        """Raise ResourceError when a payload is over the peer's limit."""
        if size > self.peer_limits.max_payload_bytes:
            raise ResourceError(
                f"payload of {size} bytes is over the peer's limit of {self.peer_limits.max_payload_bytes}"
                " (max_payload_bytes); send it in pieces over a stream, or raise the limit there",
                current=size,
                limit=self.peer_limits.max_payload_bytes,
                retryable=False,
            )

    def late_or_wrong(self, number: int, what: str, *, local: bool) -> None:
        """A frame for something unknown: counted if it has ended, RemoteProtocolError if it never was."""
        known = 0 < number < self.next_id if local else 0 < number <= self.last_remote_id
        if not known or self.is_local(number) is not local:
            raise RemoteProtocolError(f"{what} for id {number}, which was never used")
        self.late_frames += 1

    def clear(self) -> None:
        """Forget which transport streams were whose."""
        self.held.close()
        self.owed_acks.clear()
        self.owners.clear()
        self.claimed.clear()
        self.cancelled.clear()
        self.stopped.clear()

    def no_room(self, what: str, events: list[Any]) -> bytes:
        """Count a refusal of what this side would have to hold, report the first one, and return its payload."""
        self.refused_count += 1
        if self.refused_count == 1:
            events.append(HoldingRefused(what))
        return self.failure(f"the other side holds more than {self.held.limit} bytes that wait there (max_held_bytes)")

    def failure(self, message: str) -> bytes:
        """Return the payload of a refusal."""
        return self.payload.encode({"message": message, "details": {}})


def _remember(table: dict[int, None], number: int) -> None:
    table[number] = None
    if len(table) > _MAX_REMEMBERED:
        del table[next(iter(table))]
