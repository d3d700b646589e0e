"""What came on one stream with datagrams, timestamps or a policy of its own: counted, bounded, until it is read."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from echostream.errors import ConfigurationError, Status, StreamResetError
from echostream.protocol.frames import DatagramItemFrame, StreamItemFrame
from echostream.realtime import Arrival, QualityMeter, SequenceTracker

if TYPE_CHECKING:
    from echostream.session.channel import Channel
    from echostream.types import Overflow

__all__ = ("MAX_STEP", "Arrivals", "Arrived", "TimedItem")

T = TypeVar("T")

_LINGER: Final = 0.1
"""Seconds that the last datagrams have after the end of the stream, which may overtake them."""
MAX_STEP: Final = 1 << 16
"""Numbers in a row that may be missing: what a slow link dropped in minutes is loss, not a new beginning."""


@dataclass(frozen=True, slots=True)
class TimedItem(Generic[T]):
    """An item with what is known of its way."""

    sequence: int
    """Its number, from 0: items that are missing were lost, or dropped by the sender."""
    timestamp_ns: int | None
    """What the sender stamped, session time; None on a stream without."""
    arrived_ns: int
    """When it came, on the local clock."""
    item: T


@dataclass(slots=True, eq=False)
class Arrived:
    """An item that waits to be read."""

    frame: StreamItemFrame | DatagramItemFrame
    sequence: int
    arrived_ns: int


class Arrivals:
    """The items of one stream that were not read yet.

    Attributes:
        meter: counts of all that came.
        bytes: payloads of those that wait and that no credit bounds.
    """

    def __init__(self, channel: Channel, *, datagrams: bool) -> None:
        limits = channel.peer.runtime.limits
        self.meter = QualityMeter(sequence=SequenceTracker(first=0, max_step=MAX_STEP))
        self.policy: Overflow = "drop_oldest" if datagrams else "block"
        self.max_items = limits.max_queued_items
        self.bytes = 0
        self._max_bytes = limits.max_queued_item_bytes
        self._channel = channel
        self._held = channel.peer.protocol.link.held if datagrams else None
        self._items: deque[Arrived] = deque()
        self._reliable_count = 0
        self._linger: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def waiting_bytes(self) -> int:
        """Payloads of all that wait."""
        return sum(len(arrived.frame.payload) for arrived in self._items)

    # What the machine reports

    def on_item(self, frame: StreamItemFrame, arrived_ns: int) -> None:
        """An item on the transport stream: in order, and under credit."""
        sequence = self._reliable_count
        self._reliable_count += 1
        self._take_in(frame, sequence, arrived_ns)

    def on_datagram(self, frame: DatagramItemFrame, arrived_ns: int) -> None:
        """An item that came in datagrams."""
        self._take_in(frame, frame.sequence, arrived_ns)
        if self._linger is not None and not self.meter.sequence.lost:
            self._end()

    def on_ended(self) -> bool:
        """The other side sends no more; return whether all has come: else `Channel.all_came` follows soon."""
        stream = self._channel.stream
        if stream is not None and stream.datagrams is not None and stream.datagrams.remote_items is not None:
            self.meter.ended(stream.datagrams.remote_items + self._reliable_count)
            if self.meter.sequence.lost:
                self._linger = self._channel.peer.runtime.loop.call_later(_LINGER, self._end)
        return self._linger is None

    def stop(self) -> None:
        """Nothing more comes; what was not read still can be, and belongs to whoever reads it."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._held is not None:
            self._held.add(-self.bytes)
            self._held = None

    # For who reads

    @property
    def first(self) -> Arrived | None:
        """The item that waits longest."""
        return self._items[0] if self._items else None

    def take(self) -> Arrived | None:
        """Return the item that waits longest, and forget it."""
        if not self._items:
            return None
        arrived = self._items.popleft()
        self._release(arrived.frame)
        return arrived

    def set_policy(self, policy: Overflow, max_items: int | None) -> None:
        """Choose what happens to items above `max_items`.

        Raises:
            ConfigurationError: nothing holds up who sends in datagrams.
        """
        if policy == "block" and self._held is not None:
            raise ConfigurationError(
                "policy", "'block' cannot be for items in datagrams, whose sender does not wait: choose what to drop"
            )
        self.policy = policy
        self.max_items = max_items or self.max_items

    # Inside

    def _take_in(self, frame: StreamItemFrame | DatagramItemFrame, number: int, arrived_ns: int) -> None:
        self._count(frame, len(frame.payload))
        found, sequence = self.meter.arrived(
            number, frame.timestamp_ns, self._measured(frame, arrived_ns), len(frame.payload)
        )
        if found >= Arrival.DUPLICATE:
            self._release(frame)
            return
        self._items.append(Arrived(frame, sequence, arrived_ns))
        if self.policy != "block":
            self._keep_bounds()

    def _measured(self, frame: StreamItemFrame | DatagramItemFrame, arrived_ns: int) -> int:
        """Return the arrival on the clock of the timestamps, from the moment on that it is known."""
        session, meter = self._channel.session, self.meter
        if not meter.synchronised:  # its clock begins to run when it is read: not for items without timestamps
            if frame.timestamp_ns is None or not session.clock.locked:
                return arrived_ns
            meter.synchronised = True
        return session.clock.to_session_ns(arrived_ns)

    def _keep_bounds(self) -> None:
        while len(self._items) > 1 and self._is_full():
            if self.policy == "disconnect":
                text = f"{len(self._items)} items wait to be read: the reader is too slow"
                self._channel.reset(StreamResetError(text, code=Status.RESOURCE_EXHAUSTED))
                return
            dropped = self._items.pop() if self.policy == "drop_newest" else self._items.popleft()
            self._release(dropped.frame)
            self.meter.dropped += 1

    def _is_full(self) -> bool:
        too_many = len(self._items) > self.max_items or self.bytes > self._max_bytes
        return too_many or (self._held is not None and self._held.full)

    def _release(self, frame: StreamItemFrame | DatagramItemFrame) -> None:
        """Somebody took it, or it was dropped: it holds nothing any more."""
        self._count(frame, -len(frame.payload))
        channel = self._channel
        if isinstance(frame, StreamItemFrame) and channel.stream is not None:
            channel.peer.protocol.streams.item_consumed(channel.stream, len(frame.payload))
            channel.peer.touch()

    def _count(self, frame: StreamItemFrame | DatagramItemFrame, size: int) -> None:
        if isinstance(frame, DatagramItemFrame):  # else credit counts it, and bounds it
            self.bytes += size
            if self._held is not None:
                self._held.add(size)

    def _end(self) -> None:
        self._linger = None
        self._channel.all_came()
