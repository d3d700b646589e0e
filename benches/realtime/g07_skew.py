"""G7: how far apart receivers play."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benches.realtime.delays import PATHS, Path
from benches.realtime.outputs import PERFECT, Run, run
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import OURS

__all__ = ("ID", "measure")

ID: Final = "G7"
_GOALS: Final = {"ethernet": 80.0, "Wi-Fi": 150.0, "bad Wi-Fi": 250.0}
"""Microseconds; they scale with the path."""
_MOST_AFTER_5_S: Final = 1000.0
_SETTLED: Final = 30.0
"""Seconds until the loops have learnt the drifts."""


def measure(plan: Plan) -> Iterator[Figure]:
    """Every path as it is, scaled, and with queues that are longer in one direction."""
    for name, path in PATHS.items():
        runs = _runs(plan, name, path)
        yield _figure(f"p99, {name}", runs, _SETTLED, math.inf, _GOALS[name])
        yield _figure(f"p99 from 5 to 30 s, {name}", runs, 5.0, _SETTLED, None)
        most = {who: max(max(one.skews(who, 5.0)) for one in runs) for who in runs[0].errors}
        title = f"skew of two of 4 receivers, most after 5 s, {name}"
        yield Figure(ID, title, most[OURS], goal=_MOST_AFTER_5_S, details=most)
    for name, path in PATHS.items():
        for scale in (0.5, 3.0):
            told = f"{name}, delays x{scale:g}"
            runs = _runs(plan, told, replace(path, scale=scale))
            yield _figure(f"p99, {told}", runs, _SETTLED, math.inf, _GOALS[name] * scale)
        told = f"{name}, queues x3 on the way out"
        runs = _runs(plan, told, replace(path, skew_out=3.0))
        yield _figure(f"p99, {told}", runs, _SETTLED, math.inf, None)


def _runs(plan: Plan, name: str, path: Path) -> list[Run]:
    found = []
    for seed in range(plan.seeds):
        plan.tell(f"{name}, seed {seed}")
        found.append(run(path, seed))
    return found


def _figure(name: str, runs: list[Run], begin: float, end: float, goal: float | None) -> Figure:
    details = {}
    for who in runs[0].errors:
        skews = sorted(skew for one in runs for skew in one.skews(who, begin, end))
        details[who] = {"p50": percentile(skews, 0.5), "p99": percentile(skews, 0.99), "max": skews[-1]}
    p99 = {who: figures["p99"] for who, figures in details.items()}
    ours, perfect = p99.pop(OURS), p99.pop(PERFECT)
    title = f"skew of two of 4 receivers, {name}"
    best = min(p99, key=lambda who: p99[who])
    why = ""
    if ours > p99[best]:
        why = (
            f"{PERFECT} would have {perfect:.1f} us here, by the noise of the devices' reports alone; the most was"
            f" {details[OURS]['max']:.0f} us, with {best} {details[best]['max']:.0f}; what the clocks of all receivers"
            " are wrong by parts nobody (G1 shows the clocks alone)"
        )
    return Figure(ID, title, ours, goal=goal, anchors=p99, details=details, why=why)
