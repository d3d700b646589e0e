"""Two machines in virtual time: a local clock, apart and drifting, and probes over a path of `delays`.

True time is the remote clock's, unless the local machine sleeps. What the filters of a run get are the same samples;
what they say is compared with the truth at fixed times.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from benches.realtime.delays import Delay
from echostream.realtime.cadence import ProbeCadence

__all__ = ("LocalClock", "Sample", "World")

SECOND: Final = 1_000_000_000
_ANSWER_NS: Final = (20e3, 60e3)
"""How long the other side takes to answer."""


class LocalClock:
    """A clock that is read at true times that do not fall.

    Args:
        random: of its wander.
        offset_ns: what it shows at true time 0.
        drift_ppm: how much faster than true time it runs.
        wander: random walk of its rate, per square root of a second.
    """

    def __init__(self, random: Random, *, offset_ns: int, drift_ppm: float, wander: float = 1e-9) -> None:
        self._random = random
        self._wander = wander
        self.rate = drift_ppm * 1e-6
        self._true = 0
        self._shown = offset_ns
        self._rest = 0.0

    def read(self, true_ns: int) -> int:
        """Return what it shows."""
        passed = true_ns - self._true
        if passed:
            self._true = true_ns
            gained = passed * self.rate + self._rest
            whole = round(gained)
            self._rest = gained - whole
            self._shown += passed + whole
            self.rate += self._random.gauss(0.0, self._wander) * math.sqrt(passed * 1e-9)
        return self._shown

    def step(self, ns: int) -> None:
        """Set it forward, or back."""
        self._shown += ns


@dataclass(frozen=True, slots=True)
class Sample:
    """An answered probe."""

    t1: int
    t2: int
    t3: int
    t4: int
    burst: int
    """Number of the burst that it belongs to."""
    index: int
    """Number in its burst."""


class World:
    """Runs probes in virtual time.

    Args:
        random: of answers, spacing and losses.
        clock: of the local machine.
        out: delay of probes.
        back: delay of answers.
        loss: share of packets that get lost, each way.
    """

    def __init__(self, random: Random, clock: LocalClock, out: Delay, back: Delay, *, loss: float = 0.0) -> None:
        self.clock = clock
        self.now = 0
        """True time."""
        self.ahead_ns = 0
        """Of true time, the remote clock's: it grows when the local machine sleeps."""
        self._random = random
        self._out = out
        self._back = back
        self._loss = loss
        self._flying: list[tuple[int, int, Sample]] = []
        self._number = 0
        self.cadence = ProbeCadence(clock.read(0), random.random)
        self.cadence.sync(clock.read(0))
        self._due = 0
        self._burst = self._index = -1
        self._sent_ns = -SECOND

    def run(self, until_ns: int, step_ns: int, on_sample: Callable[[Sample], None]) -> Iterator[int]:
        """Go on, and stop each `step_ns` so that somebody can look; gives true times."""
        while self.now < until_ns:
            stop = min(self.now - self.now % step_ns + step_ns, until_ns)
            self._advance(stop, on_sample)
            yield stop

    def offset_ns(self) -> int:
        """Return remote minus local clock, now: what a filter should say."""
        return self.now + self.ahead_ns - self.clock.read(self.now)

    def hurry(self) -> None:
        """Probe fast again."""
        self.cadence.hurry(self.clock.read(self.now))
        self._due = self.now

    def _advance(self, stop: int, on_sample: Callable[[Sample], None]) -> None:
        while True:
            arrival = self._flying[0][0] if self._flying else stop + 1
            if min(self._due, arrival) > stop:
                self.now = stop
                return
            if self._due <= arrival:
                self.now = self._due
                self._send()
            else:
                self.now, _, sample = heapq.heappop(self._flying)
                t4 = self.clock.read(self.now)
                on_sample(Sample(sample.t1, sample.t2, sample.t3, t4, sample.burst, sample.index))

    def _send(self) -> None:
        t1 = self.clock.read(self.now)
        if self.now - self._sent_ns > 50_000_000:
            self._burst += 1
            self._index = -1
        self._sent_ns = self.now
        self._index += 1
        arrives = self.now + round(self._out(self.now))
        leaves = arrives + round(self._random.uniform(*_ANSWER_NS))
        back = leaves + round(self._back(self.now))
        self._number += 1
        if self._loss == 0.0 or self._random.random() < (1 - self._loss) ** 2:
            heapq.heappush(
                self._flying,
                (
                    back,
                    self._number,
                    Sample(t1, arrives + self.ahead_ns, leaves + self.ahead_ns, 0, self._burst, self._index),
                ),
            )
        self.cadence.sent(t1)
        self._due = self.now + max(0, self.cadence.next_ns - t1)
