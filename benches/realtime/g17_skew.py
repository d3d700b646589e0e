"""G17, the playout's part: how far off receivers say that they are, and how far off they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import combinations
from math import exp, log
from random import Random
from statistics import mean
from typing import Final

from benches.realtime.delays import PATHS
from benches.realtime.studio import Listener, Network, play_together
from benches.realtime.table import Figure, Plan, percentile

__all__ = ("ID", "measure")

ID: Final = "G17"
_FRAME_NS: Final = 10_000_000
_LATENCY_NS: Final = 150_000_000
_RECEIVERS: Final = 3
_SECONDS: Final = 60
_PUSH_NS: Final = (50e3, 4500e3)
"""How far receivers are pushed aside each 20 s, less than what is jumped over."""


def measure(plan: Plan) -> Iterator[Figure]:
    """Push receivers aside, as a fault of a device or a resampler would, and watch them come back."""
    for name in PATHS:
        said, true = array("d"), array("d")
        for seed in range(plan.seeds):
            plan.tell(f"{name}, seed {seed}")
            for reported, real in _run(name, seed):
                said.append(reported)
                true.append(real)
        offs = [abs(a - b) / b * 100 for a, b in zip(said, true, strict=True)]
        details = {"mean_true_us": mean(true) / 1e3, **{f"p{p}_percent": percentile(offs, p / 100) for p in (50, 95)}}
        title = f"playout: reported skew, mean, off the true one, {name}"
        yield Figure(ID, title, abs(mean(said) / mean(true) - 1) * 100, "%", goal=20.0, details=details)


def _run(name: str, seed: int) -> list[tuple[float, float]]:
    """Return the skew of each two receivers that they report, and the true one, each second."""
    path, random = PATHS[name], Random(seed)
    listeners = []
    for number in range(_RECEIVERS):
        frames = Network(Random(f"{seed} {number}"), path.delays(random)[0], _FRAME_NS)
        own = f"{name} {seed} {number}"
        listeners.append(Listener(own, path, frames, frame_ns=_FRAME_NS, latency_ns=_LATENCY_NS))
    found: list[tuple[float, float]] = []

    def look(at: float) -> None:
        if at > 2:
            for a, b in combinations(listeners, 2):
                reported = a.controller.stats().error_ns - b.controller.stats().error_ns
                found.append((abs(reported), abs(a.error_ns - b.error_ns)))
        if round(at) % 20 == 5:
            for listener in listeners:
                least, most = map(log, _PUSH_NS)
                listener.push_aside(random.choice((-1, 1)) * exp(random.uniform(least, most)))

    play_together(listeners, _SECONDS, look)
    return found
