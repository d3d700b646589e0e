"""Who listens to which event: names, wildcards, once, unsubscribe. Delivery is `inbox.py`'s business."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar

from echostream.binding import EventBinding, bind_event
from echostream.errors import ConfigurationError
from echostream.session.chains import Chain, Notice
from echostream_derive import event_name

__all__ = ("LEFT_OUT", "CallbackT", "Listener", "ListenerTable", "event_key")

CallbackT = TypeVar("CallbackT", bound=Callable[..., Any])

LEFT_OUT: Final[Any] = object()
"""Stands for a callback that is not given, and so is decorated: None is what a function returned that was called."""

_MAX_CACHED: Final = 4096
"""Event names remembered with their listeners: names come from the peer, so their number is bounded."""

_WILDCARDS: Final = frozenset("*?[")


class Listener:
    """One callback for one event name or pattern."""

    __slots__ = ("active", "callback", "chain", "context_keyword", "name", "once", "pattern", "remove", "takes_context")

    def __init__(
        self,
        pattern: str,
        callback: Callable[..., Any],
        *,
        once: bool,
        takes_context: bool,
        context_keyword: str | None = None,
        chain: Chain[Notice] | None = None,
        name: str | None = None,
    ) -> None:
        self.pattern = pattern
        self.callback = callback
        self.once = once
        self.takes_context = takes_context
        self.context_keyword = context_keyword
        self.chain = chain
        """The middleware of its service."""
        self.active = True
        self.remove: Callable[[], None] = _nothing
        """Unsubscribes; set by the table that has it."""
        self.name: str = getattr(callback, "__qualname__", repr(callback)) if name is None else name

    def call(self, payload: object, context: object) -> Any:
        """Run the callback; an async one returns its coroutine."""
        if not self.takes_context:
            return self.callback(payload)
        if self.context_keyword is not None:
            return self.callback(payload, **{self.context_keyword: context})
        return self.callback(payload, context)


class ListenerTable:
    """The listeners of a session, or of a whole server (the parent of its sessions' tables)."""

    __slots__ = ("_bindings", "_cache", "_exact", "_parent", "_patterns", "_version")

    def __init__(self, parent: ListenerTable | None = None) -> None:
        self._parent = parent
        self._exact: dict[str, list[Listener]] = {}
        self._patterns: list[Listener] = []
        self._bindings: dict[str, EventBinding] = {}
        self._cache: dict[str, tuple[int, tuple[Listener, ...]]] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Rises with every change here or in the parent."""
        return self._version + (self._parent.version if self._parent is not None else 0)

    def subscribe(self, event: type | str, callback: Any = LEFT_OUT, *, once: bool = False) -> Callable[..., Any]:
        """Subscribe as `add` does; without a callback return the decorator that subscribes a function."""
        if callback is not LEFT_OUT:
            return self.add(event, callback, once=once)
        event_key(event)  # what is no event is told in its own line, and not where the function is

        def decorate(function: CallbackT) -> CallbackT:
            self.add(event, function, once=once)
            return function

        return decorate

    def add(self, event: type | str, callback: Callable[..., Any], *, once: bool = False) -> Callable[[], None]:
        """Subscribe; return the function that unsubscribes.

        Args:
            event: an event class, a name, or a pattern in which ``*`` stands for any characters (``price.*``).
            callback: plain or async, ``(payload)`` or ``(payload, ctx)``.
            once: unsubscribe before the first delivery.

        Raises:
            ConfigurationError: `event` is no event, or `callback` takes neither one nor two arguments.
        """
        name, binding = event_key(event)
        if binding is not None:
            self.learn(binding)
        return self.add_listener(Listener(name, callback, once=once, takes_context=_takes_context(callback, name)))

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Subscribe a listener whose shape is known; return the function that unsubscribes."""
        if _WILDCARDS.isdisjoint(listener.pattern):
            self._exact.setdefault(listener.pattern, []).append(listener)
        else:
            self._patterns.append(listener)
        self._version += 1
        listener.remove = lambda: self._remove(listener)
        return listener.remove

    def _remove(self, listener: Listener) -> None:
        """Unsubscribe; nothing happens the second time. What is queued for it is no longer delivered."""
        if not listener.active:
            return
        listener.active = False
        self._version += 1
        group = self._exact.get(listener.pattern, self._patterns)
        group.remove(listener)
        if not group and group is not self._patterns:
            del self._exact[listener.pattern]

    def __iter__(self) -> Iterator[Listener]:
        """Iterate over the listeners of this table, without the parent's."""
        for group in self._exact.values():
            yield from group
        yield from self._patterns

    def learn(self, binding: EventBinding) -> None:
        """Know the class of an event, so that its payloads arrive as that class."""
        self._bindings.setdefault(binding.name, binding)

    def binding(self, name: str) -> EventBinding | None:
        """Return the class of an event, where it is known."""
        found = self._bindings.get(name)
        if found is None and self._parent is not None:
            return self._parent.binding(name)
        return found

    def match(self, name: str) -> tuple[Listener, ...]:
        """Return the listeners of an event name: the parent's first, then those of the name, then of patterns."""
        version = self.version
        cached = self._cache.get(name)
        if cached is not None and cached[0] == version:
            return cached[1]
        found = self._find(name)
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[name] = (version, found)
        return found

    def _find(self, name: str) -> tuple[Listener, ...]:
        own = [*self._exact.get(name, ()), *(item for item in self._patterns if fnmatchcase(name, item.pattern))]
        return (*(self._parent.match(name) if self._parent is not None else ()), *own)


def _nothing() -> None:
    """Stand in until a table takes the listener."""


def event_key(event: type | str) -> tuple[str, EventBinding | None]:
    """Return (name or pattern, binding where a class was given).

    Raises:
        ConfigurationError: neither a name nor a class with ``@event``.
    """
    if isinstance(event, str) and event:
        return event, None
    if isinstance(event, type) and event_name(event) is not None:
        binding = bind_event(event)
        return binding.name, binding
    if inspect.isroutine(event):
        name = event.__name__
        raise ConfigurationError(
            "event", f'{name} is a function: name the event first, on("name", {name}), or above it, @client.on("name")'
        )
    shown = event.__name__ if isinstance(event, type) else repr(event)
    raise ConfigurationError("event", f'{shown} is no event: decorate the class with @event("name"), or give a name')


def _takes_context(callback: Callable[..., Any], name: str) -> bool:
    """Whether a callback wants ``(payload, ctx)``."""
    if not callable(callback):
        raise ConfigurationError("callback", f"{callback!r} for {name!r} is no function, plain or async")
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return False  # some builtins show no signature: list.append, queue.put_nowait
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    catches_all = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needs_keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) > 2 or needs_keyword or not (positional or catches_all):
        shown = getattr(callback, "__qualname__", repr(callback))
        raise ConfigurationError("callback", f"{shown} for {name!r} must take (payload) or (payload, ctx)")
    return len(required) == 2
