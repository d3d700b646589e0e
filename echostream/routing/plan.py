"""`Depends`, and the plan of what a function depends on: made and checked once, when the function is registered."""

from __future__ import annotations

import enum
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, cast

from echostream.errors import ConfigurationError
from echostream.session.context import Context
from echostream_derive import (
    Scope,
    SignatureError,
    dependency_of,
    fault,
    is_context,
    label_of,
    location_of,
    misplaced_dependency,
)

__all__ = ("Depends", "Plan", "make_plan")

Life = Literal["call", "session", "app"]

_LIVES: Final = ("call", "session", "app")
"""From the shortest to the longest."""


@dataclass(frozen=True, slots=True)
class Depends:
    """Marks a parameter that a function fills: ``db: Annotated[Database, Depends(get_database)] = INJECTED``.

    Attributes:
        function: plain or async, or a generator that yields the value once and cleans up after it; a class too. Its own
            parameters are dependencies, the `Context` or the `Session`.
        scope: how long the value lives: one ``"call"``, one ``"session"``, or as long as the server or client
            (``"app"``).
        use_cache: whether one call makes it once, however many ask for it.
    """

    __echostream_role__ = "dependency"

    function: Callable[..., Any]
    scope: Life = "call"
    use_cache: bool = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigurationError(
                "Depends",
                f"{type(self.function).__name__} given: give the function itself and do not call it, Depends(function)",
            )
        if self.scope not in _LIVES:
            raise ConfigurationError("Depends", f"scope={self.scope!r} is none of {', '.join(_LIVES)}")
        if not self.use_cache and self.scope != "call":
            raise ConfigurationError(
                "Depends",
                f"use_cache=False makes a value anew, and scope={self.scope!r} makes one for all: drop either",
            )


class _Kind(enum.Enum):
    PLAIN = enum.auto()
    ASYNC = enum.auto()
    GENERATOR = enum.auto()
    ASYNC_GENERATOR = enum.auto()


@dataclass(frozen=True, slots=True)
class _Step:
    """One value to make."""

    function: Callable[..., Any]
    kind: _Kind
    life: Life
    contexts: tuple[str, ...]
    """Parameters that get the context."""
    sessions: tuple[str, ...]
    """Parameters that get the session."""
    values: tuple[tuple[str, int], ...]
    """Parameters that get the value of an earlier step."""

    async def make(self, context: Context, values: list[Any], stack: AsyncExitStack) -> Any:
        """Make the value; `stack` gets what has to be cleaned up after the call."""
        given = {name: values[index] for name, index in self.values}
        if self.life == "app":
            return await context.session.runtime.resources.get(self.function, lambda: self._opened(given))
        given.update(dict.fromkeys(self.sessions, context.session))
        if self.life == "session":
            return await context.session.resources.get(self.function, lambda: self._opened(given))
        given.update(dict.fromkeys(self.contexts, context))
        if self.kind is _Kind.PLAIN:
            made = self.function(**given)
            return await made if inspect.isawaitable(made) else made
        if self.kind is _Kind.ASYNC:
            return await self.function(**given)
        return await stack.enter_async_context(self._opened(given))

    def _opened(self, given: Mapping[str, Any]) -> AbstractAsyncContextManager[Any]:
        """Return the value as a block around its life."""
        if self.kind is _Kind.ASYNC_GENERATOR:
            return asynccontextmanager(self.function)(**given)
        if self.kind is _Kind.GENERATOR:
            return _in_async(contextmanager(self.function)(**given))
        return _made(self.function(**given))


@dataclass(frozen=True, slots=True)
class Plan:
    """What fills the parameters of one function."""

    steps: tuple[_Step, ...]
    results: tuple[tuple[str, int], ...]
    """Parameters, and the step whose value they get."""

    async def fill(self, context: Context, stack: AsyncExitStack) -> dict[str, Any]:
        """Make the values for one call; return the keyword arguments."""
        values: list[Any] = []
        for step in self.steps:
            values.append(await step.make(context, values, stack))
        return {name: values[index] for name, index in self.results}


def make_plan(needs: Mapping[str, Depends], overrides: Mapping[Callable[..., Any], Callable[..., Any]]) -> Plan:
    """Plan what fills the parameters in `needs`.

    Args:
        needs: parameters, each with its marker.
        overrides: functions that stand in for others: for tests.

    Raises:
        SignatureError: a dependency depends on itself, has a parameter that nothing can fill, or wants something that
            does not live as long as it does; says where and what to write.
    """
    planner = _Planner(overrides)
    results = tuple((name, planner.step(marker, ())) for name, marker in needs.items())
    return Plan(tuple(planner.steps), results)


_Way = tuple[Callable[..., Any], ...]
"""The functions that led to one, from the outermost."""


