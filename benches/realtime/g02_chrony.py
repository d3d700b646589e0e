"""G2: the default scenario of chrony's own simulator; its gates there are 300 us rms and 1 ms, with polls of 64 s."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Final

from benches.realtime.delays import ExponentialPath
from benches.realtime.table import Figure, Plan
from benches.realtime.trials import ours_and_anchors, trial

__all__ = ("ID", "measure")

ID: Final = "G2"


def measure(plan: Plan) -> Iterator[Figure]:
    path = ExponentialPath(base_us=100, jitter_us=100)
    worst: dict[str, float] = {}
    squares: dict[str, list[float]] = {}
    for seed in range(plan.seeds):
        plan.tell(f"seed {seed}")
        for look in trial(path, seed, drift_ppm=100).after(60):
            for who, error in look.errors.items():
                worst[who] = max(worst.get(who, 0.0), error)
                squares.setdefault(who, []).append(error * error)
    rms = {who: sqrt(sum(values) / len(values)) for who, values in squares.items()}
    for name, found, goal in (("rms", rms, 10.0), ("max", worst, 50.0)):
        ours, anchors = ours_and_anchors(found)
        title = f"offset error, {name}, 100 us and 100 us of jitter, 100 ppm"
        yield Figure(ID, title, ours, goal=goal, anchors=anchors, details=found)
