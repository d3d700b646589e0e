"""How good a clock is, what it has been through, and what is wrong in words."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from statistics import median
from typing import Final

__all__ = ("ClockQuality", "ClockStep", "ProbeCounts", "Queues")

_WINDOW: Final = 64
"""Probes by which queues are judged: 16 s of them."""
_LATE_NS: Final = 20_000_000
"""A loop that is later than this cannot keep a stream in step: a frame of audio lasts as long."""
_UNEQUAL_NS: Final = 2_000_000
"""Queues whose medians differ by less do no harm: the quickest probes count, and they met none."""
_LOSS_SHARE: Final = 0.2
_SILENT_NS: Final = 3_000_000_000
"""A burst of probes leaves every 2 s at least: more than one went unanswered."""
_NEWS_NS: Final = 60_000_000_000
"""How long a step is told as a fault; afterwards only its count shows."""
_MANY: Final = 16
"""Probes below which shares say nothing."""


@dataclass(slots=True)
class ProbeCounts:
    """What became of the probes of a session."""

    sent: int = 0
    unsent: int = 0
    """Not sent, because the local queue had no room: they count as no loss."""
    answered: int = 0
    lost: int = 0
    ignored: int = 0
    """Answers with stamps that cannot be: t3 before t2, or more time at the server than the round trip took."""
    outliers: int = 0
    """Probes that contradicted the others, and were left out."""
    steps: int = 0


@dataclass(frozen=True, slots=True)
class ClockStep:
    """A step of one of the two clocks."""

    size_ns: int
    """How much further ahead session time is since then; below 0 behind."""
    local_ns: int
    """When it was known, on this machine's monotonic clock."""
    was_asleep: bool
    """Whether this machine was asleep: its calendar went on meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockQuality:
    """A snapshot. Times in nanoseconds."""

    at_ns: int = 0
    """When it was taken, on this machine's monotonic clock."""
    locked: bool = False
    offset_ns: int = 0
    """How far session time is ahead of this machine's monotonic clock."""
    drift_ppm: float = 0.0
    error_bound_ns: float = math.inf
    round_trip_ns: float = 0.0
    """The shortest of late, the server's own time taken off."""
    queue_out_ns: float = 0.0
    """Median of late of what the way to the server took above the quickest probe: queues, and a slow server."""
    queue_back_ns: float = 0.0
    """The same on the way back."""
    late_ns: int = 0
    """How late the event loop of this program came to a probe that was due: the worst of late."""
    silent_ns: int = 0
    """How long ago the first probe left of those that nothing came after; 0 while answers come."""
    in_datagrams: bool = True
    """Whether probes travel alone in datagrams; on the lane they wait behind other frames, and the bound is larger."""
    sent: int = 0
    unsent: int = 0
    answered: int = 0
    lost: int = 0
    ignored: int = 0
    stray: int = 0
    """Answers to no probe of this session, or second ones."""
    outliers: int = 0
    steps: int = 0
    jumps: int = 0
    """Corrections that were too large to be gentle."""
    last_step: ClockStep | None = None

    @property
    def verdict(self) -> str:
        """``in step``, ``locking``, or ``no answers``."""
        if self.locked:
            return "in step"
        return "no answers" if self.sent >= _MANY and not self.answered else "locking"

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words; empty when nothing is."""
        found: list[str] = []
        if self.sent >= _MANY and not self.answered:
            found.append(f"none of {self.sent} probes was answered")
        elif self.silent_ns > _SILENT_NS:
            found.append(f"silent: nothing was answered for {self.silent_ns / 1e9:.0f} s")
        elif self.sent >= _MANY and self.lost > self.sent * _LOSS_SHARE:
            found.append(f"{self.lost} of {self.sent} probes were lost")
        if abs(self.queue_out_ns - self.queue_back_ns) > _UNEQUAL_NS:
            slow, fast = ("to", "back from") if self.queue_out_ns > self.queue_back_ns else ("back from", "to")
            more = abs(self.queue_out_ns - self.queue_back_ns) / 1e6
            found.append(f"asymmetric path: the way {slow} the server queues {more:.1f} ms more than the way {fast} it")
        if self.late_ns > _LATE_NS:
            found.append(f"overloaded loop: this program came {self.late_ns / 1e6:.0f} ms late to its own timer")
        if self.last_step is not None and self.at_ns - self.last_step.local_ns < _NEWS_NS:
            found.append(_told(self.last_step, self.steps))
        if self.ignored:
            found.append(f"{self.ignored} answers had stamps that cannot be: the server is broken, or lies")
        if not self.in_datagrams:
            found.append("no datagrams: probes wait behind other frames, so that the bound is larger")
        return found


class Queues:
    """What probes waited for on each way, above the quickest."""

    __slots__ = ("_back", "_count", "_out")

    def __init__(self) -> None:
        self._out = array("d", bytes(8 * _WINDOW))
        self._back = array("d", bytes(8 * _WINDOW))
        self._count = 0

    def add(self, out_ns: float, back_ns: float) -> None:
        """Take what the two ways of a probe seem to have taken."""
        at = self._count % _WINDOW
        self._out[at], self._back[at] = out_ns, back_ns
        self._count += 1

    def clear(self) -> None:
        """Forget all: they were measured by another clock."""
        self._count = 0

    @property
    def out_ns(self) -> float:
        """Median above the least, on the way out; 0 while too few are known."""
        return self._above(self._out)

    @property
    def back_ns(self) -> float:
        """The same on the way back."""
        return self._above(self._back)

    def _above(self, way: array[float]) -> float:
        count = min(self._count, _WINDOW)
        return median(way[:count]) - min(way[:count]) if count >= _MANY else 0.0


def _told(step: ClockStep, count: int) -> str:
    size = f"{abs(step.size_ns) / 1e6:.3f} ms"
    if step.was_asleep:
        what = f"suspended: this machine was asleep for {size}"
    elif step.size_ns > 0:
        what = f"step: the server's clock went {size} ahead, or this machine stood still"
    else:
        what = f"step: the server's clock fell {size} behind, as when its machine was asleep"
    return what if count < 2 else f"{what} (the last of {count})"