class _Planner:
    """Puts what is needed before what needs it."""

    def __init__(self, overrides: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        self.steps: list[_Step] = []
        self._overrides = overrides
        self._known: dict[tuple[Callable[..., Any], Life], int] = {}

    def step(self, marker: Depends, way: _Way) -> int:
        """Return the number of the step that makes a dependency's value; `way` leads here."""
        function = self._overrides.get(marker.function, marker.function)
        key = (function, marker.scope)
        if function in way:
            circle = " -> ".join(label_of(item) for item in (*way[way.index(function) :], function))
            raise fault(location_of(function), label_of(function), f"depends on itself: {circle}; break the circle")
        if marker.use_cache and key in self._known:
            return self._known[key]
        contexts: list[str] = []
        sessions: list[str] = []
        values: list[tuple[str, int]] = []
        for name, parameter in _parameters(function).items():
            annotation = _annotation(function, parameter)
            if problem := misplaced_dependency(parameter, annotation):
                raise fault(location_of(function), label_of(function), problem)
            inner = dependency_of(annotation)
            if inner is not None:
                values.append((name, self._inner(function, marker, name, inner, way)))
            elif is_context(annotation):
                contexts.append(name)
            elif _is_session(annotation):
                sessions.append(name)
            elif parameter.default is parameter.empty:
                raise _fault(function, name, _unfilled(annotation))
        _check_life(function, marker.scope, contexts, sessions)
        self.steps.append(
            _Step(function, _kind(function), marker.scope, tuple(contexts), tuple(sessions), tuple(values))
        )
        number = len(self.steps) - 1
        if marker.use_cache:
            self._known[key] = number
        return number

    def _inner(
        self,
        function: Callable[..., Any],
        outer: Depends,
        name: str,
        inner: Depends,
        way: tuple[Callable[..., Any], ...],
    ) -> int:
        if _LIVES.index(inner.scope) < _LIVES.index(outer.scope):
            raise _fault(
                function,
                name,
                f"lives as long as one {inner.scope}, but {label_of(function)} as long as the {outer.scope}; give"
                f" {label_of(inner.function)} the scope {outer.scope!r}, or {label_of(function)} {inner.scope!r}",
            )
        return self.step(inner, (*way, function))


def _unfilled(annotation: object) -> str:
    if isinstance(annotation, str):
        return f"names {annotation}, which cannot be seen from its module; import it there, outside TYPE_CHECKING"
    return "cannot be filled; give it a default, or write Context, Session or Annotated[T, Depends(function)]"


def _check_life(function: Callable[..., Any], life: Life, contexts: list[str], sessions: list[str]) -> None:
    if life != "call" and contexts:
        raise _fault(function, contexts[0], f"is the context of one call, but the value outlives it ({life}); drop it")
    if life == "app" and sessions:
        raise _fault(function, sessions[0], "is one session, but the value is for all of them (app); drop it")


def _fault(function: Callable[..., Any], parameter: str, problem: str) -> SignatureError:
    return fault(location_of(function), label_of(function), f"parameter {parameter!r} {problem}")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that may be filled by name."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin that does not tell
        return {}
    for name, item in found.items():
        if item.kind is item.POSITIONAL_ONLY and item.default is item.empty:
            raise _fault(function, name, "is filled by name; move it behind the /")
    hidden = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: item for name, item in found.items() if item.kind not in hidden}


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> object:
    """Return the type of a parameter, or its text where it exists for type checkers only."""
    if parameter.annotation is parameter.empty:
        return None
    try:
        return Scope().resolve(parameter.annotation, _source(function))
    except Exception:  # noqa: BLE001 - evaluating an annotation runs the user's code
        return parameter.annotation


def _source(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function whose module has the names that the annotations use."""
    if isinstance(function, partial):
        return _source(function.func)
    if isinstance(function, type):
        return cast("Callable[..., Any]", cast("Any", function).__init__)
    return function if inspect.isroutine(function) else type(function).__call__


def _is_session(annotation: object) -> bool:
    if isinstance(annotation, str):
        return annotation.strip(" '\"").rpartition(".")[2] == "Session"
    return getattr(annotation, "__echostream_role__", None) == "session"


def _kind(function: Callable[..., Any]) -> _Kind:
    if isinstance(function, type):
        return _Kind.PLAIN
    source = _source(function)
    if inspect.isasyncgenfunction(source):
        return _Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(source):
        return _Kind.GENERATOR
    return _Kind.ASYNC if inspect.iscoroutinefunction(source) else _Kind.PLAIN


@asynccontextmanager
async def _in_async(block: AbstractContextManager[Any]) -> AsyncGenerator[Any, None]:
    with block as value:
        yield value


@asynccontextmanager
async def _made(value: Any) -> AsyncGenerator[Any, None]:
    yield await value if inspect.isawaitable(value) else value
