"""G4: how wrong the drift is from 60 s on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benches.realtime.delays import PATHS
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import trial

__all__ = ("ID", "measure")

ID: Final = "G4"
_GOALS: Final = {"ethernet": 0.5, "Wi-Fi": 2.0, "bad Wi-Fi": None}
"""ppm"""


def measure(plan: Plan) -> Iterator[Figure]:
    for name, goal in _GOALS.items():
        for drift_ppm in (30.0, 200.0):
            errors: list[float] = []
            for seed in range(plan.seeds):
                plan.tell(f"{name}, {drift_ppm:g} ppm, seed {seed}")
                errors += [look.drift for look in trial(PATHS[name], seed, drift_ppm=drift_ppm, alone=True).after(60)]
            title = f"drift error, p99, {name}, clocks {drift_ppm:g} ppm apart"
            yield Figure(ID, title, percentile(errors, 0.99), "ppm", goal=goal)
