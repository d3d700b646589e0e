"""G17, the clock's part: the true error is within the bound that is reported, whatever the path is like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benches.realtime.delays import PATHS, ExponentialPath, Path, Rerouted
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import OURS, trial

__all__ = ("ID", "measure")

ID: Final = "G17"


def measure(plan: Plan) -> Iterator[Figure]:
    for name, path in PATHS.items():
        yield _figure(plan, name, path)
        yield _figure(plan, f"{name}, delays x3, 200 ppm", replace(path, scale=3.0), drift_ppm=200.0)
        yield _figure(plan, f"{name}, 2 ms longer on the way out", replace(path, extra_out=2000.0))
        yield _figure(plan, f"{name}, queues x3 on the way out", replace(path, skew_out=3.0))
        yield _figure(plan, f"{name}, a way out that is 5 ms longer for a minute", Rerouted(path, 5000.0, 60.0, 120.0))
        yield _figure(plan, f"{name}, rates that wander ten times as much", path, wander=1e-8)
    yield _figure(plan, "chrony's scenario", ExponentialPath(100, 100), drift_ppm=100.0)


def _figure(plan: Plan, name: str, path: Path, *, drift_ppm: float = 30.0, wander: float = 1e-9) -> Figure:
    """Look at the whole run, from the first probe on."""
    looks = []
    for seed in range(plan.seeds):
        plan.tell(f"{name}, seed {seed}")
        looks += trial(path, seed, drift_ppm=drift_ppm, wander=wander, alone=True).looks
    within = sum(look.errors[OURS] <= look.bound for look in looks) / len(looks) * 100
    bounds = [look.bound for look in looks]
    details = {"bound_p50_us": percentile(bounds, 0.5), "bound_p99_us": percentile(bounds, 0.99)}
    title = f"clock: true error within the bound, {name}"
    return Figure(ID, title, within, "%", goal=99.9, at_least=True, details=details)
