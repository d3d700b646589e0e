"""G5: a clock that steps, a machine that slept, a server that starts again."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import PATHS
from benches.realtime.table import Figure, Plan
from benches.realtime.trials import ours_and_anchors, trial
from echostream.realtime.clock import ClockFilter

__all__ = ("ID", "measure")

ID: Final = "G5"
_SECOND: Final = 1_000_000_000
_STEP_AT: Final = 60.0
_GOOD_US: Final = 500.0
_PATIENCE: Final = 30.0
"""Seconds after a step that are looked at."""


_STEPS: Final[dict[str, dict[str, int]]] = {
    "a step of 50 ms": {"step_ms": 50},
    "a step of -50 ms": {"step_ms": -50},
    "10 minutes of sleep": {"sleep_s": 600},
}


def measure(plan: Plan) -> Iterator[Figure]:
    for name in PATHS:
        for what, step in _STEPS.items():
            times: dict[str, list[float]] = {}
            for seed in range(plan.seeds):
                plan.tell(f"{name}, {what}, seed {seed}")
                for who, seconds in _recovery(name, seed, step).items():
                    times.setdefault(who, []).append(seconds)
            worst = {who: max(values) for who, values in times.items()}
            ours, anchors = ours_and_anchors(worst)
            title = f"500 us again after {what}, slowest run, {name}"
            yield Figure(ID, title, ours, "s", goal=4.0, anchors=anchors, details=worst)
        slowest = max(_restarted(plan, name, seed) for seed in range(plan.seeds))
        yield Figure(ID, f"500 us after a restart of the server, slowest run, {name}", slowest, "s", goal=4.0)


def _recovery(name: str, seed: int, step: dict[str, int]) -> dict[str, float]:
    """Return how long each filter is wrong after the step; it falls anywhere between two bursts."""
    at = _STEP_AT + (seed * 0.37) % 2
    run = trial(PATHS[name], seed, seconds=round(_STEP_AT + _PATIENCE), step_at=at, **step)
    found = dict.fromkeys(run.looks[0].errors, 0.0)
    for look in run.after(at):
        for who, error in look.errors.items():
            if error > _GOOD_US:
                found[who] = look.seconds - at
    return found


def _restarted(plan: Plan, name: str, seed: int) -> float:
    """Return how long the offset is wrong after the first probe to a new server, which states its epoch."""
    plan.tell(f"{name}, restart, seed {seed}")
    random = Random(seed)
    ours = ClockFilter()
    wrong_until = 0

    def on_sample(sample: Sample) -> None:
        ours.add(sample.t1, sample.t2, sample.t3, sample.t4)

    for epoch in (1, 2):
        clock = LocalClock(random, offset_ns=random.randrange(10**15), drift_ppm=30.0)
        world = World(random, clock, *PATHS[name].delays(random))
        ours.begin_epoch(epoch)
        wrong_until = 0
        for now in world.run(round(_PATIENCE) * _SECOND, _SECOND // 10, on_sample):
            if abs(ours.offset_ns(clock.read(now)) - world.offset_ns()) > _GOOD_US * 1e3:
                wrong_until = now
    return wrong_until / _SECOND
