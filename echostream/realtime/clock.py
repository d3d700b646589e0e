"""How far, and how fast, two clocks are apart: estimated from the four time stamps of probes (RFC 5905 section 8).

Every probe proves an interval: remote minus local clock is at most what the way out seems to take (t2 - t1) and at
least what the way back seems to take (t3 - t4), because no way takes less than nothing. The filter keeps the last 384
probes and takes all of them to the present by the rate that it follows (`rate.py`). The offset is half way between both
directions where each is quickest, so that a queue in one of them does not move it; the bound is what all intervals
prove together.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from math import isfinite, sqrt
from operator import index
from typing import Any, Final

from echostream.realtime.rate import DriftFilter

__all__ = ("ClockFilter", "Verdict")

_WINDOW: Final = 384
"""Probes that are kept: a minute and a half of bursts of 8 each 2 s. (256 were a fifth less exact on Wi-Fi.)"""
_TAIL: Final = 16
"""One in so many probes is taken for quick."""
_BURST_COUNT: Final = 8
_BURST_NS: Final = 60e6
"""Probes within this time are one burst."""
_LOCK_COUNT: Final = 6
"""Probes until the estimate may be used: a burst of 8 that lost two."""
_SETTLED_COUNT: Final = 16
"""Probes until the estimate itself, and not only what is proven, is held against new probes."""
_MAX_TRIP_NS: Final = 10_000_000_000
"""What took longer says nothing worth having, and may be a replay."""
_MAX_STAMP_NS: Final = 1 << 62
_STEP_NS: Final = 200e3
"""A probe that excludes the estimate by more than this did not see the same clocks."""
_STEP_COUNT: Final = 4
"""So many of them in a row are a step: half a burst."""
_SIGMAS: Final = 3.0
"""Deviations of the rate that the bound allows for."""


class Verdict(IntEnum):
    """What became of a probe."""

    IGNORED = 0
    """Stamps that cannot be, or that came before: counted, and nothing else."""
    TAKEN = 1
    HELD = 2
    """It contradicts what is known; more of them in a row are a step."""
    STEPPED = 3
    """A clock has stepped, or a machine was asleep: the filter has begun again, so probe fast."""


class ClockFilter:
    """Estimates remote minus local clock.

    Hand in each answered probe as it arrives. Read whenever you want: the work of about 0.1 ms is done at the first
    reading after a probe. Memory is fixed, about 10 KB. Times are integer nanoseconds of monotonic clocks.
    """

    def __init__(self) -> None:
        self.ignored_count = 0
        """Probes with stamps that cannot be, or that came before."""
        self.outlier_count = 0
        """Probes that contradicted the others and were left out; those that proved a step are not counted."""
        self.step_count = 0
        """Steps of a clock that were found."""
        self._epoch: int | None = None
        self._drift = DriftFilter()
        self._kept = _Probes(_WINDOW)
        self._held = _Probes(_STEP_COUNT)
        self.reset()

    def reset(self) -> None:
        """Forget everything but the counts: another clock answers."""
        self._drift.reset()
        self._last_ns = self._last_sent_ns = -_MAX_STAMP_NS
        self._begin()

    def begin_epoch(self, epoch: int) -> bool:
        """Say which process answers. Another one has another clock: the filter begins anew.

        Returns:
            Whether it did.
        """
        is_other = self._epoch is not None and epoch != self._epoch
        self._epoch = epoch
        if is_other:
            self.reset()
        return is_other

    def add(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> Verdict:
        """Take the stamps of an answered probe; impossible ones are counted and change nothing.

        Args:
            t1_ns: the probe left, local clock.
            t2_ns: the probe arrived, remote clock.
            t3_ns: the answer left, remote clock.
            t4_ns: the answer arrived, local clock.
        """
        stamps = _checked(t1_ns, t2_ns, t3_ns, t4_ns)
        if stamps is None or stamps[0] == self._last_sent_ns:
            self.ignored_count += 1
            return Verdict.IGNORED
        t1, t2, t3, t4 = stamps
        went_back = t4 < self._last_ns
        self._last_ns, self._last_sent_ns = t4, t1
        if self._kept.count == 0:
            self._base_at, self._base = t1, t2 - t1
        at = (t1 + t4 - 2 * self._base_at) / 2
        out = float(t2 - t1 - self._base)
        back = float(t3 - t4 - self._base)
        if self._kept.count and (went_back or self._contradicts(at, out, back)):
            return self._hold(at, out, back)
        self.outlier_count += self._held.count
        self._held.clear()
        self._take(at, out, back)
        return Verdict.TAKEN

    def offset_ns(self, at_ns: int) -> float:
        """Return remote minus local clock at a local time; 0 while nothing is known."""
        if self._kept.count == 0:
            return 0.0
        self._refresh()
        return self._base + (self._offset + self._drift.rate * (at_ns - self._base_at - self._ref))

    def bound_ns(self, at_ns: int) -> float:
        """Return how far `offset_ns` may be off at a local time; infinite while nothing is known."""
        if self._kept.count == 0:
            return float("inf")
        self._refresh()
        age = abs(at_ns - self._base_at - self._ref)
        return self._bound + _SIGMAS * sqrt(self._drift.variance(age)) * age

    @property
    def error_bound_ns(self) -> float:
        """How far the offset may have been off when the last probe came back; infinite while nothing is known."""
        return self.bound_ns(self._last_ns)

    @property
    def drift_ppm(self) -> float:
        """How much faster the remote clock runs."""
        return self._drift.rate * 1e6

    @property
    def locked(self) -> bool:
        """Whether there are enough probes to use the offset."""
        return self._kept.count >= _LOCK_COUNT

    @property
    def round_trip_ns(self) -> float:
        """The shortest round trip of the probes that are kept; 0 while there are none."""
        count = self._kept.count
        return min(map(float.__sub__, self._kept.out[:count], self._kept.back[:count]), default=0.0)

    @property
    def sample_count(self) -> int:
        """Probes that are kept."""
        return self._kept.count

    def _begin(self) -> None:
        """Forget the probes, and keep the rate."""
        self._kept.clear()
        self._held.clear()
        self._drift.begin()
        self._burst_count = 0
        self._burst_at = 0.0
        self._is_fresh = False

    def _contradicts(self, at: float, out: float, back: float) -> bool:
        """Whether a probe excludes what is known; the estimate is made once for a burst."""
        if self._kept.count < _SETTLED_COUNT or at - self._ref > _BURST_NS:
            self._refresh()
        age = abs(at - self._ref)
        expected = self._offset + self._drift.rate * (at - self._ref)
        spare = _STEP_NS + _SIGMAS * sqrt(self._drift.variance(age)) * age
        if self._kept.count < _SETTLED_COUNT:
            spare += self._bound
        return not back - spare <= expected <= out + spare

    def _hold(self, at: float, out: float, back: float) -> Verdict:
        """Keep a probe aside until enough of them agree: stamps made up at random never do."""
        held = self._held
        if held.count and (
            back > min(held.out[: held.count]) + _STEP_NS or out < max(held.back[: held.count]) - _STEP_NS
        ):
            self.outlier_count += held.count
            held.clear()
        held.put(at, out, back)
        if held.count < _STEP_COUNT:
            return Verdict.HELD
        self.step_count += 1
        probes = list(zip(held.at, held.out, held.back, strict=True))
        self._begin()
        for probe in probes:
            self._take(*probe)
        return Verdict.STEPPED

    def _take(self, at: float, out: float, back: float) -> None:
        if self._burst_count and at - self._burst_at > _BURST_NS:
            self._end_burst()
        if self._burst_count == 0:
            self._burst_at = at
        self._kept.put(at, out, back)
        self._is_fresh = False
        self._burst_count += 1
        if self._burst_count == _BURST_COUNT:
            self._end_burst()

    def _end_burst(self) -> None:
        self._drift.take([self._kept.recent(number) for number in range(self._burst_count)])
        self._burst_count = 0

    def _refresh(self) -> None:
        """Take all probes to the time of the last one, and find the offset and what is proven of it.

        The interval of a probe grows by what the rate may be off for its age: old ones count where they still say
        something. The offset is the mean of two estimates whose errors differ: half way between the low ends of both
        directions, and half way in the quickest trips.
        """
        if self._is_fresh:
            return
        self._is_fresh = True
        kept = self._kept
        ats = kept.at[: kept.count]
        self._ref = ref = kept.at[kept.last]
        rate = self._drift.rate
        doubt = _SIGMAS * sqrt(self._drift.variance(ref - min(ats)))
        outs = [out + (rate + doubt) * (ref - at) for at, out in zip(ats, kept.out, strict=False)]
        backs = [back + (rate - doubt) * (ref - at) for at, back in zip(ats, kept.back, strict=False)]
        tail = max(1, kept.count // _TAIL)
        quick = sorted(map(float.__sub__, outs, backs))[tail - 1]
        middles = [out + back for out, back in zip(outs, backs, strict=True) if out - back <= quick]
        outs.sort()
        backs.sort(reverse=True)
        ends = sum(outs[:tail]) + sum(backs[:tail])
        self._offset = (ends / tail + sum(middles) / len(middles)) / 4
        self._bound = max(outs[0] - self._offset, self._offset - backs[0])


class _Probes:
    """A ring of probes: middle of the round trip, and how long both ways seem to take."""

    __slots__ = ("at", "back", "count", "last", "out")

    def __init__(self, size: int) -> None:
        self.at, self.out, self.back = (array("d", bytes(8 * size)) for _ in range(3))
        self.clear()

    def clear(self) -> None:
        self.count = 0
        self.last = -1

    def put(self, at: float, out: float, back: float) -> None:
        self.last = i = (self.last + 1) % len(self.at)
        self.at[i], self.out[i], self.back[i] = at, out, back
        self.count = max(self.count, i + 1)

    def recent(self, number: int) -> tuple[float, float, float]:
        """Return the last probe (0), the one before it (1) and so on."""
        i = (self.last - number) % len(self.at)
        return self.at[i], self.out[i], self.back[i]


def _checked(*stamps: Any) -> tuple[int, ...] | None:
    """Return stamps that can be: whole numbers in the order of each clock, not all the same, not too far apart."""
    try:
        t1, t2, t3, t4 = found = tuple([stamp if type(stamp) is int else _whole(stamp) for stamp in stamps])
    except (TypeError, ValueError):
        return None
    if not -_MAX_STAMP_NS < min(found) <= max(found) < _MAX_STAMP_NS or t1 == t2 == t3 == t4:
        return None
    return found if 0 <= t3 - t2 <= t4 - t1 <= _MAX_TRIP_NS else None


def _whole(stamp: Any) -> int:
    """Return a number that is none of Python's own whole ones; refuse what is none at all.

    Raises:
        TypeError: not a number.
        ValueError: not a finite one.
    """
    if isinstance(stamp, float):
        if not isfinite(stamp):
            raise ValueError("not finite")
        return int(stamp)
    return index(stamp)
