"""PAYLOAD: the time of a call that is answered with its own 16 B to 64 MiB. Above a packet or two it must be linear."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.core import Contender, Figures, Plan, Row, arena, engines
from benches.p04_bytes import Echo
from benches.worker import Round
from echostream import Limits, RpcClient, RpcServer

ID = "PAYLOAD"

_SIZES: Final = tuple(1 << bits for bits in range(4, 27, 2))
_COMPARED: Final = 1 << 20
"""Bytes from which on a byte costs the same: 1 MiB."""
_LIMITS: Final = Limits(
    max_payload_bytes=_SIZES[-1] + 1024,
    max_reassembly_bytes=2 * _SIZES[-1],
    max_held_bytes=1 << 30,
    max_unsent_bytes=2 * _SIZES[-1],
)
_TIMEOUT: Final = 60.0


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine, limits=_LIMITS)
    server.register(Echo())
    async with server:
        yield {"url": server.addresses[0]}


@asynccontextmanager
async def connect(engine: str, url: str) -> AsyncIterator[Round]:
    async with RpcClient.connect(url, ca="dev", engine=engine, limits=_LIMITS) as client:
        back = client.proxy(Echo, timeout=_TIMEOUT).back

        async def measure(*, size: int, seconds: float) -> Figures:
            times: list[float] = []
            started = now = time.perf_counter()
            while not times or now - started < seconds:
                content = len(times).to_bytes(8) * (size // 8)
                before = time.perf_counter()
                answer = await back(content)
                now = time.perf_counter()
                if answer != content:
                    raise ValueError(f"wrong answer to a call of {size} bytes")
                times.append(now - before)
            return {"p50": statistics.median(times)}

        yield measure


def measure(plan: Plan) -> Iterator[Row]:
    contenders = [
        Contender(engine, f"{__name__}:serve", f"{__name__}:connect", plan.loops[-1], {"engine": engine})
        for engine in engines()
    ]
    curves: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    with arena(contenders, plan) as contest:
        for size in _SIZES:
            for name, rounds in contest(size=size).items():
                curves[name].append({"x": size, "y": statistics.median(figures["p50"] for figures in rounds) * 1e3})
    for name, points in curves.items():
        row = Row(ID, f"a byte of a call of {_SIZES[-1] >> 20} MiB against one of 1 MiB, {name}", unit="x")
        row.lower_is_better, row.floor, row.goal, row.points = True, 2, 1.25, points
        (reference,) = (point for point in points if point["x"] == _COMPARED)
        row.value = points[-1]["y"] / points[-1]["x"] / (reference["y"] / reference["x"])
        yield row.judge()
