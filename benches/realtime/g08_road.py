"""G8 and the long runs: the whole road, from a sender's frames to a device, for an hour and for a day."""

from __future__ import annotations

import gc
import sys
from array import array
from collections.abc import Iterator
from itertools import combinations
from random import Random
from typing import Final

from benches.realtime.delays import PATHS
from benches.realtime.studio import Listener, Network, play_together
from benches.realtime.table import Figure, Plan, percentile

__all__ = ("ID", "measure")

ID: Final = "G8"
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_SEEDS_OF_AN_HOUR: Final = 10
"""A plan with fewer is for a rough picture."""
_LOSS: Final = 0.001
_FIRST: Final = (1 << 32) - 1000
"""Sequence numbers wrap soon."""
_RECEIVERS: Final = 2
_SETTLED: Final = 30.0
_MOST_BLOCKS: Final = 1000.0
"""Some 64 KB: less than a tenth of a byte for each packet of a day."""


def measure(plan: Plan) -> Iterator[Figure]:
    """One run of each path: it is long, and each of its receivers has a network, a clock and a device of its own."""
    seconds = _HOUR if plan.seeds >= _SEEDS_OF_AN_HOUR else _HOUR / 3
    for name in PATHS:
        yield from _road(plan, name, frame_ns=10_000_000, latency_ns=150_000_000, seconds=seconds)
    if plan.is_long:
        for name in PATHS:
            yield from _road(plan, name, frame_ns=100_000_000, latency_ns=600_000_000, seconds=_DAY)


def _road(plan: Plan, name: str, *, frame_ns: int, latency_ns: int, seconds: float) -> Iterator[Figure]:
    path = PATHS[name]
    listeners = []
    for number in range(_RECEIVERS):
        random = Random(f"{name} {number}")
        frames = Network(random, path.delays(random)[0], frame_ns, loss=_LOSS, first=_FIRST)
        listeners.append(Listener(f"{name} {number}", path, frames, frame_ns=frame_ns, latency_ns=latency_ns))
    skews = array("d")
    blocks: list[int] = []
    rate = 1_000_000_000 // frame_ns

    def look(at: float) -> None:
        if at > _SETTLED:
            skews.extend(abs(a.error_ns - b.error_ns) / 1e3 for a, b in combinations(listeners, 2))
        if round(at) % 600 == 0:
            plan.tell(f"{name}, {rate} packets a second, {at / _HOUR:.1f} hours")
            blocks.append(_blocks())

    play_together(listeners, seconds, look)
    told = f"{seconds / 60:g} min at {rate} packets/s, {name}"
    jumps = sum(listener.controller.stats().resync_count for listener in listeners)
    silent = sum(listener.silent_ns for listener in listeners) / sum(listener.played_ns for listener in listeners)
    details = {
        "skew_p99_us": percentile(skews, 0.99),
        "skew_max_us": max(skews),
        "silent_percent": silent * 100,
        "underruns": sum(listener.device.underrun_count for listener in listeners),
        "streams": [str(listener.buffer.stats()) for listener in listeners],
    }
    yield Figure(ID, f"resynchronisations, {told}", jumps, "", goal=0.0, details=details)
    growth = blocks[-1] - blocks[0]
    yield Figure(ID, f"blocks of memory above 10 min, {told}", growth, "", goal=_MOST_BLOCKS)


def _blocks() -> int:
    """Return how many blocks of memory Python holds: what grows shows here before it shows in megabytes."""
    gc.collect()
    return sys.getallocatedblocks()
