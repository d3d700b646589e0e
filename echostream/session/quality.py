"""How a session and its streams do, in figures: what `session.quality()` and `stream.quality()` return."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from echostream.realtime import StreamQuality
from echostream.session.channel import Channel

if TYPE_CHECKING:
    from echostream.session.session import Session

__all__ = (
    "ChannelQuality",
    "SentQuality",
    "SessionQuality",
    "channel_quality",
    "received_quality",
    "sent_quality",
    "session_quality",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentQuality:
    """What became of the items of this side, where they have a queue; all 0 on a stream without."""

    sent: int = 0
    """Items given to the network."""
    sent_bytes: int = 0
    """Their payloads."""
    queued: int = 0
    """Items that wait to be sent."""
    queued_bytes: int = 0
    stale: int = 0
    """Items dropped because they had waited for `max_age`."""
    dropped: int = 0
    """Items dropped because the queue was full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFigures:
    """What is known of session time on this side."""

    clock_locked: bool = False
    clock_offset_ns: int = 0
    """How far session time is ahead of the local clock."""
    clock_error_bound_ns: float = 0.0
    """How wrong that can be; infinity while nothing is known."""
    clock_drift_ppm: float = 0.0
    """How much faster session time runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelQuality(ClockFigures):
    """How one stream does on this side: counts are exact, from its beginning; estimates are of the last ten seconds.

    What is received is counted on streams in datagram mode and with timestamps only.
    """

    name: str
    sent: SentQuality = field(default_factory=SentQuality)
    received: StreamQuality = field(default_factory=StreamQuality)
    skew_ns: float | None = None
    """How long after their turn `recv_aligned` handed items out, smoothed; None where nobody calls it."""

    @property
    def latency(self) -> float | None:
        """Seconds one way, from timestamp to arrival; None without timestamps or a locked clock."""
        return None if self.received.latency_ns is None else self.received.latency_ns / 1e9

    @property
    def jitter(self) -> float:
        """Seconds of interarrival jitter (RFC 3550 section 6.4.1)."""
        return self.received.jitter_ns / 1e9

    @property
    def lost(self) -> int:
        """Items of the other side that have not come: lost on the way, or dropped before."""
        return self.received.lost

    @property
    def late(self) -> int:
        """Items that came after their turn."""
        return self.received.late

    @property
    def reordered(self) -> int:
        """Items that came after a later one."""
        return self.received.reordered

    @property
    def duplicated(self) -> int:
        """Items that came again, and were dropped."""
        return self.received.duplicated

    @property
    def buffered(self) -> int:
        """Items that came and wait: to be read, or for their turn."""
        return self.received.buffered


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionQuality(ClockFigures):
    """How a session does on this side."""

    round_trip: float | None
    """Seconds, smoothed by the transport; None where it does not measure."""
    unsent_bytes: int
    """What was written and not sent, as of the last count."""
    held_bytes: int
    """What this side holds for the peer: unread items, unfinished frames, events that wait for listeners."""
    dropped_datagrams: int
    """Datagrams that made no sense here, or whose stream nobody took in time."""
    late_frames: int
    """Frames for calls and streams that had ended."""
    dropped_events: int
    """Events dropped because listeners were too slow."""
    streams: tuple[ChannelQuality, ...]
    """Of the open streams, oldest first."""


def channel_quality(channel: Channel) -> ChannelQuality:
    """Return the figures of one stream."""
    aligner = channel.aligner
    return ChannelQuality(
        name=channel.name,
        sent=sent_quality(channel),
        received=received_quality(channel),
        skew_ns=None if aligner is None else aligner.skew_ns,
        **_clock(channel.session),
    )


def session_quality(session: Session) -> SessionQuality:
    """Return the figures of a session."""
    peer = session.peer
    link = peer.protocol.link
    handles = [stream.handle for stream in peer.protocol.streams.streams.values()]
    return SessionQuality(
        round_trip=peer.connection.rtt,
        unsent_bytes=peer.backlog.unsent_bytes,
        held_bytes=link.held.held,
        dropped_datagrams=link.dropped_datagrams + peer.protocol.streams.dropped_early,
        late_frames=link.late_frames,
        dropped_events=session.dropped_events,
        streams=tuple(channel_quality(handle) for handle in handles if isinstance(handle, Channel)),
        **_clock(session),
    )


def sent_quality(channel: Channel) -> SentQuality:
    """Return what became of the items of this side."""
    outgoing = channel.outgoing
    if outgoing is None:
        return SentQuality()
    queue = outgoing.queue
    return SentQuality(
        sent=outgoing.sent,
        sent_bytes=outgoing.sent_bytes,
        queued=len(queue),
        queued_bytes=queue.bytes,
        stale=queue.stale,
        dropped=queue.dropped,
    )


def received_quality(channel: Channel) -> StreamQuality:
    """Return what came of the other side; reads the session's clock only where the items did."""
    arrivals, aligner = channel.arrivals, channel.aligner
    if arrivals is None:
        return StreamQuality(buffered=channel.unread)
    is_session_time = arrivals.meter.synchronised
    now_ns = channel.session.clock.now_ns() if is_session_time else channel.peer.runtime.clock.monotonic_ns()
    counted = arrivals.meter.snapshot(now_ns)
    if aligner is None:
        return replace(counted, buffered=len(arrivals), buffered_bytes=arrivals.waiting_bytes)
    turned = aligner.buffer.stats()
    return replace(
        turned,
        **{item.name: getattr(counted, item.name) for item in fields(StreamQuality) if item.name in _OF_ARRIVALS},
        late=counted.late + turned.late,
        dropped=counted.dropped + turned.dropped,
        buffered=turned.buffered + len(arrivals),
        buffered_bytes=turned.buffered_bytes + arrivals.waiting_bytes,
    )


_OF_ARRIVALS: Final = frozenset((
    "received", "received_bytes", "lost", "lost_for_good", "duplicated", "reordered", "strays", "restarts", "jitter_ns",
    "mean_jitter_ns", "latency_ns", "latency_min_ns", "latency_max_ns", "bytes_per_second", "items_per_second",
))  # fmt: skip
"""What is counted when an item comes; the rest is known once it has its turn."""


def _clock(session: Session) -> dict[str, Any]:
    clock = session.clock
    return {
        "clock_locked": clock.locked,
        "clock_offset_ns": clock.offset_ns,
        "clock_error_bound_ns": clock.error_bound_ns,
        "clock_drift_ppm": clock.drift_ppm,
    }
