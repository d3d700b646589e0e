"""The load that every client puts on its server: so many calls in flight, each answer checked."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ("PERCENTILES", "drive")

PERCENTILES: Final = (50, 75, 90, 95, 99, 99.9)


async def drive(
    call: Callable[[int], Coroutine[Any, Any, bool]], *, in_flight: int, seconds: float
) -> dict[str, float]:
    """Keep `in_flight` calls running; `call(number)` makes one and returns whether the answer was right.

    Returns:
        ``rate`` in calls per second, ``calls``, and in seconds the percentiles ``p50``, ``p75``, ``p90``, ``p95``,
        ``p99`` and ``p99.9``.

    Raises:
        ValueError: an answer was wrong.
    """
    times: list[float] = []
    clock = time.perf_counter
    until = clock() + seconds

    async def caller(first: int) -> None:
        number, now = first, clock()
        while now < until:
            right = await call(number)
            before, now = now, clock()
            times.append(now - before)
            if not right:
                raise ValueError(f"wrong answer to call {number}")
            number += in_flight

    started = clock()
    async with asyncio.TaskGroup() as group:
        for first in range(in_flight):
            group.create_task(caller(first))
    elapsed = clock() - started
    cuts = statistics.quantiles(times, n=1000)
    return {"rate": len(times) / elapsed, "calls": len(times)} | {
        f"p{percentile:g}": cuts[round(percentile * 10) - 1] for percentile in PERCENTILES
    }
