"""G1: how wrong the offset is from 60 s on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from statistics import fmean
from typing import Final

from benches.realtime.delays import PATHS, Path
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import OURS, ours_and_anchors, trial

__all__ = ("ID", "measure")

ID: Final = "G1"
_GOALS: Final = {"ethernet": 25.0, "Wi-Fi": 60.0, "bad Wi-Fi": 120.0}
"""Microseconds; they grow with the path, and do not shrink with it."""
_MORE_SEEDS: Final = 2
"""A percentile over few runs is that of the worst one: more runs for each."""


def measure(plan: Plan) -> Iterator[Figure]:
    """Every path as it is, scaled, and with queues that are longer in one direction."""
    for name, path in PATHS.items():
        yield _figure(plan, name, path, _GOALS[name])
    for name, path in PATHS.items():
        for scale in (0.5, 3.0):
            yield _figure(
                plan, f"{name}, delays x{scale:g}", replace(path, scale=scale), _GOALS[name] * max(1.0, scale)
            )
        yield _figure(plan, f"{name}, queues x3 on the way out", replace(path, skew_out=3.0), None)
        yield _figure(plan, f"{name}, a third of the packets lost", path, None, loss=0.33)


def _figure(plan: Plan, name: str, path: Path, goal: float | None, *, loss: float = 0.0) -> Figure:
    ahead: dict[str, list[float]] = {}
    for seed in range(plan.seeds * _MORE_SEEDS):
        plan.tell(f"{name}, seed {seed}")
        for look in trial(path, seed, loss=loss).after(60):
            for who, error in look.ahead.items():
                ahead.setdefault(who, []).append(error)
    details = {who: _described(values) for who, values in ahead.items()}
    ours, anchors = ours_and_anchors({who: figures["p99"] for who, figures in details.items()})
    best = min(anchors, key=lambda who: anchors[who])
    why = _why(details[OURS], best, details[best]) if ours > anchors[best] else ""
    return Figure(ID, f"offset error, p99, {name}", ours, goal=goal, anchors=anchors, details=details, why=why)


def _described(ahead: list[float]) -> dict[str, float]:
    """Tell what is the same all the time, as a longer way is, from what comes and goes."""
    mean, errors = fmean(ahead), [abs(value) for value in ahead]
    spread = sqrt(fmean((value - mean) ** 2 for value in ahead))
    return {"mean": mean, "spread": spread, "p99": percentile(errors, 0.99), "max": max(errors)}


def _why(ours: dict[str, float], best: str, other: dict[str, float]) -> str:
    return (
        f"{abs(ours['mean']):.0f} us of it are there all the time, with a deviation of {ours['spread']:.0f}"
        f" ({best}: {abs(other['mean']):.0f} and {other['spread']:.0f}): queues that are always longer one way are like"
        " a longer way, which no filter can tell; the bound covers it (G17)"
    )
