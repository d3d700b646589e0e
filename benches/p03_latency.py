"""P3: the median time of a typed unary call alone, against grpc.aio with TLS."""

from __future__ import annotations

from collections.abc import Iterator

from benches.core import Plan, Row
from benches.p01_unary import against_grpc

ID = "P3"


def measure(plan: Plan) -> Iterator[Row]:
    for engine, floor, goal in (("aioquic", 0.6, 0.46), ("qh3", 0.4, 0.27)):
        row = Row(ID, "typed unary call alone, p50", unit="s", floor=floor, goal=goal, lower_is_better=True)
        yield against_grpc(row, plan, engine, "p50", in_flight=1)
