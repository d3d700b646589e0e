"""G10: any order, any copies, any losses, a wrap of the sequence: what comes out, and the counts, are exact."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from benches.realtime.order import faults, random_case
from benches.realtime.table import Figure, Plan

__all__ = ("ID", "measure")

ID: Final = "G10"
_CASES_PER_SEED: Final = 500


def measure(plan: Plan) -> Iterator[Figure]:
    wrong, first = 0, ""
    for seed in range(plan.seeds):
        plan.tell(f"cases from {seed * _CASES_PER_SEED}")
        for number in range(seed * _CASES_PER_SEED, (seed + 1) * _CASES_PER_SEED):
            found = faults(random_case(random.Random(number)))
            if found:
                wrong += 1
                first = first or f"case {number}: {found[0]}"
    count = plan.seeds * _CASES_PER_SEED
    yield Figure(ID, f"{count:,} random streams: wrong output or counts", wrong, "", goal=0, why=first)
