"""Jobs that belong together: when one ends, all do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ("until_first",)


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
