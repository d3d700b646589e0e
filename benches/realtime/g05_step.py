"""G5: a clock that steps, a machine that slept, a server that starts again."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import PATHS
from benches.realtime.table import Figure, Plan, percentile
from benches.realtime.trials import OURS, trial
from echostream.realtime.clock import ClockFilter

__all__ = ("ID", "measure")

ID: Final = "G5"
_STEP_AT: Final = 60.0
_GOOD_US: Final = 500.0
_PATIENCE: Final = 30.0
"""Seconds after a step that are looked at."""


def measure(plan: Plan) -> Iterator[Figure]:
    for name in PATHS:
        for what, step_ms in (("a step of 50 ms", 50), ("a step of -50 ms", -50), ("10 minutes of sleep", -600_000)):
            times: dict[str, list[float]] = {}
            for seed in range(plan.seeds):
                plan.tell(f"{name}, {what}, seed {seed}")
                for who, seconds in _recovery(name, seed, step_ms).items():
                    times.setdefault(who, []).append(seconds)
            worst = {who: max(values) for who, values in times.items()}
            ours = worst.pop(OURS)
            yield Figure(ID, f"500 us again after {what}, slowest run, {name}", ours, "s", goal=4.0, anchors=worst)
    for name in PATHS:
        errors = [_restarted(plan, name, seed) for seed in range(plan.seeds)]
        title = f"offset error, p95, one burst after the server has restarted, {name}"
        yield Figure(ID, title, percentile(errors, 0.95), goal=_GOOD_US)


def _recovery(name: str, seed: int, step_ms: int) -> dict[str, float]:
    """Return how long each filter is wrong after the step; it falls anywhere between two bursts."""
    at = _STEP_AT + (seed * 0.37) % 2
    run = trial(PATHS[name], seed, seconds=round(_STEP_AT + _PATIENCE), step_ms=step_ms, step_at=at)
    found = dict.fromkeys(run.looks[0].errors, 0.0)
    for look in run.after(at):
        for who, error in look.errors.items():
            if error > _GOOD_US:
                found[who] = look.seconds - at
    return found


def _restarted(plan: Plan, name: str, seed: int) -> float:
    """Return the error 100 ms after the first probe to a new server: the old one's clock is no part of it."""
    plan.tell(f"{name}, restart, seed {seed}")
    random = Random(seed)
    ours = ClockFilter()
    error = 0.0
    for epoch in (1, 2):
        clock = LocalClock(random, offset_ns=random.randrange(10**15), drift_ppm=30.0)
        world = World(random, clock, *PATHS[name].delays(random))
        ours.begin_epoch(epoch)

        def on_sample(sample: Sample) -> None:
            ours.add(sample.t1, sample.t2, sample.t3, sample.t4)

        for now in world.run(100_000_000 if epoch == 2 else 10_000_000_000, 100_000_000, on_sample):
            error = abs(ours.offset_ns(clock.read(now)) - clock.offset_ns(now)) / 1e3
    return error
