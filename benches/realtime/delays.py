"""Delays of networks, seeded: the common models of all real-time benches and of tests. Standard library only.

The tables are one-way delays at quantiles, fitted to recordings of real hardware that roc-streaming/qa has published
(one pair of machines: a Raspberry Pi 4 and a PC). They are relative: the true split of the
shortest round trip is unknown. Scale them and make them asymmetric, so that nothing is tuned to that one pair.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

__all__ = ("PATHS", "QUANTILES", "Delay", "ExponentialPath", "Path", "Rerouted", "TablePath", "exponential", "table")

QUANTILES: Final = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BURST_NS: Final = 50_000_000
"""Packets that are nearer than this share a queue."""
_WITHIN: Final = 0.7
"""Correlation of neighbours in a burst."""
_BETWEEN: Final = 0.1
"""Correlation of the last packet of a burst and the first of the next."""

Delay = Callable[[float], float]
"""Gives the delay in nanoseconds of a packet that leaves at a time in nanoseconds; times do not fall."""


class Path:
    """Two directions. Its text tells all there is to it: seeds are made of it."""

    def delays(self, random: Random) -> tuple[Delay, Delay]:
        """Return what delays packets on the way out and back."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExponentialPath(Path):
    """Exponential queues: the default of chrony's simulator."""

    base_us: float
    jitter_us: float

    def delays(self, random: Random) -> tuple[Delay, Delay]:
        delay = exponential(self.base_us, self.jitter_us, random)
        return delay, delay


@dataclass(frozen=True)
class TablePath(Path):
    """Delays of both directions in microseconds at `QUANTILES`."""

    name: str
    out: tuple[float, ...]
    back: tuple[float, ...]
    scale: float = 1.0
    """Of all delays of both directions."""
    extra_out: float = 0.0
    """Microseconds that every packet takes longer on the way out: an asymmetry that no probe can see."""
    skew_out: float = 1.0
    """How much more every packet queues on the way out, above the shortest delay: an asymmetry that can be seen."""

    def delays(self, random: Random) -> tuple[Delay, Delay]:
        least = self.out[0]
        out = [(least + (delay - least) * self.skew_out) * self.scale + self.extra_out for delay in self.out]
        return table(out, random), table([delay * self.scale for delay in self.back], random)


PATHS: Final[dict[str, TablePath]] = {
    path.name: path
    for path in (
        TablePath(
            "ethernet",
            (119, 137, 153, 173, 187, 203, 237, 269, 334),
            (130, 148, 168, 223, 271, 326, 390, 451, 536),
        ),
        TablePath(
            "Wi-Fi",
            (757, 917, 940, 973, 1013, 1284, 2771, 16412, 172287),
            (766, 882, 943, 1263, 1358, 1519, 2523, 23528, 401119),
        ),
        TablePath(
            "bad Wi-Fi",
            (828, 1006, 1042, 1156, 1633, 3939, 23809, 54317, 116520),
            (753, 973, 1041, 1153, 1525, 3775, 27183, 55791, 171314),
        ),
    )
}


@dataclass(frozen=True)
class Rerouted(Path):
    """A path whose way out is longer for a while, as when a route changes and changes back."""

    path: Path
    extra_out: float
    """Microseconds."""
    since: float
    """Seconds after the first packet."""
    until: float

    def delays(self, random: Random) -> tuple[Delay, Delay]:
        out, back = self.path.delays(random)

        def rerouted(at_ns: float) -> float:
            return out(at_ns) + (self.extra_out * 1e3 if self.since <= at_ns * 1e-9 < self.until else 0.0)

        return rerouted, back


def table(microseconds: Sequence[float], random: Random) -> Delay:
    """Draw from a table at `QUANTILES`, log-interpolated; neighbours are correlated as AR(1)."""
    logs = [math.log(delay * 1e3) for delay in microseconds]
    state = random.gauss(0.0, 1.0)
    last = -math.inf

    def delay(at_ns: float) -> float:
        nonlocal state, last
        rho = _WITHIN if at_ns - last < _BURST_NS else _BETWEEN
        last = at_ns
        state = rho * state + math.sqrt(1 - rho * rho) * random.gauss(0.0, 1.0)
        quantile = 0.5 * math.erfc(-state * math.sqrt(0.5))
        i = min(bisect_right(QUANTILES, quantile), len(QUANTILES) - 1)
        share = (quantile - QUANTILES[i - 1]) / (QUANTILES[i] - QUANTILES[i - 1])
        return math.exp(logs[i - 1] + share * (logs[i] - logs[i - 1]))

    return delay


def exponential(base_us: float, jitter_us: float, random: Random) -> Delay:
    """Draw a base and an exponential queue on top, each by itself."""
    return lambda _: (base_us + random.expovariate(1.0) * jitter_us) * 1e3
