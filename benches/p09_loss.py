"""P9: the slowest calls of a hundred where packets are lost, against the same frames over TCP with TLS and grpc.aio.

16 calls of 64 bytes in flight at a round trip of 20 ms. Second copies of packets are counted: beside each peer
EchoStream may put at most 1.3 times that peer's bytes on the wire, headers of IP included. So beside TCP, which gathers
as much in a packet, copies take a quarter, the default; beside grpc.aio every small flight leaves twice. `LOSS` shows
all shares.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from benches.core import Contender, Figures, Plan, Row, arena, compare, contest, engines, missing
from benches.road import NoRoadError, Road, make_road

__all__ = ("ID", "LEAST_SECONDS", "Weather", "echo", "measure", "peers")

ID = "P9"

MAX_BYTES: Final = 1.3
"""Times the peer's bytes on the wire."""
WEATHERS: Final = (0.01, 0.03)
_IN_FLIGHT: Final = 16
_PAYLOAD_BYTES: Final = 64
LEAST_SECONDS: Final = 2.0
"""Of a round: in less TCP stands still too seldom to tell anything."""
_NOTED: Final = ("p50", "p99", "p99.9", "bytes", "packets")


@dataclass(frozen=True)
class Weather:
    """What the road does to packets, each way."""

    loss: float
    burst: float = 0.0
    """Mean seconds for which all are lost (Gilbert-Elliott, in time); 0 for losses one by one."""

    def load(self, payload_bytes: int = _PAYLOAD_BYTES) -> dict[str, float]:
        """Return the arguments of a contest in it; all contenders meet the same in each round."""
        return {"in_flight": _IN_FLIGHT, "payload_bytes": payload_bytes, "loss": self.loss, "burst": self.burst}

    def __str__(self) -> str:
        return f"{self.loss:.0%} loss" + (f" in bursts of {self.burst * 1e3:g} ms" if self.burst else "")


def echo(road: Road, engine: str, **limits: float) -> Contender:
    """Return EchoStream with some limits."""
    text = "".join(f" {name}={value:g}" for name, value in limits.items())
    options = {**road.options, "engine": engine, "limits": limits}
    return Contender(f"{engine}{text}", "benches.lossy:serve", "benches.lossy:connect", options=options)


def peers(road: Road) -> tuple[Contender, Contender]:
    """Return the same frames over TCP, and grpc.aio."""
    return (
        Contender("TCP+TLS", "benches.lossy:serve_tcp", "benches.lossy:connect_tcp", options=road.options),
        Contender("grpc.aio TLS", "benches.lossy:serve_grpc", "benches.lossy:connect_grpc", options=road.options),
    )


def measure(plan: Plan) -> Iterator[Row]:
    note = missing("grpc", "google.protobuf")
    if note:
        yield Row(ID, "p99 where packets are lost", note=note)
        return
    try:
        with make_road() as road:
            yield from _over_road(road, plan)
    except NoRoadError as error:
        yield Row(ID, "p99 where packets are lost, against TCP and grpc.aio", note=f"not run: {error}")
        yield from _through_relay(plan)


def _over_road(road: Road, plan: Plan) -> Iterator[Row]:
    tcp, grpc = peers(road)
    weathers, names = (WEATHERS[-1:], engines()[-1:]) if plan.is_quick else (WEATHERS, engines())
    plan = replace(plan, seconds=max(plan.seconds, LEAST_SECONDS))
    ours = [(echo(road, engine), echo(road, engine, copy_share=1)) for engine in names]
    with arena((tcp, grpc, *(contender for pair in ours for contender in pair)), plan) as contest:
        for weather in map(Weather, weathers):
            results = contest(**weather.load())
            for default, twice in ours:
                yield _row(weather, results, default.name, tcp.name, floor=0.3, goal=0.1)
                yield _row(weather, results, twice.name, grpc.name, floor=0.7, goal=0.4)


def _row(
    weather: Weather, results: dict[str, list[Figures]], ours: str, theirs: str, *, floor: float, goal: float
) -> Row:
    pairs = list(zip(results[ours], results[theirs], strict=True))
    cost = statistics.median(our["bytes"] / their["bytes"] for our, their in pairs)
    row = Row(ID, f"p99, {weather}, {cost:.2f}x the bytes", unit="s", floor=floor, goal=goal, lower_is_better=True)
    compare(row, {ours: results[ours]}, {theirs: results[theirs]}, "p99")
    row.met = bool(row.met) and cost <= MAX_BYTES
    for noted, (our, their) in zip(row.rounds, pairs, strict=True):
        noted.update({key: our[key] for key in _NOTED} | {f"against_{key}": their[key] for key in _NOTED})
    return row


def _through_relay(plan: Plan) -> Iterator[Row]:
    """Compare lanes only: a relay cannot lose the segments of TCP."""
    weather, payload_bytes = Weather(WEATHERS[-1]), 1000
    for engine in engines():
        some, one = (
            Contender(
                f"{engine} lanes={lanes}",
                "benches.lossy:serve_relayed",
                "benches.lossy:connect_relayed",
                options={"engine": engine, "limits": {"lanes": lanes}},
            )
            for lanes in (4, 1)
        )
        results = contest((some, one), plan, **weather.load(payload_bytes))
        row = Row(ID, f"p99 of {payload_bytes:,} bytes through a relay, {weather}", unit="s", lower_is_better=True)
        yield compare(row, {some.name: results[some.name]}, {one.name: results[one.name]}, "p99")
