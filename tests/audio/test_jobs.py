"""Jobs end together, and threads are waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from echostream.audio.jobs import in_thread, until_first


async def test_the_first_job_that_ends_ends_the_others() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60.0)
        finally:
            ended.append("long")

    async def short() -> None:
        await asyncio.sleep(0)
        ended.append("short")

    await until_first(long(), short())
    assert ended == ["short", "long"]


async def test_what_the_first_raises_is_raised() -> None:
    async def wrong() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await until_first(asyncio.sleep(60.0), wrong())


async def test_who_is_cancelled_waits_for_the_thread() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(10.0)
        done.append(True)

    job = asyncio.ensure_future(in_thread(work))
    await asyncio.to_thread(begun.wait, 10.0)
    job.cancel()
    await asyncio.sleep(0)
    assert not job.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert done == [True]
    assert await in_thread(len, "four") == 4
