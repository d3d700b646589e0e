"""Hooks, which run when something of a server begins, ends or fails, and plugins: bundles of handlers and hooks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar, overload

from echostream.config import MAX_ERROR_HOOKS, RESOURCE_CLOSE_TIMEOUT
from echostream.errors import ConfigurationError
from echostream.habits import OF_SERVERS, Habits
from echostream.middleware.base import Middleware
from echostream_derive import marks_of

if TYPE_CHECKING:
    from echostream.session.context import Context
    from echostream.session.listeners import CallbackT
    from echostream.session.manager import BroadcastResult, SessionManager
    from echostream.session.runtime import Runtime
    from echostream.session.session import Session

__all__ = ("Hooked", "Hooks", "Host", "Lifespan", "Plugin", "middleware_of")

_log = logging.getLogger("echostream.server")

_KINDS: Final = {
    "on_start": "()",
    "on_stop": "()",
    "on_connect": "(session)",
    "on_disconnect": "(session)",
    "on_error": "(error, context)",
}
"""The hooks, and what they are called with."""

_OVERRIDDEN: Final = (*_KINDS, "targets", "middleware")
"""The methods of a plugin."""

_ALIKE: Final = 0.8
"""From this similarity on (1.0 is equal, see `difflib`) a method's name is taken for one of these, misspelt."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""Given the server, returns the block in which it runs."""


class Host(Protocol):
    """What a plugin may use of its server."""

    @property
    def addresses(self) -> list[str]:
        """The URLs really bound."""
        ...

    @property
    def sessions(self) -> SessionManager:
        """The open sessions."""
        ...

    def register(self, *targets: object) -> None:
        """Serve more."""

    @overload
    def on(self, event: type | str) -> Callable[[CallbackT], CallbackT]: ...
    @overload
    def on(self, event: type | str, callback: Callable[..., Any]) -> Callable[[], None]: ...
    def on(self, event: type | str, callback: Callable[..., Any] = ...) -> Callable[..., Any]:
        """Listen to an event of every session; a decorator without a callback."""
        ...

    def broadcast(
        self, event: object, *payload: object, where: Callable[[Session], bool] | None = None
    ) -> BroadcastResult:
        """Send an event to every session."""
        ...


class Plugin:
    """Handlers, middleware and hooks in one bundle: ``RpcServer(plugins=[Accounts()])``. Override what you need."""

    def targets(self) -> Iterable[object]:
        """Return what to register: objects of services, functions."""
        return ()

    def middleware(self) -> Iterable[Middleware]:
        """Return layers around everything, outside those of the server."""
        return ()

    async def on_start(self, server: Host, /) -> None:
        """Before the server accepts anybody; what is raised here keeps it from starting."""

    async def on_stop(self, server: Host, /) -> None:
        """After the last session has ended."""

    async def on_connect(self, session: Session, /) -> None:
        """A client was let in."""

    async def on_disconnect(self, session: Session, /) -> None:
        """A client that was let in has gone; ``session.ending`` says how."""

    async def on_error(self, error: Exception, context: Context | None, /) -> None:
        """A handler, listener, stream handler, hook or ``authenticate=`` raised what it did not mean to."""

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __iter__(self) -> NoReturn:
            """Say that plugins come in a list."""
            raise ConfigurationError("plugins", f"give a list of plugins: [{type(self).__name__}(...)]")


class Hooked(Habits):
    """A server with hooks. Each method takes a function, plain or async, and returns it: use it as a decorator."""

    _habits = OF_SERVERS

    def __init__(self, plugins: Iterable[Plugin], lifespan: Lifespan | None) -> None:
        self._hooks = Hooks(_checked_lifespan(lifespan))
        for plugin in plugins:
            _check(plugin)
            for kind in _KINDS:
                hook = getattr(plugin, kind)
                if getattr(hook, "__func__", None) is not getattr(Plugin, kind):
                    self._hooks.add(kind, partial(hook, self) if kind in ("on_start", "on_stop") else hook)

    def on_start(self, function: FunctionT) -> FunctionT:
        """Call ``function()`` before the server accepts anybody; what it raises keeps the server from starting."""
        return self._hooks.add("on_start", function)

    def on_stop(self, function: FunctionT) -> FunctionT:
        """Call ``function()`` after the last session has ended, the one added last first."""
        return self._hooks.add("on_stop", function)

    def on_connect(self, function: FunctionT) -> FunctionT:
        """Call ``function(session)`` when a client was let in."""
        return self._hooks.add("on_connect", function)

    def on_disconnect(self, function: FunctionT) -> FunctionT:
        """Call ``function(session)`` when a client that was let in has gone and its handlers have ended."""
        return self._hooks.add("on_disconnect", function)

    def on_error(self, function: FunctionT) -> FunctionT:
        """Call ``function(error, context)`` when a handler, listener, stream handler or hook raised unexpectedly.

        So does what ``authenticate=`` raises. The context is None for that and for hooks. An `RpcError` is an answer
        and no such error.
        """
        return self._hooks.add("on_error", function)


