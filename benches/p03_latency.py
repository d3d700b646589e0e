"""P3: the median time of a typed unary call alone, over aioquic, against grpc.aio with TLS."""

from __future__ import annotations

from collections.abc import Iterator

from benches.core import Plan, Row, compare, contest, missing
from benches.p01_unary import contenders

ID = "P3"


def measure(plan: Plan) -> Iterator[Row]:
    row = Row(ID, "typed unary call alone, p50", unit="s", floor=0.6, goal=0.46, lower_is_better=True)
    row.note = missing("grpc", "google.protobuf")
    if not row.note:
        ours, theirs = contenders()
        results = contest([*ours, *theirs], plan, in_flight=1)
        compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in theirs}, "p50")
    yield row
