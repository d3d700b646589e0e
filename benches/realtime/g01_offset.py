"""G1: how wrong the offset is from 60 s on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from typing import Final

from benches.realtime.delays import PATHS, Path
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import ours_and_anchors, trial

__all__ = ("ID", "measure")

ID: Final = "G1"
_GOALS: Final = {"ethernet": 25.0, "Wi-Fi": 60.0, "bad Wi-Fi": 120.0}
"""Microseconds; they grow with the path, and do not shrink with it."""
_MORE_SEEDS: Final = 2
"""A percentile over few runs is that of the worst one: more runs for each."""
_SKEWED: Final = (
    "queues that are always longer one way are like a longer way: no filter can tell, the bound covers it (G17)"
)


def measure(plan: Plan) -> Iterator[Figure]:
    """Every path as it is, scaled, and with queues that are longer in one direction."""
    for name, path in PATHS.items():
        yield _figure(plan, name, path, _GOALS[name])
    for name, path in PATHS.items():
        for scale in (0.5, 3.0):
            yield _figure(
                plan, f"{name}, delays x{scale:g}", replace(path, scale=scale), _GOALS[name] * max(1.0, scale)
            )
        yield _figure(plan, f"{name}, queues x3 on the way out", replace(path, skew_out=3.0), None, why=_SKEWED)
        yield _figure(plan, f"{name}, a third of the packets lost", path, None, loss=0.33)


def _figure(plan: Plan, name: str, path: Path, goal: float | None, *, loss: float = 0.0, why: str = "") -> Figure:
    errors: dict[str, list[float]] = {}
    for seed in range(plan.seeds * _MORE_SEEDS):
        plan.tell(f"{name}, seed {seed}")
        for look in trial(path, seed, loss=loss).after(60):
            for who, error in look.errors.items():
                errors.setdefault(who, []).append(error)
    p99 = {who: percentile(values, 0.99) for who, values in errors.items()}
    details = {
        who: {"rms": sqrt(sum(e * e for e in values) / len(values)), "p99": p99[who], "max": max(values)}
        for who, values in errors.items()
    }
    ours, anchors = ours_and_anchors(p99)
    return Figure(ID, f"offset error, p99, {name}", ours, goal=goal, anchors=anchors, details=details, why=why)
