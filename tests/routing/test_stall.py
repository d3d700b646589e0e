"""Tests for echostream.routing.stall: the wrapper changes nothing but what is logged."""

from __future__ import annotations

import asyncio

import pytest

from echostream.routing.stall import watched
from echostream.types import Clock, clock


class SlowClock(Clock):
    """Says that every look at it came a fixed time after the one before."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


async def test_results_and_errors_pass_through() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert await watched(answer(), "x", clock) == 7
    with pytest.raises(ZeroDivisionError):
        await watched(fail(), "x", clock)


async def test_what_is_awaited_may_fail() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait() -> str:
        try:
            await future
        except KeyError:
            await asyncio.sleep(0)
            return "mended"
        return "fine"

    asyncio.get_running_loop().call_soon(future.set_exception, KeyError("x"))
    assert await watched(wait(), "x", clock) == "mended"


async def test_cancellation_passes_through() -> None:
    seen: list[str] = []

    async def hang() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "never"

    async def run() -> str:
        return await watched(hang(), "x", clock)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_timeouts_and_task_groups_work_inside() -> None:
    async def work() -> list[object]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        return [asyncio.current_task() is own, *(task.result() for task in tasks)]

    own = asyncio.current_task()
    assert await watched(work(), "x", clock) == [True, 0, 1, 2]


def test_closing_closes_what_runs_inside() -> None:
    seen: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            seen.append("closed")

    async def run() -> None:
        await watched(hang(), "x", clock)

    coroutine = run()
    coroutine.send(None)
    coroutine.close()
    assert seen == ["closed"]


@pytest.mark.parametrize(("step", "stalls"), [(0.09, 0), (0.2, 3)])
async def test_each_long_step_is_logged(step: float, stalls: int, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await watched(work(), "orders.place", SlowClock(step))
    assert [record.getMessage() for record in caplog.records] == stalls * [
        "! handler orders.place held the event loop for 200 ms: await something, or mark it @handler(thread=True)"
    ]
