"""G8: nobody hears the corrections: speeds that hardly change, no jump in an hour, the first sound in its place."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from typing import Final

from benches.realtime.delays import PATHS
from benches.realtime.outputs import PERFECT, run
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
        p99["Sendspin's claim"] = _SENDSPIN_PPM
        yield _beside_perfect(title, p99, "ppm", _DEVIATION_PPM)
        title = f"speed off what the device needs, from the start, most, {name}"
        yield Figure(ID, title, max(deviations[OURS]), "ppm", goal=_MOST_PPM)
        first = {who: [off for one in runs for off in one.first[who]] for who in runs[0].first}
        p95 = {who: percentile(offs, 0.95) for who, offs in first.items()}
        yield _beside_perfect(f"first sound off its place, p95, {name}", p95, "us", _FIRST_US)
        most = {who: max(offs) for who, offs in first.items()}
        yield Figure(ID, f"first sound off its place, most, {name}", most[OURS], goal=_FIRST_US, details=most)
    for name, path in PATHS.items():
        jumps = 0
        for seed in range(plan.seeds):
            plan.tell(f"{name}, an hour, seed {seed}")
            hour = run(path, seed, count=1, seconds=_HOUR, anchors=False)
            jumps += sum(stats.resync_count for stats in hour.stats[OURS])
        yield Figure(ID, f"resynchronisations of {plan.seeds} receivers in an hour, {name}", jumps, "", goal=0.0)


def _beside_perfect(title: str, found: dict[str, float], unit: str, goal: float) -> Figure:
    """Return a figure; where an anchor is ahead, it says what no clock at all would be to blame for."""
    details = dict(found)
    ours, perfect = found.pop(OURS), found.pop(PERFECT)
    why = ""
    if ours > min(found.values()):
        why = f"{PERFECT} would have {perfect:.1f} {unit} here, by the noise of the device's reports alone"
    return Figure(ID, title, ours, unit, goal=goal, anchors=found, details=details, why=why)
