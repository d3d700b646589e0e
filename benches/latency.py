"""LATENCY: percentiles of typed calls, alone and with 64 in flight, beside grpc.aio."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benches.core import Plan, Row, arena
from benches.load import PERCENTILES
from benches.p01_unary import everyone

ID = "LATENCY"


def measure(plan: Plan) -> Iterator[Row]:
    contenders, notes = everyone(plan)
    yield from (Row(ID, "typed calls", note=note) for note in notes)
    with arena(contenders, plan) as contest:
        for in_flight in (1, 64):
            for name, rounds in contest(in_flight=in_flight).items():
                row = Row(ID, f"typed calls, {in_flight} in flight, p99, {name}", unit="s", lower_is_better=True)
                for percentile in PERCENTILES:
                    seconds = statistics.median(figures[f"p{percentile:g}"] for figures in rounds)
                    row.points.append({"x": percentile, "y": seconds * 1e3})
                row.value = statistics.median(figures["p99"] for figures in rounds)
                yield row
