"""What others do with the same samples: filters after their published descriptions, in our own words.

- Snapcast: the median of the last 200 offsets; it has no notion of drift (client/time_provider).
- Sendspin: a Kalman filter of offset and drift over the quickest of 8 probes; the drift is used where it is twice its
  own deviation (Sendspin/time-filter, its defaults).
- chrony: a straight line through the last 64 of the quickest of 8 probes, weighted by the square of the distance above
  the least one (sourcestats).

A candidate for our own filter is measured beside them, for the JSON only: the same line, weighted by the fourth power.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final, Protocol

from benches.realtime.clocks import Sample

__all__ = ("ANCHORS", "CANDIDATES", "Anchor", "ChronyRegression", "SendspinKalman", "SnapcastMedian")


_LAST_INDEX: Final = 7
"""Of a whole burst: its best can be used at once, and not only when the next one begins."""


class Anchor(Protocol):
    """A filter that gets the samples ours gets."""

    def add(self, sample: Sample) -> None: ...

    def offset_ns(self, at_ns: int) -> float: ...


class SnapcastMedian:
    """The median of the last offsets, each probe counted: four times as many a second as Snapcast itself sends."""

    _COUNT: Final = 200

    def __init__(self) -> None:
        self._last: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, sample: Sample) -> None:
        offset = _offset(sample)
        self._last.append(offset)
        insort(self._sorted, offset)
        if len(self._last) > self._COUNT:
            del self._sorted[bisect_left(self._sorted, self._last.popleft())]

    def offset_ns(self, at_ns: int) -> float:
        return self._sorted[len(self._sorted) // 2] if self._sorted else 0.0


class _BestOfBurst:
    """Keeps the quickest probe of each burst and hands it on when the burst is over."""

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._best: Sample | None = None
        self._taken = -1

    def add(self, sample: Sample) -> None:
        best = self._best
        if best is None or sample.burst == best.burst:
            if best is None or _trip(sample) < _trip(best):
                self._best = sample
        elif sample.burst > best.burst:
            self._hand_on(best)
            self._best = sample
        else:
            return
        if sample.index == _LAST_INDEX and self._best is not None:
            self._hand_on(self._best)

    def _hand_on(self, best: Sample) -> None:
        if best.burst > self._taken:
            self._taken = best.burst
            if best.burst % self._every == 0:
                self.take(best)

    def take(self, sample: Sample) -> None:
        raise NotImplementedError


class SendspinKalman(_BestOfBurst):
    """Offset and drift in microseconds; see the description of the module.

    Args:
        every: use only one in so many bursts: 5 is Sendspin's own pace, a burst each 10 s.
    """

    _DRIFT_PROCESS: Final = 1e-22
    """Variance of the drift per microsecond."""
    _SIGNIFICANT: Final = 2.0
    _SCALE: Final = 0.5
    """Of half a round trip, to get a deviation."""
    _CUTOFF: Final = 3.0
    _FORGET: Final = 2.0
    _FORGET_FROM: Final = 100

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self._count = 0
        self._at = self._base = 0.0
        self._offset = self._drift = 0.0
        self._p00 = self._p01 = self._p11 = 0.0

    def take(self, sample: Sample) -> None:
        at, measured, limit = sample.t4 / 1e3, _offset(sample) / 1e3, _trip(sample) / 2e3
        noise = (limit * self._SCALE) ** 2
        self._count += 1
        passed = at - self._at
        self._at = at
        if self._count == 1:
            self._base = measured
            self._p00 = noise
            return
        measured -= self._base
        if self._count == 2:
            self._drift = (measured - self._offset) / passed
            self._offset = measured
            self._p11 = (self._p00 + noise) / passed**2
            self._p01 = noise / passed
            self._p00 = noise
            return
        offset = self._offset + self._drift * passed
        p00 = self._p00 + 2 * self._p01 * passed + self._p11 * passed**2
        p01 = self._p01 + self._p11 * passed
        p11 = self._p11 + self._DRIFT_PROCESS * passed
        innovation = measured - offset
        if self._count > self._FORGET_FROM and abs(innovation) > self._CUTOFF * limit:
            p00, p01, p11 = (p * self._FORGET**2 for p in (p00, p01, p11))
        gain, drift_gain = p00 / (p00 + noise), p01 / (p00 + noise)
        self._offset = offset + gain * innovation
        self._drift += drift_gain * innovation
        self._p00, self._p01, self._p11 = p00 - gain * p00, p01 - drift_gain * p00, p11 - drift_gain * p01

    def offset_ns(self, at_ns: int) -> float:
        drift = self._drift if self._drift**2 > self._SIGNIFICANT**2 * self._p11 else 0.0
        return (self._base + self._offset + drift * (at_ns / 1e3 - self._at)) * 1e3


class ChronyRegression(_BestOfBurst):
    """A weighted straight line through the last 64; see the description of the module.

    Args:
        power: of the weight.
    """

    _COUNT: Final = 64

    def __init__(self, power: int = 2) -> None:
        super().__init__()
        self._power = power
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=self._COUNT)
        self._line: tuple[float, float, float] | None = None

    def take(self, sample: Sample) -> None:
        self._samples.append((float(sample.t4), _offset(sample), _trip(sample) / 2))
        self._line = None

    def offset_ns(self, at_ns: int) -> float:
        if not self._samples:
            return 0.0
        if self._line is None:
            self._line = self._fit()
        at, offset, rate = self._line
        return offset + rate * (at_ns - at)

    def _fit(self) -> tuple[float, float, float]:
        distances = [distance for _, _, distance in self._samples]
        least = min(distances)
        deviation = max((median(distances) - least) / 0.7, 1.0)
        weights = [(1 + (distance - least) / deviation) ** -self._power for distance in distances]
        total = math.fsum(weights)
        first_at, first, _ = self._samples[0]
        ats = [at - first_at for at, _, _ in self._samples]
        offsets = [offset - first for _, offset, _ in self._samples]
        at = sum(w * x for w, x in zip(weights, ats, strict=True)) / total
        offset = sum(w * y for w, y in zip(weights, offsets, strict=True)) / total
        spread = sum(w * (x - at) ** 2 for w, x in zip(weights, ats, strict=True))
        together = sum(w * (x - at) * (y - offset) for w, x, y in zip(weights, ats, offsets, strict=True))
        return first_at + at, first + offset, together / spread if spread else 0.0


ANCHORS: Final[dict[str, Callable[[], Anchor]]] = {
    "Snapcast": SnapcastMedian,
    "Sendspin": SendspinKalman,
    "Sendspin each 10 s": lambda: SendspinKalman(every=5),
    "chrony": ChronyRegression,
}
CANDIDATES: Final[dict[str, Callable[[], Anchor]]] = {"weighted line": lambda: ChronyRegression(power=4)}


def _offset(sample: Sample) -> float:
    return ((sample.t2 - sample.t1) + (sample.t3 - sample.t4)) / 2


def _trip(sample: Sample) -> int:
    return (sample.t4 - sample.t1) - (sample.t3 - sample.t2)
