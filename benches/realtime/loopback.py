"""The programs of G6, each a process of its own (`benches/worker.py`): a server, receivers with own clocks, load.

All read one monotonic clock, which a receiver sees shifted and drifting: so its true offset is known at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.worker import Round
from echostream import RpcClient, RpcServer, handler
from echostream.realtime import ClockFilter, Verdict
from echostream.session import tracking
from echostream.types import SystemClock, clock

__all__ = ("load", "receive", "serve")

_SETTLE: Final = 5.0
"""Seconds from the lock until errors count: bursts come fast until then."""
_EVERY: Final = 0.01
_AT_ONCE_NS: Final = 20_000
"""A comparison of two clocks that takes longer was interrupted by another process, and says nothing."""
_BURST: Final = 8
_TRUE: Final = SystemClock()


@handler("bench.echo")
async def _echo(text: str) -> str:
    return text


@asynccontextmanager
async def serve(engine: str) -> AsyncGenerator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(_echo)
    async with server:
        yield {"url": server.addresses[0], "fingerprint": server.fingerprint}


@asynccontextmanager
async def load(engine: str, url: str, fingerprint: str, rate: int) -> AsyncGenerator[Round]:
    """Call so often in a second, evenly, whatever the answers take."""
    async with RpcClient.connect(url, fingerprint=fingerprint, engine=engine) as client:
        running: set[asyncio.Task[str]] = set()

        async def measure(*, seconds: float) -> dict[str, float]:
            loop, count = asyncio.get_running_loop(), 0
            begin = loop.time()
            while (passed := loop.time() - begin) < seconds:
                while count < passed * rate:
                    count += 1
                    task = asyncio.create_task(client.request("bench.echo", "hello", returns=str))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.sleep(0.001)
            await asyncio.gather(*running)
            return {"rate": count / (loop.time() - begin)}

        yield measure


@asynccontextmanager
async def receive(engine: str, url: str, fingerprint: str, offset_s: float, drift_ppm: float) -> AsyncGenerator[Round]:
    """Read the session's clock on a machine of its own, as far as it can tell."""
    started_ns = _TRUE.monotonic_ns()
    offset_ns, rate = int(offset_s * 1e9), drift_ppm * 1e-6

    def shown_ns() -> int:
        true_ns = _TRUE.monotonic_ns()
        return true_ns + offset_ns + round((true_ns - started_ns) * rate)

    def true_offset_ns(local_ns: float) -> float:
        true_ns = started_ns + (local_ns - offset_ns - started_ns) / (1 + rate)
        return true_ns - local_ns

    clock.monotonic_ns = shown_ns  # type: ignore[method-assign]
    clock.monotonic = lambda: shown_ns() / 1e9  # type: ignore[method-assign]
    probes = _note_probes()

    async def measure(*, seconds: float) -> dict[str, Any]:
        async with RpcClient.connect(url, fingerprint=fingerprint, engine=engine) as client:
            errors: list[float] = []
            outside = 0
            await client.clock.wait_locked()
            await asyncio.sleep(_SETTLE)
            end = _TRUE.monotonic_ns() + seconds * 1e9
            while (before_ns := _TRUE.monotonic_ns()) < end:
                said_ns = client.clock.now_ns()
                after_ns = _TRUE.monotonic_ns()
                if after_ns - before_ns <= _AT_ONCE_NS:
                    error = said_ns - (before_ns + after_ns) / 2
                    errors.append(error / 1e3)
                    outside += abs(error) > client.clock.error_bound_ns
                await asyncio.sleep(_EVERY)
            return {
                "errors": errors,
                "outside": outside,
                "drift_error": client.clock.drift_ppm + drift_ppm,
                "round_trip": client.clock.quality.round_trip_ns / 1e3,
                "best": [(found - true_offset_ns(at_ns)) / 1e3 for at_ns, found in _best(probes)],
            }

    yield measure


def _note_probes() -> list[tuple[int, int, int, int]]:
    """Let the stamps that the filter gets be seen."""
    probes: list[tuple[int, int, int, int]] = []

    class Noting(ClockFilter):
        def add(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> Verdict:
            probes.append((t1_ns, t2_ns, t3_ns, t4_ns))
            return super().add(t1_ns, t2_ns, t3_ns, t4_ns)

    tracking.ClockFilter = Noting  # type: ignore[attr-defined]
    return probes


def _best(probes: list[tuple[int, int, int, int]]) -> list[tuple[float, float]]:
    """Return (local time, offset) by the quickest probe of each eight."""
    found: list[tuple[float, float]] = []
    for start in range(0, len(probes) - _BURST + 1, _BURST):
        t1, t2, t3, t4 = min(
            probes[start : start + _BURST], key=lambda times: times[3] - times[0] - times[2] + times[1]
        )
        found.append(((t1 + t4) / 2, ((t2 - t1) + (t3 - t4)) / 2))
    return found
