"""G16, the clock's part: what a probe and a reading cost this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Final

from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import PATHS
from benches.realtime.table import Figure, Plan
from echostream.realtime.clock import ClockFilter
from echostream.realtime.mapping import ClockMapping

__all__ = ("ID", "measure")

ID: Final = "G16"
_SECONDS: Final = 120


def measure(plan: Plan) -> Iterator[Figure]:
    random = Random(0)
    clock = LocalClock(random, offset_ns=0, drift_ppm=30.0)
    samples: list[Sample] = []
    world = World(random, clock, *PATHS["Wi-Fi"].delays(random))
    for _ in world.run(_SECONDS * 1_000_000_000, 1_000_000_000, samples.append):
        pass
    spent = [
        min(values) for values in zip(*(_spent(samples, plan) for _ in range(max(3, plan.seeds // 2))), strict=True)
    ]
    yield Figure(ID, "clock: a probe, its part of an estimate per burst and of the mapping", spent[0], goal=50.0)
    yield Figure(ID, "clock: a conversion to session time", spent[1], goal=50.0)


def _spent(samples: list[Sample], plan: Plan) -> tuple[float, float]:
    """Return microseconds of processor time for a probe and for a conversion."""
    plan.tell(f"{len(samples)} probes")
    ours, mapping = ClockFilter(), ClockMapping()
    burst = 0
    begun = time.process_time_ns()
    for sample in samples:
        ours.add(sample.t1, sample.t2, sample.t3, sample.t4)
        if sample.burst != burst:
            burst = sample.burst
            mapping.update(sample.t4, ours.offset_ns(sample.t4), ours.drift_ppm)
    probes = time.process_time_ns() - begun
    begun = time.process_time_ns()
    for sample in samples:
        for at in range(20):
            mapping.to_session_ns(sample.t4 + at)
    conversions = time.process_time_ns() - begun
    return probes / len(samples) / 1e3, conversions / len(samples) / 20e3
