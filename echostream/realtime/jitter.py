"""The jitter buffer: items in any order in, items in step out, and a gap where one is missing.

It owns when an item is played and what counts as late. It must not conceal: what a gap sounds like is the caller's.
Numbers, delays, timestamps and counts are kept by `sequence`, `delay`, `timeline` and `quality`.

The places of what comes later: recovery (FEC, retransmission) asks `missing` and pushes what it recovers, before the
turn of the item; concealment takes a `Gap` and the items on either side of it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import Final

from echostream.realtime.delay import START_NS, DelayHistogram, DelayTarget
from echostream.realtime.quality import QualityMeter, StreamQuality
from echostream.realtime.sequence import Arrival
from echostream.realtime.timeline import SLACK_NS, Timeline
from echostream.realtime.waiting import LATER, NEVER, Gap, Played, Waiting

__all__ = ("Fate", "JitterBuffer", "State")

MAX_DELAY_NS: Final = 500_000_000
"""The adaptive delay grows no further: who talks to each other stops understanding before."""
REBUFFER_NS: Final = 200_000_000
"""After so much that is missing in a row no more gaps are given, and the delay may move at once."""
CAPACITY_BYTES: Final = 16 * 1024 * 1024
_LEAST_CAPACITY: Final = 64
_MOST_CAPACITY: Final = 4096
_REORDER_MARGIN: Final = 1.5


class State(IntEnum):
    """What a jitter buffer does."""

    PRIMING = 0
    """Nothing was played yet, or again after a flush: it waits for the first turn."""
    PLAYING = 1
    CONCEALING = 2
    """The last frame was missing."""
    REBUFFER = 3
    """Too many in a row were: it waits for the next turn that has an item."""


_SILENT: Final = frozenset((State.PRIMING, State.REBUFFER))


class Fate(IntEnum):
    """What became of a pushed item."""

    QUEUED = 0
    LATE = 1
    """Its turn was over."""
    DUPLICATE = 2
    STRAY = 3
    """Its number is far from all others; believed when the next one follows it."""
    INVALID = 4
    """A field was no number."""


class JitterBuffer:
    """Puts the items of one stream in order and in time.

    Adaptive, unless `latency_ns` is given: an item has its turn `playout_delay_ns` after its timestamp, the least delay
    of late plus `target_delay_ns`. `arrival_ns` and `now_ns` are of one clock, timestamps of any that goes as fast.

    Group mode, with `latency_ns`: its turn is exactly `latency_ns` after its timestamp, for every receiver. All three
    are of one clock, the session's. The estimate then only tells what latency would do: `wanted_latency_ns`.

    Memory is bounded by `capacity` and `capacity_bytes`; above it the oldest item goes. Who can hold back what comes
    asks `waiting.has_room` before.
    """

    __slots__ = (
        "_capacity", "_concealed", "_frame_ns", "_last", "_late_ns", "_latency_ns", "_margin_ns", "_now_ns", "_paused",
        "_played", "_position_ns", "_rebuffer_ns", "_reorder", "_reorder_ns", "_run", "_skipped", "_timeline", "delay",
        "meter", "state", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        frame_ns: int,
        *,
        latency_ns: int | None = None,
        margin_ns: int = 0,
        min_delay_ns: int | None = None,
        max_delay_ns: int = MAX_DELAY_NS,
        start_delay_ns: int = START_NS,
        late_ns: int = 0,
        rebuffer_ns: int = REBUFFER_NS,
        capacity: int | None = None,
        capacity_bytes: int = CAPACITY_BYTES,
        meter: QualityMeter | None = None,
    ) -> None:
        """Make one.

        Args:
            frame_ns: how long an item lasts.
            latency_ns: from timestamp to turn, the same for all of a group; None to adapt.
            margin_ns: how long before its turn an item is handed out, for decoding and the device.
            min_delay_ns: least target of an adaptive one; a frame by default.
            max_delay_ns: greatest target.
            start_delay_ns: least target while little is known.
            late_ns: how long past its turn an item is waited for while it may still come, a frame at most; for a caller
                who can wait. A device cannot: it gets an item or a gap whenever it asks for a frame.
            rebuffer_ns: how long to conceal before giving up, and how far behind a caller may be.
            capacity: items that may wait; by default what twice the latency or the greatest delay needs.
            capacity_bytes: payload that may wait.
            meter: counts to go on with; its own by default.

        Raises:
            ValueError: a duration or a capacity is not above zero.
        """
        if frame_ns <= 0:
            raise ValueError(f"frame_ns is {frame_ns}, at least 1 is needed: how long an item lasts")
        if max_delay_ns <= 0:
            raise ValueError(f"a delay of {max_delay_ns} ns: latency_ns and max_delay_ns are above 0")
        if (capacity is not None and capacity <= 0) or capacity_bytes <= 0:
            raise ValueError(f"room for {capacity} items and {capacity_bytes} bytes: both are above 0")
        self._frame_ns = frame_ns
        self._margin_ns = margin_ns
        self._late_ns = min(late_ns, frame_ns)
        self._rebuffer_ns = rebuffer_ns
        self._capacity = capacity
        self.waiting = Waiting(capacity or _LEAST_CAPACITY, capacity_bytes)
        self.meter = meter or QualityMeter()
        self.delay = DelayTarget(
            min_ns=frame_ns if min_delay_ns is None else min_delay_ns, max_ns=max_delay_ns, start_ns=start_delay_ns
        )
        self._timeline = Timeline(frame_ns)
        self.latency_ns = latency_ns
        self._reorder = DelayHistogram(max_delay_ns)
        self._reorder_ns = 0  # how long a missing item is given to come out of order
        self._last = NEVER  # what has this index or a lower one is over
        self._position_ns = NEVER  # media time: the end of what was handed out
        self._now_ns = 0  # the latest instant known
        self._run = 0  # gaps since the last item
        self._paused = False
        self.state = State.PRIMING
        self._played = self._concealed = self._skipped = 0

    def __repr__(self) -> str:
        return (
            f"<JitterBuffer {self.state.name}, {len(self.waiting)} items, delay {self.playout_delay_ns / 1e6:.1f} ms>"
        )

    def __len__(self) -> int:
        """How many items wait."""
        return len(self.waiting)

    # what it does about time

    @property
    def target_delay_ns(self) -> int:
        """How long an item should wait that came as fast as any."""
        return self.delay.target_ns

    @property
    def playout_delay_ns(self) -> int:
        """From timestamp to turn."""
        return self.delay.delay_ns if self._latency_ns is None else self._latency_ns

    @property
    def latency_ns(self) -> int | None:
        """The latency of the group, None when adaptive. Set it to move the whole group at once; the room follows.

        Raises:
            ValueError: it is set below 0.
        """
        return self._latency_ns

    @latency_ns.setter
    def latency_ns(self, latency_ns: int | None) -> None:
        if latency_ns is not None and latency_ns < 0:
            raise ValueError(f"a delay of {latency_ns} ns: latency_ns and max_delay_ns are above 0")
        self._latency_ns = latency_ns
        self._timeline.early_ns = max(SLACK_NS, 2 * (latency_ns or 0))  # as much as there is room
        if self._capacity is None:
            items = 2 * (latency_ns or self.delay.max_ns) // self._frame_ns
            self.waiting.capacity = min(max(_LEAST_CAPACITY, items), _MOST_CAPACITY)

    @property
    def wanted_latency_ns(self) -> int:
        """The least latency that would do for a group, by what this receiver sees."""
        return self.delay.base_ns + self.delay.target_ns + self._margin_ns

    # in

    def push(self, seq: int, timestamp_ns: int, arrival_ns: int, payload: bytes) -> Fate:
        """Take an item that arrived.

        Args:
            seq: its number as sent, 32 bits that wrap.
            timestamp_ns: when it was made, on the sender's clock or the session's.
            arrival_ns: when it came.
            payload: handed out again as it is.
        """
        if not type(seq) is type(timestamp_ns) is type(arrival_ns) is int:
            try:
                seq, timestamp_ns, arrival_ns = int(seq), int(timestamp_ns), int(arrival_ns)
            except (OverflowError, TypeError, ValueError):  # infinite, no number, not a number
                self.meter.invalid += 1
                return Fate.INVALID
        self._now_ns = max(self._now_ns, arrival_ns)
        found, index = self.meter.arrived(seq, timestamp_ns, arrival_ns, len(payload))
        if found >= Arrival.DUPLICATE:
            return Fate.DUPLICATE if found is Arrival.DUPLICATE else Fate.STRAY
        if found is Arrival.RESTARTED:
            self._timeline.restart()
            self._begin_anew(index - 1)
        timestamp_ns = self._timeline.believe(index, timestamp_ns, arrival_ns)
        if self._timeline.moved:
            self._begin_anew(index - 1)
        self.delay.add(arrival_ns - timestamp_ns, arrival_ns)
        if found is Arrival.REORDERED:
            self._reorder.add(max(0, self.delay.relative_ns - self._frame_ns))
            self._reorder_ns = int(_REORDER_MARGIN * self._reorder.quantile_ns(0.95))
        if self._is_over(index, timestamp_ns, arrival_ns):
            self.meter.late += 1
            return Fate.LATE
        self.waiting.put(Played(index, timestamp_ns, arrival_ns, payload))
        while self.waiting.is_overfull:
            self._drop()
        return Fate.QUEUED

    def _is_over(self, index: int, timestamp_ns: int, arrival_ns: int) -> bool:
        """Whether the turn of an item is over: its place was handed out, or nothing is and it would be late."""
        if index <= self._last:
            return True
        if self.state in _SILENT:
            return arrival_ns > self._turn_ns(timestamp_ns) + self._late_ns
        return timestamp_ns + self._frame_ns // 2 < self._position_ns

    # out

    def pop(self, now_ns: int) -> Played | Gap | None:
        """Return what has its turn: an item, a gap to conceal, or None for nothing yet.

        Call it once a frame, or when `next_ns` says, until it returns None.
        """
        self._now_ns = max(self._now_ns, now_ns)
        if self._paused or self.state in _SILENT:
            self._catch_up(now_ns)
        when_ns, is_gap = self._upcoming(now_ns)
        if when_ns is not None and now_ns - when_ns > self._rebuffer_ns:  # the caller was away
            self._rebuffer()
            self._catch_up(now_ns)
            when_ns, is_gap = self._upcoming(now_ns)
        if when_ns is None or now_ns < when_ns:
            return None
        return self._conceal() if is_gap else self._play()

    def next_ns(self, now_ns: int) -> int | None:
        """Return when `pop` has something to give, now or later, if nothing arrives before; None if it never has."""
        when_ns = self._upcoming(now_ns)[0]
        return None if when_ns is None else max(when_ns, now_ns)

    def missing(self, now_ns: int) -> list[int]:
        """Return the indices that are lost by proof and whose turn is still to come: what recovery should ask for.

        Lost is what three later items overtook, once one and a half times the usual reordering has passed.
        """
        return self.waiting.missing(self._last, now_ns - self._reorder_ns)

    def _turn_ns(self, timestamp_ns: int) -> int:
        return timestamp_ns + self.playout_delay_ns - self._margin_ns

    def _upcoming(self, now_ns: int) -> tuple[int | None, bool]:
        """Return when something has its turn, and whether that is a gap."""
        if self._paused:
            return None, False
        item = self.waiting.first
        if self.state in _SILENT:
            return (None if item is None else self._turn_ns(item.timestamp_ns)), False
        gap_ns = self._turn_ns(self._position_ns)
        if item is None:
            return gap_ns + self._late_ns, True
        if item.index - self._last - 1 > self._run and item.timestamp_ns - self._position_ns > self._frame_ns // 2:
            is_proved = len(self.waiting) >= LATER and now_ns - item.arrival_ns >= self._reorder_ns
            return (gap_ns if is_proved else gap_ns + self._late_ns), True
        return self._turn_ns(item.timestamp_ns), False

    def _play(self) -> Played:
        item = self.waiting.take()
        if self._last != NEVER:
            missing = item.index - self._last - 1
            concealed = min(missing, self._run)  # other gaps were a pause of the sender: nothing was missing
            self._concealed += concealed
            self._skipped += missing - concealed
        self._run = 0
        self._last = item.index
        self._position_ns = item.timestamp_ns + self._frame_ns
        self._played += 1
        self.state = State.PLAYING
        self.delay.free = False
        item.play_at_ns = item.timestamp_ns + self.playout_delay_ns
        return item

    def _conceal(self) -> Gap | None:
        if self._run * self._frame_ns >= self._rebuffer_ns:
            self._rebuffer()
            return None
        at_ns = self._position_ns
        self._position_ns = at_ns + self._frame_ns
        self._run += 1
        self.state = State.CONCEALING
        return Gap(self._last + self._run, at_ns, self._frame_ns, at_ns + self.playout_delay_ns)

    def _rebuffer(self) -> None:
        """Begin anew with the next item that is in time: what is silent anyway costs nothing to move."""
        self.state = State.REBUFFER
        self.delay.free = True
        if not self.waiting:
            self.delay.restart()

    def _catch_up(self, now_ns: int) -> None:
        """Drop what should have been played: all but the item whose time is now, or at first what is far behind."""
        is_first = self.state is State.PRIMING and not self._paused
        over_ns = now_ns - (self._rebuffer_ns if is_first else self._frame_ns)
        while (item := self.waiting.first) is not None and self._turn_ns(item.timestamp_ns) <= over_ns:
            self._drop()

    def _drop(self) -> None:
        item = self.waiting.take()
        self.meter.dropped += 1
        if self._paused:
            self._last = item.index  # nobody misses it

    # control

    def pause(self) -> None:
        """Give nothing until `resume`; what has its turn meanwhile is dropped, so that memory and delay stay."""
        self._paused = True

    def resume(self) -> None:
        """Go on with what has its turn now."""
        self._catch_up(self._now_ns)
        self._paused = False
        self._begin(self._last)

    def flush(self) -> None:
        """Drop what waits, and what comes late of it, as for a seek."""
        newest = self.meter.sequence.highest
        self._drop_all()
        self._begin(NEVER if newest is None else newest)

    def restart(self) -> None:
        """Begin with a new stream, of any numbers and timestamps; counts go on."""
        self.meter.sequence.restart()
        self._timeline.restart()
        self._begin_anew(NEVER)

    def _begin(self, last: int) -> None:
        """Wait for the first turn of what comes after an index."""
        self.state = State.PRIMING
        self.delay.free = True
        self._last = last
        self._position_ns = NEVER
        self._run = 0

    def _begin_anew(self, last: int) -> None:
        self._drop_all()
        self.delay.restart()
        self._begin(last)

    def _drop_all(self) -> None:
        self.meter.dropped += len(self.waiting)
        self.waiting.clear()

    # what it tells

    def stats(self) -> StreamQuality:
        """Tell counts, what waits and how long, as of the latest instant it was told."""
        return replace(
            self.meter.snapshot(self._now_ns),
            bad_timestamps=self._timeline.bad,
            played=self._played,
            concealed=self._concealed,
            skipped=self._skipped,
            state=self.state.name,
            buffered=len(self.waiting),
            buffered_bytes=self.waiting.size_bytes,
            buffered_ns=self.waiting.span_ns + self._frame_ns if self.waiting else 0,
            target_delay_ns=self.target_delay_ns,
            playout_delay_ns=self.playout_delay_ns,
            wanted_latency_ns=self.wanted_latency_ns,
            jitter_p95_ns=self.delay.quantile_ns(0.95),
        )
