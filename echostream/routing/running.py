"""Running handlers: those that came together and never wait share one Task, and every step of each is timed.

A Task costs more than a short handler, so a handler gets its own only when it first waits for something: then the Task
in which it began is its own, and those behind it go on in another one. Each has its own context variables. A handler
that kept its Task, cancelled it, or put a callback on it shares it with none that comes later.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, cast

from echostream.session.tasks import TaskSet, start_eagerly

if TYPE_CHECKING:
    from echostream.routing.invocation import Invocation

__all__ = ("Run", "run_together")

_log = logging.getLogger("echostream.routing")

_STALL_SECONDS: Final = 0.1
"""One step longer than this is logged: everybody else on the loop has waited for it."""

Run = tuple["Invocation", Coroutine[Any, Any, None], Context]
"""A call, what serves it, and the context variables to do so in."""


def run_together(runs: Iterator[Run], tasks: TaskSet, now: Callable[[], float]) -> None:
    """Run handlers up to their ends or first waits; `tasks` owns those that wait.

    Args:
        runs: in order; at its end afterwards.
        tasks: whose end cancels them.
        now: the monotonic clock, in seconds.
    """
    for run in runs:
        # Where none can start at once, each gets a Task of its own: the others are gone when it begins.
        tasks.own(start_eagerly(_run(run, runs, now), loop=tasks.loop))


async def _run(run: Run | None, others: Iterator[Run], now: Callable[[], float]) -> None:
    """Run one handler, and others as long as none of them waits."""
    task = cast("asyncio.Task[None]", asyncio.current_task())
    unshared = sys.getrefcount(task)
    before = now()
    while run is not None:
        invocation, coroutine, variables = run
        task.set_name(invocation.method)
        waits_for, waits = None, True
        try:
            waits_for = variables.run(coroutine.send, None)
        except StopIteration:
            waits = False
        after = now()
        if after - before > _STALL_SECONDS:
            _warn(after - before, invocation.method)
        if waits:
            invocation.on_waiting(task)
            await _go_on(run, waits_for, now)
            return
        if task.cancelling() or sys.getrefcount(task) != unshared:
            return
        run, before = next(others, None), after


@types.coroutine
def _go_on(run: Run, waits_for: Any, now: Callable[[], float]) -> Generator[Any, Any, None]:
    """Run the rest of a handler, as `await` does."""
    invocation, coroutine, variables = run
    error: BaseException | None = None
    value: Any = None
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            variables.run(coroutine.close)
            raise
        except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine, as `await` does
            error = thrown
        started = now()
        try:
            waits_for = variables.run(coroutine.send, value) if error is None else variables.run(coroutine.throw, error)
        except StopIteration:
            return
        finally:
            error = None  # its traceback leads to this frame: such a cycle would wait for the garbage collector
            if (seconds := now() - started) > _STALL_SECONDS:
                _warn(seconds, invocation.method)


def _warn(seconds: float, name: str) -> None:
    _log.warning(
        "! handler %s held the event loop for %.0f ms: await something, or mark it @handler(thread=True)",
        name,
        seconds * 1000,
    )
