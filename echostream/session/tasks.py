"""Starting a coroutine as a real Task whose first step runs at once, so that what never waits costs no loop turn.

Python 3.12 has `eager_start`. On 3.11 the Task is made while the loop's `call_soon` is caught, and the caught first
step is run in place: it stays a real C Task, so that `asyncio.timeout`, `TaskGroup`, `current_task` and context
variables work in it (a coroutine that is stepped outside a Task breaks all four).
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ("TaskSet", "start_eagerly")

T = TypeVar("T")


def start_eagerly(
    coroutine: Coroutine[Any, Any, T], *, loop: asyncio.AbstractEventLoop, name: str | None = None
) -> asyncio.Task[T]:
    """Start a coroutine as a Task in a copy of the current context; run it up to its first wait if possible.

    Inside another task the first step has to wait for its turn on Python 3.11.
    """
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, name=name, eager_start=True)
    if asyncio.current_task(loop) is not None:
        return loop.create_task(coroutine, name=name)
    caught: _Caught = []

    def catch(callback: Callable[..., object], *args: object, context: contextvars.Context | None = None) -> None:
        caught.append((callback, args, context))

    try:
        loop.call_soon = catch  # type: ignore[method-assign, assignment]
    except AttributeError:  # a loop whose instances take no attributes
        return loop.create_task(coroutine, name=name)
    try:
        task = asyncio.Task(coroutine, loop=loop, name=name)
    finally:
        del loop.call_soon
    if len(caught) > 1:
        caught = _own_step(task, caught, loop)
    step, _, context = caught[0]
    if context is None:
        step()
    else:
        context.run(step)
    return task


_Caught = list[tuple[Callable[..., object], tuple[object, ...], contextvars.Context | None]]


def _own_step(task: asyncio.Task[Any], caught: _Caught, loop: asyncio.AbstractEventLoop) -> _Caught:
    """Return the task's step; what a finaliser wanted called, because the collector ran just then, goes to the loop."""
    own: _Caught = []
    for item in caught:
        if getattr(item[0], "__self__", None) is task:
            own.append(item)
        else:
            callback, args, context = item
            loop.call_soon(callback, *args, context=context)
    return own


class TaskSet:
    """Tasks with one owner, which ends them."""

    __slots__ = ("_tasks", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}  # no set: they are cancelled in order

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Start eagerly; keep the task until it is done."""
        task = start_eagerly(coroutine, loop=self.loop, name=name)
        self.own(task)
        return task

    def own(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it is done."""
        if not task.done():
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

    def adopt(self, others: TaskSet) -> None:
        """Own the tasks of another set too."""
        for task in others._tasks:
            self.own(task)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until all ended; return whether they did within `timeout` seconds. The caller's own task is left out."""
        waiting = self._tasks.keys() - {asyncio.current_task()}
        if not waiting:
            return True
        _, pending = await asyncio.wait(waiting, timeout=timeout)
        return not pending

    def cancel_now(self) -> None:
        """Cancel all but the caller's own task, without waiting."""
        own = asyncio.current_task() if self._tasks else None
        for task in list(self._tasks):
            if task is not own:
                task.cancel()

    async def cancel(self) -> None:
        """Cancel all and wait until they ended."""
        self.cancel_now()
        await self.wait()
