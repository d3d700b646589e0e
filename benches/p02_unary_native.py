"""P2: as P1, over qh3."""

from __future__ import annotations

from collections.abc import Iterator

from benches.core import Plan, Row
from benches.p01_unary import against_grpc

ID = "P2"


def measure(plan: Plan) -> Iterator[Row]:
    row = Row(ID, "typed unary calls, 64 in flight", unit="calls/s", floor=18, goal=28)
    yield against_grpc(row, plan, "qh3", "rate", in_flight=64)
