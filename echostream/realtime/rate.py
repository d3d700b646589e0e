"""How fast two clocks drift apart: a Kalman filter of offset and rate (no I/O, floats in nanoseconds)."""

from __future__ import annotations

from typing import Final

__all__ = ("RateFilter",)

_WANDER: Final = 1e-8
"""Random walk of the rate, per square root of a second: quartz that warms up; Sendspin's default, too."""
_START: Final = 1e-4
"""Deviation of the rate before anything is known: 100 ppm, twice what quartz is sold with."""
_MEMORY: Final = 16
"""Measurements over which it is averaged how much more they surprise than they should."""
_LEAST_VARIANCE: Final = 1e-24
"""Below, there is nothing but rounding."""


class RateFilter:
    """Follows the rate at which an offset changes.

    The offset has no process noise of its own: it changes by the rate alone, and the rate walks.
    """

    __slots__ = ("_at", "_covariance", "_excess", "_is_begun", "_offset", "_offset_variance", "_variance", "rate")

    def __init__(self) -> None:
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
        self._at = self._offset = self._offset_variance = self._covariance = 0.0

    def take(self, at: float, offset: float, variance: float) -> None:
        """Learn a measured offset.

        Args:
            at: when, in nanoseconds; what is not later than the last one is ignored.
            offset: nanoseconds.
            variance: how far the measurement may be off, in square nanoseconds.
        """
        if not self._is_begun:
            self._is_begun = True
            self._at, self._offset, self._offset_variance = at, offset, variance
            return
        passed = at - self._at
        if passed <= 0:
            return
        self._at = at
        expected = self._offset + self.rate * passed
        offset_variance = self._offset_variance + (2 * self._covariance + self._variance * passed) * passed
        covariance = self._covariance + self._variance * passed
        total = offset_variance + variance
        surprise = offset - expected
        self._excess += (surprise * surprise / total - self._excess) / _MEMORY
        self.rate += covariance / total * surprise
        self._offset = expected + offset_variance / total * surprise
        self._offset_variance = offset_variance * variance / total
        self._covariance = covariance * variance / total
        self._variance = max(
            self._variance + _WANDER * _WANDER * passed * 1e-9 - covariance * covariance / total, _LEAST_VARIANCE
        )

    def variance(self, passed_ns: float) -> float:
        """Return how far the rate may be off, squared, so long after the last measurement."""
        return (self._variance + _WANDER * _WANDER * passed_ns * 1e-9) * max(1.0, self._excess)
