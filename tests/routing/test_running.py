"""Tests for echostream.routing.running: handlers share a Task until one waits, and notice nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, cast

import pytest

from echostream.routing.invocation import Invocation
from echostream.routing.running import run_together
from echostream.session.tasks import TaskSet
from echostream.types import clock

Task = asyncio.Task[Any]

_colour: ContextVar[str] = ContextVar("running_colour", default="none")


class Fake:
    """The little that the runner needs to know of an invocation."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.task: Task | None = None

    def on_waiting(self, task: Task) -> None:
        self.task = task


class SlowClock:
    """Says that every look at it came a fixed time after the one before."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def run(
    *coroutines: Coroutine[Any, Any, None], now: Callable[[], float] = clock.monotonic
) -> tuple[list[Fake], TaskSet]:
    fakes = [Fake(f"orders.{number}") for number in range(len(coroutines))]
    tasks = TaskSet(asyncio.get_running_loop())
    work = dict(zip(map(id, fakes), coroutines, strict=True))
    run_together(iter(cast("list[Invocation]", fakes)), lambda call: work[id(call)], tasks, now)
    return fakes, tasks


async def in_a_callback(do: Callable[[], Any]) -> Any:
    """Do something where no task is current, as the transports do."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            done.set_result(do())
        except Exception as error:  # noqa: BLE001 - told below
            done.set_exception(error)

    asyncio.get_running_loop().call_soon(call)
    return await done


def own_task() -> Task:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_those_that_never_wait_end_at_once_and_share_a_task() -> None:
    seen: list[int] = []
    names: list[str] = []

    async def note() -> None:
        seen.append(id(own_task()))
        names.append(own_task().get_name())

    fakes, tasks = await in_a_callback(lambda: run(note(), note(), note()))
    assert len(set(seen)) == 1
    assert names == ["orders.0", "orders.1", "orders.2"]
    assert ([fake.task for fake in fakes], len(tasks)) == ([None] * 3, 0)


async def test_one_that_waits_keeps_its_task_and_those_behind_it_get_another() -> None:
    gate, order, seen = asyncio.Event(), list[str](), dict[str, int]()

    async def note(name: str) -> None:
        order.append(name)
        seen[name] = id(own_task())

    async def wait(name: str) -> None:
        await note(name)
        await gate.wait()
        assert id(own_task()) == seen[name]
        order.append(f"{name} again")

    fakes, tasks = await in_a_callback(lambda: run(note("a"), wait("b"), note("c"), wait("d"), note("e")))
    assert order == ["a", "b", "c", "d", "e"]
    assert seen["a"] == seen["b"] != seen["c"] == seen["d"]
    assert [fake.method for fake in fakes if fake.task is not None] == ["orders.1", "orders.3"]
    assert [fake.task.get_name() for fake in fakes if fake.task is not None] == ["orders.1", "orders.3"]
    assert len(tasks) == 2
    gate.set()
    await tasks.wait()
    assert order[5:] == ["b again", "d again"]


async def test_context_variables_are_each_ones_own() -> None:
    seen: list[str] = []

    async def use(wait: bool) -> None:
        seen.append(_colour.get())
        token = _colour.set("red")
        if wait:
            await asyncio.sleep(0)
            seen.append(_colour.get())
            await asyncio.get_running_loop().create_task(asyncio.sleep(0))
            _colour.reset(token)

    _, tasks = await in_a_callback(lambda: run(use(False), use(True), use(False)))
    await tasks.wait()
    assert seen == ["none", "none", "none", "red"]


async def keep_it(kept: list[Any]) -> None:
    kept.append(own_task())


async def cancel_it(kept: list[Any]) -> None:
    own_task().cancel()


async def cancel_it_soon(kept: list[Any]) -> None:
    kept.append(asyncio.get_running_loop().call_soon(own_task().cancel))


@pytest.mark.parametrize("do", [keep_it, cancel_it, cancel_it_soon])
async def test_who_does_something_to_its_task_shares_it_with_none_that_comes_later(do: Any) -> None:
    seen: list[Task] = []
    kept: list[Any] = []

    async def note() -> None:
        await asyncio.sleep(0)
        seen.append(own_task())

    _, tasks = await in_a_callback(lambda: run(do(kept), note()))
    assert await tasks.wait()
    assert len(seen) == 1
    assert not seen[0].cancelled()
    assert seen[0] not in kept


async def test_started_within_a_task_each_gets_a_task_of_its_own() -> None:
    seen: set[int] = set()
    ended: list[Task] = []

    async def note() -> None:
        seen.add(id(own_task()))
        ended.append(own_task())  # keeps it, so that no other one has its address

    _, tasks = run(note(), note())
    await tasks.wait()
    assert len(seen) == 2


async def test_what_is_awaited_may_fail() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def wait() -> None:
        try:
            await future
        except KeyError:
            await asyncio.sleep(0)
            seen.append("mended")

    _, tasks = await in_a_callback(lambda: run(wait()))
    future.set_exception(KeyError("x"))
    await tasks.wait()
    assert seen == ["mended"]


async def test_cancellation_passes_through() -> None:
    seen: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    fakes, tasks = await in_a_callback(lambda: run(hang()))
    await tasks.cancel()
    assert seen == ["cancelled"]
    assert fakes[0].task is not None
    assert fakes[0].task.cancelled()


async def test_closing_closes_what_runs_inside() -> None:
    seen: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("closed")

    fakes, tasks = await in_a_callback(lambda: run(hang()))
    assert fakes[0].task is not None
    coroutine = cast("Coroutine[Any, Any, None]", fakes[0].task.get_coro())
    coroutine.close()
    assert seen == ["closed"]
    await tasks.cancel()


@pytest.mark.parametrize(("step", "stalls"), [(0.09, 0), (0.2, 3)])
async def test_each_long_step_is_logged(step: float, stalls: int, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    _, tasks = await in_a_callback(lambda: run(work(), now=SlowClock(step)))
    await tasks.wait()
    assert [record.getMessage() for record in caplog.records] == stalls * [
        "! handler orders.0 held the event loop for 200 ms: await something, or mark it @handler(thread=True)"
    ]
