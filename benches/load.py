"""The load that clients put on their servers: so many calls in flight, in turns, or from so many clients."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

__all__ = ("PERCENTILES", "Call", "allow_files", "cost_in_turns", "drive")

K = TypeVar("K")

Call = Callable[[int], Coroutine[Any, Any, None]]
"""Makes one call, and raises when the answer is wrong."""

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


async def cost_in_turns(calls: Mapping[K, Call], *, rounds: int, per_round: int) -> dict[K, list[float]]:
    """Return the microseconds of this process' time that a call of each contender takes, round by round.

    All sides are in this process; a round is `per_round` calls of each in turn, and a first one, not counted, warms up.
    """
    times: dict[K, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time()
            for number in range(per_round):
                await call(number)
            times[name].append((time.process_time() - started) / per_round * 1e6)
    return {name: found[1:] for name, found in times.items()}


def allow_files(count: int) -> bool:
    """Let this process have so many sockets, one for each client; return whether the system lets it."""
    wanted = count + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted <= hard
