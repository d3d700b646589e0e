"""Jobs that belong together, and work in threads that is never left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ("in_thread", "until_first")

T = TypeVar("T")


async def until_first(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run all at once until the first ends, then end the others; raise what the first raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a thread; who is cancelled still waits for its end, so that nobody closes what it works on."""
    job = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        raise
