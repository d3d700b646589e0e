"""Items in step with the session's clock: through a jitter buffer, each handed out when it is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from echostream.config import checked_seconds
from echostream.realtime import JitterBuffer, Played
from echostream.session.arrivals import TimedItem

if TYPE_CHECKING:
    from echostream.binding import TypeCodec
    from echostream.session.channel import Channel

__all__ = ("Aligner",)

_PLAIN: Final = (b"\0", b"\1")
"""What stands before a payload in the buffer: whether it is msgpack, or bytes as they are."""
_LATE_NS: Final = 5_000_000
"""How long past its turn an item is waited for; its reader is no device."""
_SMOOTHING: Final = 1 / 16


class Aligner:
    """The jitter buffer of one stream and its reader."""

    def __init__(self, channel: Channel, *, frame: float, latency: float | None) -> None:
        """Make one.

        Args:
            channel: of a stream with timestamps.
            frame: seconds from one item to the next, as a rule.
            latency: seconds from an item's timestamp to its turn; None for as little as the network allows.

        Raises:
            ConfigurationError: a duration is not above 0.
            LocalProtocolError: the stream has no timestamps.
        """
        checked_seconds("frame", frame)
        if latency is not None:
            checked_seconds("latency", latency, ", or None to adapt")
        channel.check_timed()
        self.wishes = (frame, latency)
        """What it was made with."""
        self.buffer = JitterBuffer(
            max(1, round(frame * 1e9)),
            latency_ns=None if latency is None else max(1, round(latency * 1e9)),
            late_ns=_LATE_NS,
        )
        self.skew_ns: float | None = None
        """How long after their turn items were handed out, smoothed; None before the first."""
        self._channel = channel
        self._arrivals = channel.require_arrivals()

    async def next(self, codec: TypeCodec | None) -> TimedItem[Any]:
        """Return the next item when it is due; raise StopAsyncIteration after the last."""
        channel, clock = self._channel, self._channel.session.clock
        if not clock.locked:
            await clock.wait_locked()
        while True:
            self._fill()
            now_ns = clock.now_ns()
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

    def _fill(self) -> None:
        clock = self._channel.session.clock
        while (arrived := self._arrivals.take()) is not None:
            frame = arrived.frame
            if frame.timestamp_ns is not None:
                payload = _PLAIN[frame.raw] + frame.payload
                self.buffer.push(arrived.sequence, frame.timestamp_ns, clock.to_session_ns(arrived.arrived_ns), payload)

    async def _changed_or_due(self, seconds: float) -> None:
        timer = self._channel.peer.runtime.loop.call_later(max(0.0, seconds), self._channel.wake)
        try:
            await self._channel.changed()
        finally:
            timer.cancel()

    def _note_skew(self, skew_ns: int) -> None:
        before = self.skew_ns
        self.skew_ns = skew_ns if before is None else before + (skew_ns - before) * _SMOOTHING
