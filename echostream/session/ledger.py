"""`QualityLedger`: what all streams and sessions of one server or client came to, those that have ended included.

Nothing is kept unless somebody holds it. Then a stream is added up when somebody looks and when it ends: what grew
since the last time goes to the total of its name. So totals never fall, whatever streams come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from echostream.config import MAX_METRIC_STREAMS
from echostream.session.channel import Channel
from echostream.session.quality import SentQuality, received_quality, sent_quality

if TYPE_CHECKING:
    import asyncio

    from echostream.realtime import StreamQuality
    from echostream.session.runtime import Runtime
    from echostream.session.session import Session

__all__ = ("NOTHING", "OTHER", "SESSION_COUNTS", "STREAM_COUNTS", "QualityLedger")

OTHER: Final = "_OTHER"
"""Stands for all names above the limit, as OpenTelemetry's conventions do it."""

STREAM_COUNTS: Final = (
    "sent", "sent_bytes", "unsent", "stale", "received", "received_bytes", "lost", "reordered", "duplicated", "strays",
    "dropped", "late", "concealed",
)  # fmt: skip
"""What is counted of a stream, in the order of its totals: `unsent` was dropped before, `dropped` after it was sent."""

NOTHING: Final = (0,) * len(STREAM_COUNTS)
"""The counts of a stream that has just begun."""

SESSION_COUNTS: Final = ("dropped_datagrams", "late_frames", "dropped_events")


class QualityLedger:
    """Belongs to one server or client; to be used on the thread of its loop, but for `totals`.

    Attributes:
        sessions: returns those that are open.
        loop: where they live, once there is one.
    """

    def __init__(self, sessions: Callable[[], Iterable[Session]]) -> None:
        self.sessions = sessions
        self.loop: asyncio.AbstractEventLoop | None = None
        self._holders = 0
        self._open: dict[Channel, None] = {}
        self._streams: dict[str, list[int]] = {}
        self._session_totals = [0] * len(SESSION_COUNTS)
        self._counted: dict[Session, list[int]] = {}

    def __repr__(self) -> str:
        return f"<QualityLedger of {len(self._open)} open streams, {len(self._streams)} names>"

    def serve(self, runtime: Runtime) -> None:
        """Be told of what happens there."""
        self.loop, runtime.ledger = runtime.loop, self

    def hold(self) -> Callable[[], None]:
        """Keep it from now on; the function that comes back ends it. What streams came to before does not count."""
        if not self._holders:
            self._begin()
        self._holders += 1
        is_held = True

        def release() -> None:
            nonlocal is_held
            self._holders -= is_held
            is_held = False
            if not self._holders:
                self._end()

        return release

    # For who looks

    def look(self) -> Iterator[tuple[str, Channel, SentQuality, StreamQuality]]:
        """Add up all that is open, and show it stream by stream with its name; the loop may go on in between."""
        for session in self.sessions():
            if session.peer.lost is None:
                self._settle_session(session)
        for channel in list(self._open):
            if channel in self._open and channel.accepted:
                yield self._known(channel.name), channel, *self._settle(channel)

    def totals(self) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
        """Return `STREAM_COUNTS` by stream name, and `SESSION_COUNTS`, as of the last look; on any thread."""
        streams = {name: tuple(total) for name, total in list(self._streams.items())}
        return streams, tuple(self._session_totals)

    # For what is counted

    def opened(self, channel: Channel) -> None:
        """A stream begins."""
        if self._holders:
            channel.counted = [*NOTHING]
            self._open[channel] = None

    def settle(self, channel: Channel) -> None:
        """A stream has ended, or what it had left was read: look at it for the last time, or the last but one."""
        if channel.counted is not None:
            self._settle(channel)
            self._open.pop(channel, None)

    def closed(self, session: Session) -> None:
        """A session ended, and its streams before it."""
        if self._holders:
            self._settle_session(session)
            del self._counted[session]

    # Inside

    def _begin(self) -> None:
        for session in self.sessions():
            self._counted[session] = _session_counts(session)
            for stream in session.peer.protocol.streams.streams.values():
                channel = stream.handle
                if isinstance(channel, Channel):
                    channel.counted = _stream_counts(channel, sent_quality(channel), received_quality(channel))
                    self._open[channel] = None

    def _end(self) -> None:
        for channel in self._open:
            channel.counted = None
        self._open.clear()
        self._counted.clear()

    def _settle(self, channel: Channel) -> tuple[SentQuality, StreamQuality]:
        sent, received = sent_quality(channel), received_quality(channel)
        if channel.accepted and channel.counted is not None:  # a name that nobody serves is the peer's to make up
            total = self._streams[self._known(channel.name)]
            _grow(total, channel.counted, _stream_counts(channel, sent, received))
        return sent, received

    def _settle_session(self, session: Session) -> None:
        counted = self._counted.setdefault(session, [0] * len(SESSION_COUNTS))
        _grow(self._session_totals, counted, _session_counts(session))

    def _known(self, name: str) -> str:
        """Return what a stream's total is filed under: its name, unless there are too many."""
        if name not in self._streams and len(self._streams) >= MAX_METRIC_STREAMS:
            name = OTHER
        self._streams.setdefault(name, [*NOTHING])
        return name


def _grow(total: list[int], counted: list[int], now: list[int]) -> None:
    """Add to the total what grew since it was counted."""
    for at, count in enumerate(now):
        if count > counted[at]:
            total[at] += count - counted[at]
            counted[at] = count


def _stream_counts(channel: Channel, sent: SentQuality, received: StreamQuality) -> list[int]:
    """Return `STREAM_COUNTS` as they are now."""
    is_over = channel.remote_ended or channel.error is not None
    return [
        sent.sent,
        sent.sent_bytes,
        sent.dropped,
        sent.stale,
        received.received,
        received.received_bytes,
        received.lost if is_over else received.lost_for_good,
        received.reordered,
        received.duplicated,
        received.strays,
        received.dropped,
        received.late,
        received.concealed + received.skipped,
    ]


def _session_counts(session: Session) -> list[int]:
    link = session.peer.protocol.link
    return [link.dropped_datagrams, link.late_frames, session.dropped_events]
