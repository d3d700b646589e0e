"""CONCURRENCY: typed calls per second with 1 to 4,096 in flight, beside grpc.aio. What one costs must not grow."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Final

from benches.core import BenchError, Plan, Row, arena
from benches.p01_unary import everyone

ID = "CONCURRENCY"

_IN_FLIGHT: Final = (1, 4, 16, 64, 256, 1024, 4096)


def measure(plan: Plan) -> Iterator[Row]:
    contenders, notes = everyone(plan)
    yield from (Row(ID, "typed calls", note=note) for note in notes)
    for contender in contenders:
        row = Row(ID, f"typed calls, {contender.name}", unit="x", lower_is_better=True)
        if "grpc" not in contender.name:
            row.floor, row.goal = 2, 1.25
        try:
            with arena([contender], plan) as contest:
                for in_flight in _IN_FLIGHT:
                    rounds = contest(in_flight=in_flight)[contender.name]
                    row.points.append({"x": in_flight, "y": statistics.median(figures["rate"] for figures in rounds)})
        except BenchError as error:  # such as calls that are late: the peer's curve ends there
            if not row.points:
                raise
            yield Row(ID, f"{contender.name}, more than {row.points[-1]['x']:g} in flight", note=f"not run: {error}")
        row.name = f"cost of a call with {row.points[-1]['x']:g} in flight against the least, {contender.name}"
        row.value = max(point["y"] for point in row.points) / row.points[-1]["y"]
        yield row.judge()
