"""P1: typed unary calls per second, 64 in flight, over aioquic, against grpc.aio with TLS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benches.core import Contender, Plan, Row, compare, contest, missing

ID = "P1"

PEER = ("grpc", "google.protobuf")


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
    row.note = missing(*PEER, *engine_modules(engine))
    if not row.note:
        ours, theirs = contenders(engine, plan.loops)
        results = contest([*ours, *theirs], plan, in_flight=in_flight)
        compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in theirs}, key)
    return row


def everyone(plan: Plan) -> tuple[list[Contender], list[str]]:
    """Return who takes part in curves of typed calls, on the fastest loop, and a note for each who is missing."""
    loop = plan.loops[-1:]
    found, notes = [], []
    for engine in ("aioquic", "qh3"):
        note = missing(*engine_modules(engine))
        found += [] if note else contenders(engine, loop)[0]
        notes += [note] if note else []
    note = missing(*PEER)
    found += [] if note else contenders("", loop)[1]
    return found, [*notes, note] if note else notes


def engine_modules(engine: str) -> list[str]:
    """Return what must be installed for an engine."""
    return [engine] if engine == "qh3" else []


def measure(plan: Plan) -> Iterator[Row]:
    row = Row(ID, "typed unary calls, 64 in flight", unit="calls/s", floor=10, goal=15)
    yield against_grpc(row, plan, "aioquic", "rate", in_flight=64)
