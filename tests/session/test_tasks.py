"""Eager starting and sets of tasks with one owner."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from echostream.session.tasks import TaskSet, start_eagerly

_colour: ContextVar[str] = ContextVar("colour", default="none")


async def _in_a_callback(run: Any) -> Any:
    """Run a function from a callback of the loop, where no task is current, as the transports do."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            done.set_result(run())
        except Exception as error:  # noqa: BLE001 - told below
            done.set_exception(error)

    asyncio.get_running_loop().call_soon(call)
    return await done


async def test_what_never_waits_is_done_before_start_returns() -> None:
    async def work() -> int:
        return 7

    def run() -> asyncio.Task[int]:
        task = start_eagerly(work(), loop=asyncio.get_running_loop(), name="quick")
        assert task.done()
        return task

    task = await _in_a_callback(run)
    assert (task.result(), task.get_name()) == (7, "quick")


async def test_the_first_step_runs_at_once_and_the_rest_later() -> None:
    loop, steps, gate = asyncio.get_running_loop(), list[str](), asyncio.Event()

    async def work() -> None:
        steps.append("first")
        await gate.wait()
        steps.append("second")

    def run() -> asyncio.Task[None]:
        task = start_eagerly(work(), loop=loop)
        assert steps == ["first"]
        return task

    task = await _in_a_callback(run)
    assert not task.done()
    gate.set()
    await task
    assert steps == ["first", "second"]


async def test_the_loops_own_call_soon_is_put_back() -> None:
    loop = asyncio.get_running_loop()

    async def work() -> None:
        fired = asyncio.Event()
        loop.call_soon(fired.set)
        await fired.wait()

    task = await _in_a_callback(lambda: start_eagerly(work(), loop=loop))
    await task
    assert "call_soon" not in vars(loop)


async def test_an_eager_step_is_a_step_of_a_real_task() -> None:
    seen: list[object] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))

    task = await _in_a_callback(lambda: start_eagerly(work(), loop=asyncio.get_running_loop()))
    await task
    assert seen == [task]


async def test_an_eager_step_sees_a_copy_of_the_context() -> None:
    async def work() -> str:
        before = _colour.get()
        token = _colour.set("red")
        _colour.reset(token)
        _colour.set("blue")
        return before

    def run() -> str:
        _colour.set("green")
        task = start_eagerly(work(), loop=asyncio.get_running_loop())
        assert _colour.get() == "green"
        return task.result()

    assert await _in_a_callback(run) == "green"


async def test_what_a_finaliser_wants_called_meanwhile_reaches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, called = asyncio.get_running_loop(), list[int]()

    class Task(asyncio.Task[Any]):
        def __init__(self, coroutine: Any, **options: Any) -> None:
            loop.call_soon(called.append, 7)  # as the collector may do at any allocation
            super().__init__(coroutine, **options)

    async def work() -> int:
        return 3

    monkeypatch.setattr("echostream.session.tasks.sys.version_info", (3, 11))
    monkeypatch.setattr("echostream.session.tasks.asyncio.Task", Task)
    task = await _in_a_callback(lambda: start_eagerly(work(), loop=loop))
    assert (task.done(), await task, called) == (True, 3, [7])


async def test_inside_a_task_it_starts_too() -> None:
    outer = asyncio.current_task()

    async def work() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    task = start_eagerly(work(), loop=asyncio.get_running_loop())
    assert await task is task
    assert asyncio.current_task() is outer


async def test_an_error_of_the_first_step_is_the_tasks() -> None:
    async def work() -> None:
        raise ValueError("broken")

    task = await _in_a_callback(lambda: start_eagerly(work(), loop=asyncio.get_running_loop()))
    with pytest.raises(ValueError, match="broken"):
        await task


async def test_a_loop_that_takes_no_attributes_gets_an_ordinary_task(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    class Sealed:
        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

    async def work() -> int:
        return 3

    monkeypatch.setattr("echostream.session.tasks.sys.version_info", (3, 11))
    task = await _in_a_callback(lambda: start_eagerly(work(), loop=Sealed()))  # type: ignore[arg-type]
    assert await task == 3


async def test_python_with_eager_start_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def task(coroutine: Any, **options: Any) -> str:
        coroutine.close()
        made.append(options)
        return "task"

    async def work() -> None: ...

    loop = asyncio.get_running_loop()
    monkeypatch.setattr("echostream.session.tasks.sys.version_info", (3, 12))
    monkeypatch.setattr("echostream.session.tasks.asyncio.Task", task)
    assert start_eagerly(work(), loop=loop, name="n") == "task"  # type: ignore[comparison-overlap]
    monkeypatch.undo()
    assert made == [{"loop": loop, "name": "n", "eager_start": True}]


async def test_a_first_step_without_a_context_of_its_own_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Task:
        def __init__(self, coroutine: Any, *, loop: Any, name: str | None) -> None:
            coroutine.close()
            loop.call_soon(lambda: ran.append("step"))

    async def work() -> None: ...

    loop = asyncio.get_running_loop()
    monkeypatch.setattr("echostream.session.tasks.sys.version_info", (3, 11))
    monkeypatch.setattr("echostream.session.tasks.asyncio.current_task", lambda _: None)
    monkeypatch.setattr("echostream.session.tasks.asyncio.Task", Task)
    start_eagerly(work(), loop=loop)
    assert ran == ["step"]


async def test_a_set_keeps_tasks_until_they_are_done() -> None:
    tasks, gate = TaskSet(asyncio.get_running_loop()), asyncio.Event()
    waiting = tasks.start(gate.wait(), "waits")
    quick = tasks.start(asyncio.sleep(0))
    await quick
    await asyncio.sleep(0)
    assert len(tasks) == 1
    gate.set()
    assert await tasks.wait()
    assert (len(tasks), waiting.result()) == (0, True)


async def test_waiting_for_a_set_can_run_out_of_time() -> None:
    tasks = TaskSet(asyncio.get_running_loop())
    tasks.start(asyncio.Event().wait())
    assert not await tasks.wait(0.001)
    await tasks.cancel()
    assert len(tasks) == 0


async def test_cancelling_a_set_leaves_the_callers_own_task_out() -> None:
    tasks, ended = TaskSet(asyncio.get_running_loop()), list[str]()

    async def closes() -> None:
        await asyncio.sleep(0)
        await tasks.cancel()
        ended.append("closer")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waiter")

    tasks.start(waits())
    await tasks.start(closes())
    assert ended == ["waiter", "closer"]


async def test_an_empty_set_is_waited_for_and_cancelled_at_once() -> None:
    tasks = TaskSet(asyncio.get_running_loop())
    assert await tasks.wait(0)
    await tasks.cancel()