class Hooks:
    """The hooks of one server. None but those of the start can stop it or each other."""

    def __init__(self, lifespan: Lifespan | None) -> None:
        self._lifespan = lifespan
        self._functions: dict[str, list[Callable[..., Any]]] = {kind: [] for kind in _KINDS}
        self._started = False
        self._errors = 0

    def add(self, kind: str, function: FunctionT) -> FunctionT:
        """Call a function from now on."""
        if not callable(function):
            raise ConfigurationError(kind, f"{function!r} is no function: write @server.{kind} above one")
        given = _KINDS[kind]
        if not _takes(function, given.count(",") + 1 if given != "()" else 0):
            shown = getattr(function, "__qualname__", function)
            raise ConfigurationError(kind, f"{shown} cannot be called with {given}: write it so")
        self._functions[kind].append(function)
        return function

    async def start(self, server: object, runtime: Runtime) -> None:
        """Enter the lifespan, then run what is to be run before the server accepts anybody."""
        runtime.on_error = partial(self.failed, runtime)
        if self._lifespan is not None:
            await runtime.resources.get(self._lifespan, partial(self._lifespan, server))
        for function in self._functions["on_start"]:
            await _call(function)
        self._started = True

    async def stop(self, runtime: Runtime) -> None:
        """Run what is to be run after the last session, if the start was complete."""
        await runtime.ending.wait()  # what runs for sessions that have ended
        if self._started:
            self._started = False
            for function in reversed(self._functions["on_stop"]):
                await self._run(runtime, function)

    def opened(self, session: Session) -> None:
        """A client was let in."""
        if functions := self._functions["on_connect"]:
            session.tasks.start(self._run_all(session.runtime, functions, session), "on_connect")

    def closed(self, session: Session) -> None:
        """A client that was let in has gone."""
        if functions := self._functions["on_disconnect"]:
            session.runtime.ending.start(self._after(session, functions), "on_disconnect")

    def failed(self, runtime: Runtime, error: BaseException, context: Context | None) -> None:
        """Something raised unexpectedly."""
        if not isinstance(error, Exception):
            return
        for function in self._functions["on_error"]:
            if self._errors >= MAX_ERROR_HOOKS:
                _log.warning(
                    "! %d hooks for errors run already (MAX_ERROR_HOOKS): one error is logged only", self._errors
                )
                return
            self._errors += 1
            task = runtime.tasks.start(self._run(None, function, error, context), "on_error")
            task.add_done_callback(self._error_told)

    def _error_told(self, _task: asyncio.Task[None]) -> None:
        self._errors -= 1

    async def _after(self, session: Session, functions: Iterable[Callable[..., Any]]) -> None:
        await session.tasks.wait()
        await self._run_all(session.runtime, functions, session)

    async def _run_all(self, runtime: Runtime, functions: Iterable[Callable[..., Any]], session: Session) -> None:
        for function in list(functions):
            await self._run(runtime, function, session)

    async def _run(self, runtime: Runtime | None, function: Callable[..., Any], *args: Any) -> None:
        """Run one hook; its error is logged, and told to the hooks for errors where a runtime is given."""
        try:
            async with asyncio.timeout(RESOURCE_CLOSE_TIMEOUT):
                await _call(function, *args)
        except Exception as error:  # noqa: BLE001 - the user's own code
            _log.exception("! hook %s raised", getattr(function, "__qualname__", function))
            if runtime is not None:
                self.failed(runtime, error, None)


async def _call(function: Callable[..., Any], *args: Any) -> None:
    result = function(*args)
    if isawaitable(result):
        await result


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments; True where it does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _checked_lifespan(lifespan: Lifespan | None) -> Lifespan | None:
    if lifespan is None:
        return None
    if inspect.isasyncgenfunction(lifespan) or inspect.isgeneratorfunction(lifespan):
        raise ConfigurationError("lifespan", f"{lifespan.__qualname__} needs @asynccontextmanager above it")
    if not callable(lifespan) or not _takes(lifespan, 1):
        shown = getattr(lifespan, "__qualname__", repr(lifespan))
        raise ConfigurationError("lifespan", f"{shown} is no function of the server: write lifespan(server)")
    return lifespan


def _check(plugin: object) -> None:
    """Raise where a slip would leave something out: a hook that never runs is worse than none."""
    if not isinstance(plugin, Plugin):
        shown = getattr(plugin, "__qualname__", type(plugin).__qualname__)
        raise ConfigurationError("plugins", f"{shown} is no object of a Plugin class")
    cls = type(plugin)
    for name in dir(cls):
        function = getattr(cls, name, None)
        if name.startswith("_") or name in _OVERRIDDEN or not callable(function) or marks_of(function):
            continue
        if near := get_close_matches(name, _OVERRIDDEN, 1, _ALIKE):
            raise ConfigurationError(
                "plugins",
                f"{cls.__name__}.{name} is never called: did you mean {near[0]}? (your own begin with _)",
            )


def middleware_of(plugins: Iterable[Plugin]) -> Iterator[Middleware]:
    """Iterate over the layers of plugins, the outermost first."""
    for plugin in plugins:
        yield from plugin.middleware()
