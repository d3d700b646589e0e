"""How fast two clocks drift apart: Kalman filters over the quickest probes of each burst (floats in nanoseconds)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Final

__all__ = ("DriftFilter", "RateFilter")

_WANDER: Final = 1e-8
"""Random walk of the rate, per square root of a second: quartz that warms up; Sendspin's default, too."""
_START: Final = 1e-4
"""Deviation of the rate before anything is known: 100 ppm, twice what quartz is sold with."""
_MEMORY: Final = 16
"""Measurements over which it is averaged how much more they surprise than they should."""
_BELIEVED: Final = 3.0
"""Deviations of a surprise from which on it shows that what was known is wrong."""
_LEAST_VARIANCE: Final = 1e-24
"""Below, there is nothing but rounding."""
_MIDDLE_NOISE: Final = 1 / 16
"""Part of the shortest round trip that is taken for the noise of half way between both directions."""
_WAY_NOISE: Final = 1 / 64
"""The same for one direction, whose noise is mostly learned."""
_WAY_MEMORY: Final = 8
"""Bursts over which it is learned."""
_WAY_GROWTH: Final = 4.0
"""What one burst may count for, in multiples of what is known."""
_SHARED: Final = 2.0
"""How much less three views of the same probes say than three of their own would."""


class RateFilter:
    """Follows the rate at which an offset changes; the offset changes by nothing else, and the rate walks.

    Args:
        queued: the offsets are those of one direction, and queues only add to it: what is too high counts the less,
            what is far too low shows that all before was queued.
    """

    __slots__ = (
        "_at",
        "_covariance",
        "_excess",
        "_is_begun",
        "_offset_variance",
        "_queued",
        "_variance",
        "offset",
        "rate",
    )

    def __init__(self, *, queued: bool = False) -> None:
        self._queued = queued
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self.rate = 0.0
        """Change of the offset per time, such as 30e-6."""
        self._variance = _START * _START
        self._excess = 1.0
        self.begin()

    def begin(self) -> None:
        """Forget the offset and keep the rate: a clock has stepped, it runs as fast as before."""
        self._is_begun = False
        self._at = self.offset = self._offset_variance = self._covariance = 0.0

    def take(self, at: float, offset: float, variance: float) -> None:
        """Learn a measured offset.

        Args:
            at: when, in nanoseconds; what is not later than the last one is ignored.
            offset: nanoseconds.
            variance: how far the measurement may be off, in square nanoseconds.
        """
        if not self._is_begun:
            self._is_begun = True
            self._at, self.offset, self._offset_variance = at, offset, variance
            return
        passed = at - self._at
        if passed <= 0:
            return
        self._at = at
        expected = self.offset + self.rate * passed
        offset_variance = self._offset_variance + (2 * self._covariance + self._variance * passed) * passed
        covariance = self._covariance + self._variance * passed
        self._variance += _WANDER * _WANDER * passed * 1e-9
        surprise = offset - expected
        if self._queued and surprise > 0:
            variance = max(variance, surprise * surprise)
        total = offset_variance + variance
        if self._queued and surprise < -_BELIEVED * sqrt(total):
            self.offset, self._offset_variance, self._covariance = offset, variance, 0.0
            return
        self._excess += (surprise * surprise / total - self._excess) / _MEMORY
        self.rate += covariance / total * surprise
        self.offset = expected + offset_variance / total * surprise
        self._offset_variance = offset_variance * variance / total
        self._covariance = covariance * variance / total
        self._variance = max(self._variance - covariance * covariance / total, _LEAST_VARIANCE)

    def variance(self, passed_ns: float) -> float:
        """Return how far the rate may be off, squared, so long after the last measurement."""
        return (self._variance + _WANDER * _WANDER * passed_ns * 1e-9) * max(1.0, self._excess)


class DriftFilter:
    """Follows the rate by three views of each burst: its quickest way out, its quickest way back, its quickest trip.

    One direction is often much calmer than the other, and then says most; on a bad path both say little, and the few
    trips that met no queue say more.
    """

    def __init__(self) -> None:
        self._out, self._back = RateFilter(queued=True), RateFilter(queued=True)
        self._middle = RateFilter()
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        for view in (self._out, self._back, self._middle):
            view.reset()
        self.rate = 0.0
        """How much faster the remote clock runs, such as 30e-6."""
        self._noise = [0.0, 0.0]
        self._least_trip = float("inf")

    def begin(self) -> None:
        """Forget everything but the rate: a clock has stepped."""
        for view in (self._out, self._back, self._middle):
            view.begin()
        self._least_trip = float("inf")

    def take(self, burst: Sequence[tuple[float, float, float]]) -> None:
        """Learn from a burst.

        Args:
            burst: middle of the round trip, remote minus local clock as the way out has it and as the way back has it.
        """
        trip, at, middle = min((out - back, at, (out + back) / 2) for at, out, back in burst)
        self._least_trip = least = min(self._least_trip, trip)
        queued = (trip - least) / 2
        self._middle.take(at, middle, queued * queued + (least * _MIDDLE_NOISE) ** 2)
        self._take_way(0, self._out, sorted((out, at) for at, out, _ in burst))
        self._take_way(1, self._back, sorted((-back, at) for at, _, back in burst))
        weights = [1 / view.variance(0.0) for view in (self._out, self._back, self._middle)]
        rates = (self._out.rate, -self._back.rate, self._middle.rate)
        self.rate = sum(weight * rate for weight, rate in zip(weights, rates, strict=True)) / sum(weights)

    def variance(self, passed_ns: float) -> float:
        """Return how far the rate may be off, squared, so long after the last burst."""
        return _SHARED / sum(1 / view.variance(passed_ns) for view in (self._out, self._back, self._middle))

    def _take_way(self, way: int, view: RateFilter, quickest: list[tuple[float, float]]) -> None:
        """Learn from the quickest probe of one direction; the more the third differs, the less it says."""
        offset, at = quickest[0]
        spread = max(quickest[min(2, len(quickest) - 1)][0] - offset, self._least_trip * _WAY_NOISE)
        known = self._noise[way] or spread
        self._noise[way] = known + (min(spread, _WAY_GROWTH * known) - known) / _WAY_MEMORY
        view.take(at, offset, max(spread, self._noise[way]) ** 2)
