"""Functions whose dependencies are filled before they run and cleaned up after: put around them at registration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from echostream.errors import LocalProtocolError
from echostream.routing.plan import Depends, Plan, make_plan
from echostream.session.context import Context
from echostream_derive import label_of

__all__ = ("Overrides", "injected", "injected_items")

Overrides = dict[Callable[..., Any], Callable[..., Any]]
"""Functions of dependencies, and what stands in for them."""


class _Injector:
    """Makes the dependencies of one function."""

    __slots__ = ("_function", "_needs", "_overrides", "_plan")

    def __init__(self, function: Callable[..., Any], needs: Mapping[str, Depends], overrides: Overrides) -> None:
        self._function = function
        self._needs = needs
        self._overrides = overrides
        self._plan = make_plan(needs, {})

    @property
    def plan(self) -> Plan:
        """As planned at registration, unless a test put other functions in."""
        return make_plan(self._needs, self._overrides) if self._overrides else self._plan

    def swallowed(self) -> LocalProtocolError:
        """Build the error for a clean-up that hid another one."""
        return LocalProtocolError(
            f"a dependency of {label_of(self._function)} swallowed the error of the call: raise it again after the"
            " clean-up, or clean up in `finally`"
        )


def injected(
    function: Callable[..., Any], needs: Mapping[str, Depends], overrides: Overrides, *, thread: bool = False
) -> Callable[..., Any]:
    """Return a function that fills the parameters in `needs`, calls, and cleans up; `thread` calls in a thread.

    Raises:
        SignatureError: as `make_plan`.
    """
    injector = _Injector(function, needs, overrides)

    async def run(*args: Any, **kwargs: Any) -> Any:
        context = Context.current()
        async with AsyncExitStack() as stack:
            filled = partial(function, *args, **kwargs, **await injector.plan.fill(context, stack))
            if thread:
                return await _in_thread(context, filled)
            result = filled()
            return await result if hasattr(result, "__await__") else result
        raise injector.swallowed()

    return run


async def _in_thread(context: Context, filled: Callable[[], Any]) -> Any:
    """Call in a thread. It cannot be cancelled, so wait for its end: what it uses is cleaned up after it."""
    runtime = context.session.runtime
    thread = runtime.threads.submit(copy_context().run, filled)
    work = asyncio.wrap_future(thread, loop=runtime.loop)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not thread.cancel() and not work.done():
            with suppress(asyncio.CancelledError):  # once is enough: the session may end meanwhile
                await asyncio.wait({work})
        raise


def injected_items(
    function: Callable[..., AsyncIterator[Any]], needs: Mapping[str, Depends], overrides: Overrides
) -> Callable[..., AsyncIterator[Any]]:
    """Return the same for a function that yields items: what it needs lives until the last one was sent."""
    injector = _Injector(function, needs, overrides)

    async def run(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            items = function(*args, **kwargs, **await injector.plan.fill(Context.current(), stack))
            close = getattr(items, "aclose", None)
            if close is not None:
                stack.push_async_callback(close)
            async for item in items:
                yield item
            return
        raise injector.swallowed()

    return run
