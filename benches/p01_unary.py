"""P1: typed unary calls per second, 64 in flight, over aioquic, against grpc.aio with TLS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benches.core import Contender, Plan, Row, compare, contest, missing

ID = "P1"

_PEER = ("grpc", "google.protobuf")


def contenders(engine: str, loops: Sequence[str]) -> tuple[list[Contender], list[Contender]]:
    """Return (ours, grpc.aio's), on each loop: the better one counts, for both."""
    ours = [
        Contender(f"{engine} {loop}", "benches.typed:serve", "benches.typed:connect", loop, {"engine": engine})
        for loop in loops
    ]
    theirs = [
        Contender(f"grpc.aio TLS {loop}", "benches.grpc_typed:serve", "benches.grpc_typed:connect", loop)
        for loop in loops
    ]
    return ours, theirs


def against_grpc(row: Row, plan: Plan, engine: str, key: str, *, in_flight: int) -> Row:
    """Fill in a row of typed calls over an engine against grpc.aio."""
    row.note = missing(*_PEER, *engine_modules(engine))
    if not row.note:
        ours, theirs = contenders(engine, plan.loops)
        results = contest([*ours, *theirs], plan, in_flight=in_flight)
        compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in theirs}, key)
    return row


def engine_modules(engine: str) -> list[str]:
    """Return what must be installed for an engine."""
    return [engine] if engine == "qh3" else []


def measure(plan: Plan) -> Iterator[Row]:
    row = Row(ID, "typed unary calls, 64 in flight", unit="calls/s", floor=10, goal=15)
    yield against_grpc(row, plan, "aioquic", "rate", in_flight=64)
