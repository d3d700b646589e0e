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
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, cast

from echostream.session.tasks import TaskSet, start_eagerly

if TYPE_CHECKING:
    from echostream.routing.invocation import Invocation

__all__ = ("go_on", "run_together")

_log = logging.getLogger("echostream.routing")

_STALL_SECONDS: Final = 0.1
"""One step longer than this is logged: everybody else on the loop has waited for it."""

Begin = Callable[["Invocation"], Coroutine[Any, Any, None] | None]
"""Serves a call up to its answer; returns what is left to do, if there is something to wait for."""


def run_together(calls: Iterator[Invocation], begin: Begin, tasks: TaskSet, now: Callable[[], float]) -> None:
    """Serve calls up to their answers or first waits; `tasks` owns those that wait.

    Args:
        calls: in order; at its end afterwards.
        begin: serves one.
        tasks: whose end cancels them.
        now: the monotonic clock, in seconds.
    """
    for call in calls:
        # Where none can start at once, each gets a Task of its own: the others are gone when it begins.
        tasks.own(start_eagerly(_run(call, calls, begin, now), loop=tasks.loop))


async def _run(call: Invocation | None, others: Iterator[Invocation], begin: Begin, now: Callable[[], float]) -> None:
    """Serve one call, and others as long as none of them waits."""
    task = cast("asyncio.Task[None]", asyncio.current_task())
    unshared = sys.getrefcount(task)
    name = task.get_name()
    before = now()
    while call is not None:
        if call.method != name:
            name = call.method
            task.set_name(name)
        variables = copy_context()
        waits_for = None
        rest = variables.run(begin, call)
        if rest is not None:
            try:
                waits_for = variables.run(rest.send, None)
            except StopIteration:
                rest = None
        after = now()
        if after - before > _STALL_SECONDS:
            _warn(after - before, name)
        if rest is not None:
            call.on_waiting(task)
            await go_on(rest, waits_for, _Watched(variables, name, now))
            return
        if task.cancelling() or sys.getrefcount(task) != unshared:
            return
        call, before = next(others, None), after


class _Watched:
    """Runs each further step of a handler among its own context variables, and notes how long it takes."""

    __slots__ = ("_name", "_now", "_variables")

    def __init__(self, variables: Context, name: str, now: Callable[[], float]) -> None:
        self._variables = variables
        self._name = name
        self._now = now

    def __call__(self, step: Callable[..., Any], *given: Any) -> Any:
        started = self._now()
        try:
            return self._variables.run(step, *given)
        finally:
            if (seconds := self._now() - started) > _STALL_SECONDS:
                _warn(seconds, self._name)


def _plainly(step: Callable[..., Any], *given: Any) -> Any:
    return step(*given)


@types.coroutine
def go_on(
    coroutine: Coroutine[Any, Any, Any], waits_for: Any, run: Callable[..., Any] = _plainly
) -> Generator[Any, Any, Any]:
    """Run the rest of a coroutine that has begun and waits for something, as `await` does; `run` makes each step."""
    error: BaseException | None = None
    value: Any = None
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            run(coroutine.close)
            raise
        except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine, as `await` does
            error = thrown
        try:
            waits_for = run(coroutine.send, value) if error is None else run(coroutine.throw, error)
        except StopIteration as end:
            return end.value
        finally:
            error = None  # its traceback leads to this frame: such a cycle would wait for the garbage collector


def _warn(seconds: float, name: str) -> None:
    _log.warning(
        "! handler %s held the event loop for %.0f ms: await something, or mark it @handler(thread=True)",
        name,
        seconds * 1000,
    )
