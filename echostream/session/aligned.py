"""Items in step with the session's clock: through a jitter buffer, each handed out when it is due."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from echostream.config import checked_seconds
from echostream.errors import ConfigurationError
from echostream.realtime import JitterBuffer, Played, QualityMeter, SequenceTracker
from echostream.session.arrivals import MAX_STEP, TimedItem

if TYPE_CHECKING:
    from echostream.binding import TypeCodec
    from echostream.session.channel import Channel

__all__ = ("Aligner",)

_log = logging.getLogger("echostream.session")

_PLAIN: Final = (b"\0", b"\1")
"""What stands before a payload in the buffer: whether it is msgpack, or bytes as they are."""
_LATE_NS: Final = 5_000_000
"""How long past its turn an item is waited for; its reader is no device."""
_SMOOTHING: Final = 1 / 16
_LONGEST: Final = 3600.0
"""Seconds: what waits longer for its turn is no stream any more."""
_ANOTHER_CLOCK_NS: Final = 60_000_000_000
"""Timestamps that are further from session time than this are of another clock, as a rule."""
_AHEAD_NS: Final = 200_000_000
"""So far may a sender run ahead that can be held up, where no latency says how far."""


class Aligner:
    """The jitter buffer of one stream and its reader."""

    def __init__(self, channel: Channel, *, frame: float, latency: float | None) -> None:
        """Make one.

        Args:
            channel: of a stream with timestamps.
            frame: seconds from one item to the next, as a rule.
            latency: seconds from an item's timestamp to its turn; None for as little as the network allows.

        Raises:
            ConfigurationError: a duration is not above 0, or over an hour.
            LocalProtocolError: the stream has no timestamps.
        """
        _check("frame", frame)
        if latency is not None:
            _check("latency", latency, ", or None to adapt")
        channel.check_timed()
        self.wishes = (frame, latency)
        """What it was made with."""
        self.buffer = JitterBuffer(
            max(1, round(frame * 1e9)),
            latency_ns=None if latency is None else max(1, round(latency * 1e9)),
            late_ns=_LATE_NS,
            meter=QualityMeter(SequenceTracker(max_step=MAX_STEP)),
        )
        self.skew_ns: float | None = None
        """How long after their turn items were handed out, smoothed; None before the first."""
        self._channel = channel
        self._arrivals = channel.require_arrivals()
        self._newest = -1
        self._held_up_ns = 0
        """Until when, session time, the sender was held up."""
        self._has_warned = False

    async def next(self, codec: TypeCodec | None) -> TimedItem[Any]:
        """Return the next item when it is due; raise StopAsyncIteration after the last."""
        channel, clock = self._channel, self._channel.session.clock
        if not clock.locked:
            await clock.wait_locked()
        while True:
            now_ns = clock.now_ns()
            self._fill(now_ns)
            while (found := self.buffer.pop(now_ns)) is not None:
                if isinstance(found, Played):  # a gap is nothing to hand out
                    self._note_skew(now_ns - found.play_at_ns)
                    item = await channel.understand(found.payload[1:], codec, raw=found.payload[:1] == _PLAIN[1])
                    return TimedItem(found.index, found.timestamp_ns, clock.to_local_ns(found.arrival_ns), item)
            due_ns = self.buffer.next_ns(now_ns)
            if due_ns is None:
                await channel.more()
            else:
                await self._changed_or_due((due_ns - now_ns) / 1e9)

    def _fill(self, now_ns: int) -> None:
        """Move what came into the buffer; who can wait with sending is held up instead where that is full."""
        clock, arrivals, buffer = self._channel.session.clock, self._arrivals, self.buffer
        while (arrived := arrivals.first) is not None:
            frame = arrived.frame
            if arrivals.policy == "block" and self._is_full(len(frame.payload) + 1, now_ns):
                self._held_up_ns = now_ns
                return
            arrivals.take()
            if arrived.sequence - self._newest > MAX_STEP:  # it was found that the numbers begin anew
                buffer.restart()
            self._newest = max(self._newest, arrived.sequence)
            if frame.timestamp_ns is None:  # its sender said that each would have one
                buffer.meter.invalid += 1
                continue
            arrival_ns = clock.to_session_ns(arrived.arrived_ns)
            self._look_at(arrival_ns - frame.timestamp_ns)
            if buffer.latency_ns is None:  # how long it was held up here says nothing of the network
                arrival_ns = max(arrival_ns, self._held_up_ns)
            buffer.push(arrived.sequence, frame.timestamp_ns, arrival_ns, _PLAIN[frame.raw] + frame.payload)

    def _is_full(self, size_bytes: int, now_ns: int) -> bool:
        """Whether who runs ahead has to wait: what is due far in the future, or came late, holds up nobody."""
        buffer, waiting = self.buffer, self.buffer.waiting
        if buffer.latency_ns is None:
            last = waiting.last
            return last is not None and last.timestamp_ns > now_ns and waiting.span_ns >= _AHEAD_NS
        if waiting.has_room(size_bytes):
            return False
        due_ns = buffer.next_ns(now_ns)
        return due_ns is not None and due_ns - now_ns <= _ANOTHER_CLOCK_NS

    def _look_at(self, late_ns: int) -> None:
        """Say once that timestamps are of another clock: by that of a group such items are never due, or long over."""
        if abs(late_ns) > _ANOTHER_CLOCK_NS and self.buffer.latency_ns is not None and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "! stream %r: an item is stamped %.6g s %s session time, by which recv_aligned(latency=...) gives it;"
                " send_with_timestamp takes session time: at_ns=client.clock.now_ns()",
                self._channel.name,
                abs(late_ns) / 1e9,
                "before" if late_ns > 0 else "ahead of",
            )

    async def _changed_or_due(self, seconds: float) -> None:
        timer = self._channel.peer.runtime.loop.call_later(max(0.0, seconds), self._channel.wake)
        try:
            await self._channel.changed()
        finally:
            timer.cancel()

    def _note_skew(self, skew_ns: int) -> None:
        before = self.skew_ns
        self.skew_ns = skew_ns if before is None else before + (skew_ns - before) * _SMOOTHING


def _check(name: str, seconds: float, way_out: str = "") -> None:
    if checked_seconds(name, seconds, way_out) > _LONGEST:
        raise ConfigurationError(name, f"{seconds!r} must be at most {_LONGEST:g} seconds{way_out}")
