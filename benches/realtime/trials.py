"""Runs of the clock filter and of its anchors on the same samples, kept so that several figures can look at one run."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

from benches.realtime.anchors import ANCHORS, CANDIDATES
from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import Path
from echostream.realtime.clock import ClockFilter, Verdict

__all__ = ("OURS", "Look", "Trial", "ours_and_anchors", "trial")

OURS: Final = "EchoStream"
_SECOND: Final = 1_000_000_000
_LOOK_NS: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Look:
    """What all filters said at one moment, and what is true; microseconds."""

    seconds: float
    ahead: dict[str, float]
    """By filter, how far its offset is above the true one; ours is `OURS`."""
    bound: float
    """Ours: how wrong it says that it may be."""
    drift: float
    """Ours: how wrong the drift is, in ppm."""

    @property
    def errors(self) -> dict[str, float]:
        """By filter, how wrong it is, whatever the sign."""
        return {name: abs(ahead) for name, ahead in self.ahead.items()}


class Trial:
    """A run: one look each 100 ms, kept in a few bytes, because many runs are kept.

    Args:
        names: of the filters.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.steps_found = 0
        self._names = tuple(names)
        self._kept = array("d")

    def put(self, look: Look) -> None:
        self._kept.extend((look.seconds, look.bound, look.drift, *(look.ahead[name] for name in self._names)))

    @property
    def looks(self) -> list[Look]:
        """All of them."""
        return self.after(0.0)

    def after(self, seconds: float) -> list[Look]:
        """Return the looks from then on."""
        width = 3 + len(self._names)
        rows = (self._kept[i : i + width] for i in range(0, len(self._kept), width) if self._kept[i] > seconds)
        return [Look(row[0], dict(zip(self._names, row[3:], strict=True)), row[1], row[2]) for row in rows]


def ours_and_anchors(found: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Split what is known of every filter into ours and those that it has to beat; candidates are neither."""
    return found[OURS], {name: found[name] for name in ANCHORS}


@lru_cache(maxsize=4096)
def trial(
    path: Path,
    seed: int,
    *,
    seconds: int = 180,
    drift_ppm: float = 30.0,
    loss: float = 0.0,
    step_ms: int = 0,
    sleep_s: int = 0,
    step_at: float = 60.3,
    wander: float = 1e-9,
    alone: bool = False,
) -> Trial:
    """Run all filters over a path.

    Args:
        path: the model of its delays.
        seed: of everything; odd ones drift the other way.
        seconds: how long.
        drift_ppm: of the local clock.
        loss: share of packets lost, each way.
        step_ms: by how much the local clock is set forward at `step_at`.
        sleep_s: for how long the local machine and its clock sleep at `step_at`.
        step_at: seconds.
        wander: random walk of the local clock's rate, per square root of a second.
        alone: leave the filters of others out.
    """
    random = Random(f"{path} {seed}")
    drift_ppm = -drift_ppm if seed % 2 else drift_ppm
    clock = LocalClock(random, offset_ns=random.randrange(10**15), drift_ppm=drift_ppm, wander=wander)
    world = World(random, clock, *path.delays(random), loss=loss)
    ours = ClockFilter()
    others = {name: make() for name, make in ({} if alone else ANCHORS | CANDIDATES).items()}

    def on_sample(sample: Sample) -> None:
        if ours.add(sample.t1, sample.t2, sample.t3, sample.t4) is Verdict.STEPPED:
            world.hurry()
        for other in others.values():
            other.add(sample)

    result = Trial((*others, OURS))
    step_ns = round(step_at * _SECOND)
    for now in world.run(seconds * _SECOND, _LOOK_NS, on_sample):
        if now >= step_ns:
            step_ns = seconds * _SECOND + 1
            clock.step(step_ms * 1_000_000)
            world.ahead_ns += sleep_s * _SECOND
        local = clock.read(now)
        true = world.offset_ns()
        ahead = {name: (other.offset_ns(local) - true) / 1e3 for name, other in others.items()}
        ahead[OURS] = (ours.offset_ns(local) - true) / 1e3
        drift = abs(ours.drift_ppm * 1e-6 + clock.rate / (1 + clock.rate)) * 1e6
        result.put(Look(now / _SECOND, ahead, ours.bound_ns(local) / 1e3, drift))
    result.steps_found = ours.step_count
    return result
