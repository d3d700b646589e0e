"""G8: nobody hears the corrections: speeds that hardly change, no jump in an hour, the first sound in its place."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from typing import Final

from benches.realtime.delays import PATHS
from benches.realtime.outputs import run
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import OURS

__all__ = ("ID", "measure")

ID: Final = "G8"
_DEVIATION_PPM: Final = 100.0
_MOST_PPM: Final = 500.0
_FIRST_US: Final = 1000.0
_SENDSPIN_PPM: Final = 2000.0
"""What its command-line player keeps to; its specification allows 5,000."""
_HOUR: Final = 3600


def measure(plan: Plan) -> Iterator[Figure]:
    """From the first sound on, so that a warble at the start counts."""
    for name, path in PATHS.items():
        plan.tell(name)
        runs = [run(path, seed) for seed in range(plan.seeds)]
        deviations = {
            who: [abs(ppm) for one in runs for ppm in one.speeds[who] if not isnan(ppm)] for who in runs[0].speeds
        }
        p99 = {who: percentile(values, 0.99) for who, values in deviations.items()}
        title = f"speed off what the device needs, from the start, p99, {name}"
        ours, p99["Sendspin's claim"] = p99.pop(OURS), _SENDSPIN_PPM
        yield Figure(ID, title, ours, "ppm", goal=_DEVIATION_PPM, anchors=p99)
        title = f"speed off what the device needs, from the start, most, {name}"
        yield Figure(ID, title, max(deviations[OURS]), "ppm", goal=_MOST_PPM)
        first = {who: [off for one in runs for off in one.first[who]] for who in runs[0].first}
        p95 = {who: percentile(offs, 0.95) for who, offs in first.items()}
        ours = p95.pop(OURS)
        yield Figure(ID, f"first sound off its place, p95, {name}", ours, goal=_FIRST_US, anchors=p95)
        most = {who: max(offs) for who, offs in first.items()}
        yield Figure(ID, f"first sound off its place, most, {name}", most[OURS], goal=_FIRST_US, details=most)
    for name, path in PATHS.items():
        jumps = 0
        for seed in range(plan.seeds):
            plan.tell(f"{name}, an hour, seed {seed}")
            hour = run(path, seed, count=1, seconds=_HOUR, anchors=False)
            jumps += sum(stats.resync_count for stats in hour.stats[OURS])
        yield Figure(ID, f"resynchronisations of {plan.seeds} receivers in an hour, {name}", jumps, "", goal=0.0)
