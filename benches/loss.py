"""LOSS: what P9 leaves out: more losses and bursts of them, every share of copies, and what lanes do. No limits."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from benches.core import Figures, Plan, Row, arena, engines, missing
from benches.p09_loss import LEAST_SECONDS, Weather, echo, peers
from benches.road import NoRoadError, Road, make_road

ID = "LOSS"

_CLIMATE: Final = tuple(Weather(loss) for loss in (0.0, 0.01, 0.03, 0.05))
_BURSTS: Final = Weather(0.03, burst=0.01)
_SHARES: Final = (0.0, 0.25, 1.0)
_LANES: Final = (1, 4, 8, 16)
_SIZES: Final = (64, 256, 1000)
_MOST_ROUNDS: Final = 3


def measure(plan: Plan) -> Iterator[Row]:
    note = missing("grpc", "google.protobuf")
    if note:
        yield Row(ID, "p99 where packets are lost", note=note)
        return
    plan = replace(plan, rounds=min(plan.rounds, _MOST_ROUNDS), seconds=max(plan.seconds, LEAST_SECONDS))
    try:
        with make_road() as road:
            yield from _against_loss(road, plan)
            yield from _against_lanes(road, plan)
    except NoRoadError as error:
        yield Row(ID, "p99 where packets are lost", note=f"not run: {error}")


def _against_loss(road: Road, plan: Plan) -> Iterator[Row]:
    ours = [echo(road, engine, copy_share=share) for engine in engines() for share in _SHARES]
    with arena((*peers(road), *ours), plan) as contest:
        results = [contest(**weather.load()) for weather in _CLIMATE]
        for name in results[0]:
            curve = {weather.loss * 100: result[name] for weather, result in zip(_CLIMATE, results, strict=True)}
            yield _row(f"64 bytes, {_CLIMATE[2]}", curve, name, shown=3.0)
        for name, rounds in contest(**_BURSTS.load()).items():
            yield _row(f"64 bytes, {_BURSTS}", {3.0: rounds}, name, shown=3.0)


def _against_lanes(road: Road, plan: Plan) -> Iterator[Row]:
    weather = _CLIMATE[2]
    for size in _SIZES:
        for engine in engines():
            contenders = [echo(road, engine, lanes=lanes, lane_payload_bytes=0, copy_share=0) for lanes in _LANES]
            with arena(contenders, plan) as contest:
                results = contest(**weather.load(size))
            curve = dict(zip(map(float, _LANES), results.values(), strict=True))
            yield _row(f"{size:,} bytes on 4 lanes, {weather}", curve, engine, shown=4)


def _row(name: str, curve: Mapping[float, Sequence[Figures]], who: str, *, shown: float) -> Row:
    """Return p99 of calls; the points have the other figures, too."""
    row = Row(ID, f"p99, {name}, {who}", unit="s", lower_is_better=True, rounds=list(curve[shown]))
    for x, rounds in curve.items():
        middle = {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
        row.points.append({"x": x, "y": middle["p99"] * 1e3} | middle)
    row.value = statistics.median(figures["p99"] for figures in curve[shown])
    return row
