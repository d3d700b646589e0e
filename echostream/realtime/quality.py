"""Quality of a received stream: exact counts, and estimates of the last ten seconds.

`QualityMeter` sees every arrival; `StreamQuality` is what it tells. A jitter buffer adds what became of the items.
Estimates go back ten whole seconds and the one that has begun.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from echostream.realtime.sequence import Arrival, SequenceTracker

__all__ = ("QualityMeter", "StreamQuality")

SECOND_NS: Final = 1_000_000_000
WINDOW_SECONDS: Final = 10
_NEVER: Final = -(1 << 70)
"""Before any second."""
_PLAUSIBLE_NS: Final = 60 * SECOND_NS
"""Delays that differ by more come from a timestamp or a clock that jumped, and say nothing about the network."""


@dataclass(frozen=True, slots=True)
class StreamQuality:
    """How a received stream does. Counts are exact, from its beginning; estimates are of the last ten seconds."""

    received: int = 0
    """Different items that arrived."""
    received_bytes: int = 0
    lost: int = 0
    """Items that were sent before the newest and have not arrived."""
    lost_for_good: int = 0
    """Those of them that were not just overtaken: where `lost` falls again when one is only late, this rises."""
    duplicated: int = 0
    """Arrivals of an item that was there before."""
    reordered: int = 0
    """Items that arrived after a later one."""
    strays: int = 0
    """Items dropped because their sequence number was far from all others."""
    restarts: int = 0
    """Times that the sequence began anew."""
    late: int = 0
    """Items that arrived after their turn and were dropped."""
    dropped: int = 0
    """Items that arrived and were dropped because nobody took them in time or there was no room."""
    bad_timestamps: int = 0
    """Timestamps that were not believed."""
    invalid: int = 0
    """Items refused because a field was no number."""
    played: int = 0
    concealed: int = 0
    """Frames that were missing in their turn and handed out as gaps."""
    skipped: int = 0
    """Frames that were missing in their turn and left out, because too many were."""
    state: str = ""
    """Of the jitter buffer: PRIMING, PLAYING, CONCEALING, REBUFFER; empty without one."""
    buffered: int = 0
    """Items that wait for their turn."""
    buffered_bytes: int = 0
    buffered_ns: int = 0
    """Media time from the next frame to the end of the newest that waits."""
    target_delay_ns: int = 0
    """How long an item should wait that came as fast as any."""
    playout_delay_ns: int = 0
    """From timestamp to turn."""
    wanted_latency_ns: int = 0
    """The least latency that would do for a group, by what this receiver sees."""
    jitter_ns: float = 0.0
    """Interarrival jitter, RFC 3550 section 6.4.1: smoothed over the last sixteen items."""
    mean_jitter_ns: float = 0.0
    """Mean difference of the delays of neighbours."""
    jitter_p95_ns: int = 0
    """What 95 % of the delays stay below, counted from the least; only with a jitter buffer."""
    latency_ns: float | None = None
    """One way, from timestamp to arrival, mean; None where timestamps and arrivals are not of one clock."""
    latency_min_ns: int | None = None
    latency_max_ns: int | None = None
    bytes_per_second: float = 0.0
    items_per_second: float = 0.0


@dataclass(slots=True)
class _Second:
    """What arrived in one second."""

    number: int
    begun_ns: int
    items: int = 0
    size_bytes: int = 0
    pairs: int = 0
    jitter_ns: int = 0
    timed: int = 0
    latency_ns: int = 0
    latency_min_ns: int = _PLAUSIBLE_NS
    latency_max_ns: int = -_PLAUSIBLE_NS


class QualityMeter:
    """Counts the arrivals of one stream.

    Attributes:
        sequence: what the numbers tell.
        late, dropped, invalid: counted where the items are dropped or refused.
        jitter_ns: as of the last arrival.
    """

    __slots__ = (
        "_earlier_bytes", "_second", "_seconds", "_synchronised", "_transit_ns", "dropped", "invalid", "jitter_ns",
        "late", "sequence",
    )  # fmt: skip

    def __init__(self, sequence: SequenceTracker | None = None) -> None:
        self.sequence = sequence or SequenceTracker()
        self.late = self.dropped = self.invalid = 0
        self.jitter_ns = 0.0
        self._synchronised = False
        self._transit_ns: int | None = None
        self._earlier_bytes = 0  # of the items before this second
        self._second = _Second(_NEVER, 0)
        self._seconds: deque[_Second] = deque(maxlen=WINDOW_SECONDS + 1)

    @property
    def synchronised(self) -> bool:
        """Whether timestamps and arrivals are of one clock, as when the session's is locked: then latency is told."""
        return self._synchronised

    @synchronised.setter
    def synchronised(self, synchronised: bool) -> None:
        if synchronised is not self._synchronised:
            self._synchronised = synchronised
            # Arrivals are told on another clock from now on: what was told on the former one cannot be compared.
            self._transit_ns = None
            self._earlier_bytes += self._second.size_bytes
            self._second = _Second(_NEVER, 0)
            self._seconds.clear()

    def arrived(
        self, sequence: int, timestamp_ns: int | None, arrival_ns: int, size_bytes: int = 0
    ) -> tuple[Arrival, int]:
        """Count an arrival.

        Args:
            sequence: as it came, wrapping.
            timestamp_ns: what the sender stamped, None for items without.
            arrival_ns: when it came, on a clock that never goes back.
            size_bytes: of the item.

        Returns:
            What its number says about it, and its index (the number unwrapped): `SequenceTracker.arrived`.
        """
        found = self.sequence.arrived(sequence)
        if found[0] >= Arrival.DUPLICATE:
            return found
        number = arrival_ns // SECOND_NS
        second = self._second
        if number > second.number:
            self._earlier_bytes += second.size_bytes
            second = self._second = _Second(number, arrival_ns)
            self._seconds.append(second)
        second.items += 1
        second.size_bytes += size_bytes
        if timestamp_ns is not None:
            self._timed(second, arrival_ns - timestamp_ns)
        return found

    def _timed(self, second: _Second, transit_ns: int) -> None:
        before = self._transit_ns
        self._transit_ns = transit_ns
        if before is not None:
            difference_ns = abs(transit_ns - before)
            if difference_ns < _PLAUSIBLE_NS:
                self.jitter_ns += (difference_ns - self.jitter_ns) / 16
                second.pairs += 1
                second.jitter_ns += difference_ns
        if self._synchronised and -_PLAUSIBLE_NS < transit_ns < _PLAUSIBLE_NS:
            second.timed += 1
            second.latency_ns += transit_ns
            second.latency_min_ns = min(second.latency_min_ns, transit_ns)
            second.latency_max_ns = max(second.latency_max_ns, transit_ns)

    def ended(self, sent_count: int) -> None:
        """The sender says how many items it sent in all: from now on `lost` is exact at both ends."""
        self.sequence.ended(sent_count)

    def snapshot(self, now_ns: int) -> StreamQuality:
        """Tell how the stream does at an instant of the clock of the arrivals."""
        oldest = now_ns // SECOND_NS - WINDOW_SECONDS
        recent = [second for second in self._seconds if second.number >= oldest]
        items = sum(second.items for second in recent)
        pairs = sum(second.pairs for second in recent)
        timed = sum(second.timed for second in recent)
        seconds = max(SECOND_NS, now_ns - recent[0].begun_ns) / SECOND_NS if recent else 1.0
        sequence = self.sequence
        return StreamQuality(
            received=sequence.received,
            received_bytes=self._earlier_bytes + self._second.size_bytes,
            lost=sequence.lost,
            lost_for_good=sequence.lost_for_good,
            duplicated=sequence.duplicated,
            reordered=sequence.reordered,
            strays=sequence.strays,
            restarts=sequence.restarts,
            late=self.late,
            dropped=self.dropped,
            invalid=self.invalid,
            jitter_ns=self.jitter_ns,
            mean_jitter_ns=sum(second.jitter_ns for second in recent) / pairs if pairs else 0.0,
            latency_ns=sum(second.latency_ns for second in recent) / timed if timed else None,
            latency_min_ns=min(second.latency_min_ns for second in recent) if timed else None,
            latency_max_ns=max(second.latency_max_ns for second in recent) if timed else None,
            bytes_per_second=sum(second.size_bytes for second in recent) / seconds,
            items_per_second=items / seconds,
        )
