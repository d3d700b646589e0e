"""G9: how long items are held back, and how many come too late all the same, beside NetEq and fixed delays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean
from typing import Final

from benches.realtime.arrivals import NETWORKS, TAILS, Sent, arrivals
from benches.realtime.table import Figure, Plan
from benches.realtime.waits import Outcome, fixed, neteq, ours

__all__ = ("ID", "measure")

ID: Final = "G9"
_PACKETS: Final = 30_000
_SCALED_PACKETS: Final = 12_000
_GOALS: Final = {"ethernet": (16.0, 0.02), "Wi-Fi": (40.0, 0.25), "bad Wi-Fi": (70.0, 0.25)}
_RULES: Final[dict[str, Callable[[list[Sent]], Outcome]]] = {
    "ours": ours,
    "NetEq": neteq,
    "fixed 60 ms": lambda packets: fixed(packets, 60.0),
    "fixed 100 ms": lambda packets: fixed(packets, 100.0),
}


def measure(plan: Plan) -> Iterator[Figure]:
    for name, (target_ms, late_percent) in _GOALS.items():
        outcomes = [each for tail in TAILS for each in _outcomes(plan, name, tail, 1.0, _PACKETS)]
        by_rule = {rule: [outcome[rule] for outcome in outcomes] for rule in _RULES}
        targets = {rule: mean(each.target_ms for each in found) for rule, found in by_rule.items()}
        late = {rule: mean(each.late_percent for each in found) for rule, found in by_rule.items()}
        yield Figure(
            ID, f"{name}: mean target", targets["ours"], "ms", goal=target_ms, anchors={"NetEq": targets["NetEq"]},
            details={"targets_ms": targets},
        )  # fmt: skip
        yield Figure(
            ID, f"{name}: late items", late["ours"], "%", goal=late_percent, details={"late_percent": late}
        )  # fmt: skip
        yield _cost(f"{name}: target + 200 ms for each % late", by_rule)
    for scale in (0.5, 3.0):
        for name in NETWORKS:
            outcomes = [each for tail in TAILS for each in _outcomes(plan, name, tail, scale, _SCALED_PACKETS)]
            by_rule = {rule: [outcome[rule] for outcome in outcomes] for rule in _RULES}
            yield _cost(f"{name} x{scale:g}: target + 200 ms for each % late", by_rule)


def _outcomes(plan: Plan, name: str, tail: str, scale: float, count: int) -> Iterator[dict[str, Outcome]]:
    for seed in range(plan.seeds):
        plan.tell(f"{name} x{scale:g}, {tail}, seed {seed}")
        packets = arrivals(NETWORKS[name], seed, count, scale=scale, tail=tail)
        yield {rule: wait(packets) for rule, wait in _RULES.items()}


def _cost(name: str, by_rule: dict[str, list[Outcome]]) -> Figure:
    costs = {rule: mean(outcome.cost_ms for outcome in found) for rule, found in by_rule.items()}
    value = costs.pop("ours")
    return Figure(ID, name, value, "ms", anchors=costs)
