"""P1: typed unary calls per second, 64 in flight, over aioquic, against grpc.aio with TLS."""

from __future__ import annotations

from collections.abc import Iterator

from benches.core import Contender, Plan, Row, compare, contest, loops, missing

ID = "P1"


def contenders() -> tuple[list[Contender], list[Contender]]:
    """Return (ours, grpc.aio's), on every loop that there is: the better one counts, for both."""
    ours = [
        Contender(f"aioquic {loop}", "benches.typed:serve", "benches.typed:connect", loop, {"engine": "aioquic"})
        for loop in loops()
    ]
    theirs = [
        Contender(f"grpc.aio TLS {loop}", "benches.grpc_typed:serve", "benches.grpc_typed:connect", loop)
        for loop in loops()
    ]
    return ours, theirs


def measure(plan: Plan) -> Iterator[Row]:
    row = Row(ID, "typed unary calls, 64 in flight", unit="calls/s", floor=10, goal=15)
    row.note = missing("grpc", "google.protobuf")
    if not row.note:
        ours, theirs = contenders()
        results = contest([*ours, *theirs], plan, in_flight=64)
        compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in theirs}, "rate")
    yield row
