"""G3: how soon the offset can be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benches.realtime.delays import PATHS
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import ours_and_anchors, trial

__all__ = ("ID", "measure")

ID: Final = "G3"
_GOALS: Final = {
    ("ethernet", 0.1): 100.0, ("Wi-Fi", 0.1): 300.0, ("bad Wi-Fi", 0.1): None,
    ("ethernet", 4.0): 100.0, ("Wi-Fi", 4.0): 200.0, ("bad Wi-Fi", 4.0): None,
}  # fmt: skip
"""Microseconds by path and seconds after the first probe."""
_MORE_SEEDS: Final = 10
"""There is one value in a run: more runs for a percentile, each of a few seconds."""


def measure(plan: Plan) -> Iterator[Figure]:
    for (name, seconds), goal in _GOALS.items():
        errors: dict[str, list[float]] = {}
        for seed in range(plan.seeds * _MORE_SEEDS):
            plan.tell(f"{name}, seed {seed}")
            looks = trial(PATHS[name], seed, seconds=5).looks
            look = next(look for look in looks if look.seconds >= seconds)
            for who, error in look.errors.items():
                errors.setdefault(who, []).append(error)
        p95 = {who: percentile(values, 0.95) for who, values in errors.items()}
        ours, anchors = ours_and_anchors(p95)
        title = f"offset error, p95, {seconds:g} s after the first probe, {name}"
        yield Figure(ID, title, ours, goal=goal, anchors=anchors, details=p95)
