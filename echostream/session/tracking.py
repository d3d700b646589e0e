"""Keeping a client's clock up to date: probes out, stamps into the filter, its estimates into the published mapping.

All that costs memory is here, and lives only while somebody reads the clock.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

from echostream.config import CLOCK_REST
from echostream.realtime import ClockFilter, Verdict
from echostream.session.clock_quality import ClockStep, Queues
from echostream.session.timesync import Prober
from echostream.types import clock

if TYPE_CHECKING:
    from echostream.session.clock import EstimatedClock
    from echostream.session.peer import Peer

__all__ = ("Resting", "Tracking")

_SETTLE: Final = 0.05
"""Seconds after an answer until the estimate is made anew: the rest of its burst has come by then."""
_STAMP_NS: Final = 10_000
"""How good the stamps are: between reading a clock and the packet's way through the socket lie some microseconds, and
t3 is foretold."""
_LATER_NS: Final = 100_000_000_000
"""How far ahead the bound is asked for, to know how fast it grows when no more probes come."""
_ASLEEP_SHARE: Final = 0.1
"""By what part of a step the calendar may say something else, when it shows that a machine was asleep."""


class Resting:
    """What remains of an estimate when no more probes are sent."""

    __slots__ = ("_at_ns", "_bound_ns", "_growth", "drift_ppm")

    def __init__(self) -> None:
        self._at_ns = 0
        self._bound_ns = math.inf
        self._growth = 0.0
        self.drift_ppm = 0.0

    def keep(self, estimate: ClockFilter, bound_ns: float, at_ns: int) -> None:
        """Remember how good an estimate was, and twice what it says about how fast that is worth less."""
        self._at_ns, self._bound_ns = at_ns, bound_ns
        self._growth = 2 * (estimate.bound_ns(at_ns + _LATER_NS) - estimate.bound_ns(at_ns)) / _LATER_NS
        self.drift_ppm = estimate.drift_ppm

    def forget(self) -> None:
        """A clock stepped: nothing holds any more."""
        self._bound_ns = math.inf

    def bound_ns(self, at_ns: int) -> float:
        """Return how wrong the mapping can be at a local time."""
        return self._bound_ns + self._growth * abs(at_ns - self._at_ns)


class Tracking:
    """From the first reading of a clock until nobody has read it for a while."""

    def __init__(self, of: EstimatedClock, peer: Peer) -> None:
        self.estimate = ClockFilter()
        self._clock = of
        self._loop = peer.runtime.loop
        self._queues = Queues()
        self._read_ns = clock.monotonic_ns()
        self._settling: asyncio.TimerHandle | None = None
        self._settled = (0, 0.0, 0.0)  # when, offset, drift: the last estimate, without making one anew
        self._ahead_ns = _calendar_ahead_ns()
        self._slept_ns = 0
        self._is_stepping = False
        self._prober = Prober(peer, of.counts, self._take, self._is_wanted)

    def close(self) -> None:
        """Send no more."""
        self._prober.stop()
        if self._settling is not None:
            self._settling.cancel()
        self._clock.counts.outliers += self.estimate.outlier_count
        if self.estimate.locked:
            local_ns = clock.monotonic_ns()
            self._clock.resting.keep(self.estimate, self.bound_ns(local_ns), local_ns)

    def bound_ns(self, local_ns: int) -> float:
        """Return how wrong the published time can be: the estimate's bound, and what is not corrected yet."""
        published_ns = self._clock.mapping.to_session_ns(local_ns) - local_ns
        return self.estimate.bound_ns(local_ns) + abs(published_ns - self.estimate.offset_ns(local_ns)) + _STAMP_NS

    def measured(self) -> dict[str, Any]:
        """Return what `ClockQuality` says of the path and of this program."""
        return {
            "round_trip_ns": self.estimate.round_trip_ns,
            "queue_out_ns": self._queues.out_ns,
            "queue_back_ns": self._queues.back_ns,
            "late_ns": self._prober.late_ns,
            "silent_ns": self._prober.silent_ns,
            "in_datagrams": self._prober.in_datagrams,
        }

    def _is_wanted(self) -> bool:
        """Whether the next probe is; asked before each, so that to read the clock costs no look at it."""
        of, now_ns = self._clock, clock.monotonic_ns()
        if of.is_read or of.holders:
            of.is_read, self._read_ns = False, now_ns
        if now_ns - self._read_ns <= CLOCK_REST * 1e9:
            return True
        of.rest()
        return False

    def _take(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> None:
        """Take the stamps of a probe that was answered."""
        estimate, counts = self.estimate, self._clock.counts
        verdict = estimate.add(t1_ns, t2_ns, t3_ns, t4_ns)
        if verdict is Verdict.IGNORED:
            counts.ignored += 1
            return
        counts.answered += 1
        if verdict is Verdict.STEPPED:
            counts.steps += 1
            self._is_stepping = True
            self._slept_ns = _calendar_ahead_ns() - self._ahead_ns
            self._queues.clear()
            self._clock.resting.forget()
            self._prober.hurry()
        elif self._is_stepping or not self._clock.is_known:
            self._settle()
        elif self._settling is None:
            self._settling = self._loop.call_later(_SETTLE, self._settle)
        if verdict is not Verdict.TAKEN:
            return
        self._ahead_ns = _calendar_ahead_ns()
        if self._clock.is_known and not self._is_stepping:
            settled_ns, offset_ns, drift_ppm = self._settled
            ahead_ns = offset_ns + (t4_ns - settled_ns) * drift_ppm * 1e-6
            self._queues.add(t2_ns - t1_ns - ahead_ns, t4_ns - t3_ns + ahead_ns)

    def _settle(self) -> None:
        """Make the estimate anew, and publish it."""
        self._settling = None
        estimate, of = self.estimate, self._clock
        if not estimate.locked:
            return
        local_ns = clock.monotonic_ns()
        offset_ns = estimate.offset_ns(local_ns)
        if self._is_stepping:
            self._is_stepping = False
            self._note_step(round(offset_ns) - of.offset_ns, local_ns)
        self._settled = (local_ns, offset_ns, estimate.drift_ppm)
        of.mapping.update(*self._settled)
        if not of.is_known:
            of.is_known = True
        of.tell()

    def _note_step(self, size_ns: int, local_ns: int) -> None:
        was_asleep = size_ns > 0 and abs(self._slept_ns - size_ns) < _ASLEEP_SHARE * size_ns
        self._clock.last_step = ClockStep(size_ns, local_ns, was_asleep=was_asleep)


def _calendar_ahead_ns() -> int:
    """Return how far the calendar is ahead of the monotonic clock, which stands still while the machine is asleep."""
    return int(clock.wall() * 1e9) - clock.monotonic_ns()
