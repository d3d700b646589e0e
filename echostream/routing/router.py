"""Which function serves which name: registered services, handlers, listeners and streams."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from echostream.binding import (
    ListenerBinding,
    MethodBinding,
    StreamBinding,
    bind_handler,
    bind_listener,
    bind_service,
    bind_stream,
)
from echostream.errors import ConfigurationError
from echostream.routing.depends import Overrides, injected, injected_items
from echostream.session.chains import NO_CHAINS, Chains
from echostream.session.listeners import Listener, ListenerTable
from echostream.types import WireValue
from echostream_derive import (
    HandlerSpec,
    ListenerSpec,
    ServiceSpec,
    StreamSpec,
    handler_spec,
    is_service,
    marks_of,
)

__all__ = ("MethodRoute", "Router", "StreamRoute")

_NEAR_NAMES = 3
"""Names suggested for an unknown one: more are not read."""

_LIKENESS = 0.6
"""Of a suggested name to the unknown one, between 0 and 1: a slip or two."""


@dataclass(frozen=True, slots=True)
class MethodRoute:
    """One method and the function that serves it."""

    binding: MethodBinding
    function: Callable[..., Any]
    chains: Chains | None = None
    """The middleware of its service; None without any."""
    thread: bool = False
    """Whether the function is to be called in a thread."""
    is_plain: bool = field(init=False)
    """Whether anybody may call it, it gets arguments alone, and gives its result when it is awaited."""
    call: Callable[[WireValue], Any] = field(init=False)
    """Calls a plain function, given what travelled for the arguments."""
    encode: Callable[[Any], WireValue] = field(init=False)
    """Makes what travels of what the function gave; nothing, where it sends items."""

    def __post_init__(self) -> None:
        binding = self.binding
        filled = (binding.items_parameter, binding.context_parameter)
        special = (binding.spec.requires is not None, binding.returns_items, self.thread, *filled)
        object.__setattr__(self, "is_plain", not any(special))
        object.__setattr__(self, "call", binding.caller(self.function))
        object.__setattr__(self, "encode", _nothing if binding.returns_items else binding.encode_result)

    @property
    def name(self) -> str:
        """Wire name."""
        return self.binding.name


@dataclass(frozen=True, slots=True)
class StreamRoute:
    """One application stream and the function that serves it."""

    binding: StreamBinding
    function: Callable[..., Any]
    chains: Chains = NO_CHAINS


class Router:
    """Names to routes; a session's own router looks into its server's when it does not know a name."""

    def __init__(self, parent: Router | None = None) -> None:
        self._parent = parent
        self._methods: dict[str, MethodRoute] = {}
        self._streams: dict[str, StreamRoute] = {}
        self._services: dict[str, ServiceSpec] = {}
        self._offered: dict[str, Callable[[], Router]] = {}
        self.overrides: Overrides = parent.overrides if parent is not None else {}
        """What stands in for the functions of dependencies: for tests."""
        self.listeners: ListenerTable = ListenerTable(parent.listeners if parent is not None else None)

    def __repr__(self) -> str:
        return f"<Router {len(self._methods)} methods {len(self._streams)} streams>"

    def register(self, *targets: object, name: str | None = None, chains: Chains = NO_CHAINS) -> None:
        """Serve objects of ``@service`` classes, and functions marked ``@handler``, ``@listener`` or ``@stream``.

        Args:
            *targets: what to serve; bound methods too.
            name: wire name of the one function given.
            chains: the middleware of these targets alone.

        Raises:
            SignatureError: a type cannot be validated.
            ConfigurationError: a name is taken, or a target is nothing of these.
        """
        if name is not None and len(targets) != 1:
            raise ConfigurationError("name", f"{name!r} names one function, got {len(targets)}: register one at a time")
        claimed: _Claimed = set()
        found = [self._read(target, name, claimed, chains) for target in targets]
        for add in [step for steps in found for step in steps]:
            add()

    def offer(self, service: str, routes: Callable[[], Router]) -> None:
        """Serve a service of the framework that is made when it is first called, and listed nowhere.

        Args:
            service: its name.
            routes: returns the same routes each time.
        """
        self._offered[service] = routes

    def method(self, name: str) -> MethodRoute | None:
        """Return the route of a method."""
        router = self
        while (route := router._methods.get(name)) is None:
            if router._parent is None:
                offered = router._offered.get(name.rpartition(".")[0])
                return offered().method(name) if offered is not None else None
            router = router._parent
        return route

    def stream(self, name: str) -> StreamRoute | None:
        """Return the route of an application stream."""
        route = self._streams.get(name)
        if route is None and self._parent is not None:
            return self._parent.stream(name)
        return route

    @property
    def version(self) -> tuple[int, int, int]:
        """Changes whenever something is registered."""
        return len(self._methods), len(self._streams), self.listeners.version

    @property
    def services(self) -> Mapping[str, ServiceSpec]:
        """The services registered here, by name."""
        return self._services

    def methods(self) -> Iterator[MethodRoute]:
        """Iterate over the methods, the parent's first."""
        if self._parent is not None:
            yield from self._parent.methods()
        yield from self._methods.values()

    def streams(self) -> Iterator[tuple[str, StreamRoute]]:
        """Iterate over the streams, the parent's first."""
        if self._parent is not None:
            yield from self._parent.streams()
        yield from self._streams.items()

    def serves(self, service: str) -> bool:
        """Whether any method's name begins with that of a service."""
        return any(route.name.startswith(service + ".") for route in self.methods())

    def near(self, name: str) -> list[str]:
        """Return the names of methods that look like an unknown one."""
        return _near(name, [route.name for route in self.methods()])

    def near_streams(self, name: str) -> list[str]:
        """Return the names of streams that look like an unknown one."""
        return _near(name, [known for known, _ in self.streams()])

    # Reading what was given, before anything is changed: all of it is registered or nothing.

    def _read(self, target: object, name: str | None, claimed: _Claimed, chains: Chains) -> list[Callable[[], None]]:
        cls = type(target)
        if isinstance(target, type) and is_service(target):
            raise ConfigurationError("register", f"{target.__name__} is a class: give an object, {target.__name__}()")
        if is_service(cls):
            if name is not None:
                raise ConfigurationError("name", f"the service {cls.__name__} has its name from @service")
            return self._read_service(target, cls, claimed, chains)
        marks = [mark for mark in marks_of(target) if isinstance(mark, HandlerSpec | ListenerSpec | StreamSpec)]
        if not callable(target) or not (marks or name):
            raise ConfigurationError(
                "register",
                f"{getattr(target, '__qualname__', repr(target))} is neither an object of a @service class nor marked"
                " with @handler, @listener or @stream",
            )
        whole: str = getattr(target, "__qualname__", "") if isinstance(target, FunctionType) else ""
        owner = whole.rpartition(".")[0]
        if owner and not owner.endswith("<locals>"):
            raise ConfigurationError("register", f"{whole} is a method without its object: give {owner}()")
        return self._read_function(target, name, claimed, chains)

    def _read_service(self, target: object, cls: type, claimed: _Claimed, chains: Chains) -> list[Callable[[], None]]:
        binding = bind_service(cls)
        if not (binding.methods or binding.listeners or binding.streams or binding.spec.emits):
            raise ConfigurationError(
                "register",
                f"{cls.__name__} serves nothing: mark its methods with @handler, @listener or @stream, or name the"
                " events that it sends, @service(emits=[...])",
            )
        _claim("service", binding.name, self._services, claimed)
        for wire_name in binding.methods:
            _claim("method", wire_name, self._methods, claimed)
        for item in binding.streams:
            _claim("stream", item.spec.name, self._streams, claimed)

        routes = [
            self._method_route(method, getattr(target, attribute), chains)
            for attribute, method in binding.by_attribute.items()
        ]
        listeners = [self._listener(item, getattr(target, item.spec.attribute), chains) for item in binding.listeners]
        streams = [self._stream_route(item, getattr(target, item.spec.attribute), chains) for item in binding.streams]

        def add() -> None:
            self._services[binding.name] = binding.spec
            self._methods.update((route.name, route) for route in routes)
            self._streams.update((route.binding.spec.name, route) for route in streams)
            for item, listener in zip(binding.listeners, listeners, strict=True):
                self._add_listener(item, listener)

        return [add]

    def _read_function(
        self, target: Callable[..., Any], name: str | None, claimed: _Claimed, chains: Chains
    ) -> list[Callable[[], None]]:
        steps: list[Callable[[], None]] = []
        owner = type(getattr(target, "__self__", None)) if hasattr(target, "__self__") else None
        marks = marks_of(target)
        listener = next((mark for mark in marks if isinstance(mark, ListenerSpec)), None)
        stream = next((mark for mark in marks if isinstance(mark, StreamSpec)), None)
        if any(isinstance(mark, HandlerSpec) for mark in marks) or not (listener or stream):
            spec = handler_spec(target, name)
            method = bind_handler(spec, owner=owner, wire_name=name or spec.name)
            _claim("method", method.name, self._methods, claimed)
            served = self._method_route(method, target, chains)
            steps.append(lambda: self._methods.__setitem__(method.name, served))
        if listener is not None:
            bound = bind_listener(listener, owner=owner)
            listening = self._listener(bound, target, chains)
            steps.append(lambda: self._add_listener(bound, listening))
        if stream is not None:
            route = self._stream_route(bind_stream(stream, owner=owner), target, chains)
            _claim("stream", route.binding.spec.name, self._streams, claimed)
            steps.append(lambda: self._streams.__setitem__(route.binding.spec.name, route))
        return steps

    def _add_listener(self, binding: ListenerBinding, listener: Listener) -> None:
        if binding.event is not None:
            self.listeners.learn(binding.event)
        self.listeners.add_listener(listener)

    # What serves: the function itself, or around it what fills its dependencies.

    def _method_route(self, binding: MethodBinding, function: Callable[..., Any], chains: Chains) -> MethodRoute:
        thread = binding.spec.thread
        if binding.dependencies and binding.returns_items:
            function = injected_items(function, binding.dependencies, self.overrides)
        elif binding.dependencies:
            function, thread = injected(function, binding.dependencies, self.overrides, thread=thread), False
        return MethodRoute(binding, function, None if chains == NO_CHAINS else chains, thread)

    def _stream_route(self, binding: StreamBinding, function: Callable[..., Any], chains: Chains) -> StreamRoute:
        if binding.dependencies:
            function = injected(function, binding.dependencies, self.overrides)
        return StreamRoute(binding, function, chains)

    def _listener(self, binding: ListenerBinding, function: Callable[..., Any], chains: Chains) -> Listener:
        spec, name = binding.spec, None
        if binding.dependencies:
            name = getattr(function, "__qualname__", None)
            function = injected(function, binding.dependencies, self.overrides)
        return Listener(
            spec.event,
            function,
            once=False,
            takes_context=spec.accepts_context,
            context_keyword=spec.context_keyword,
            chain=chains.inbound_event,
            name=name,
        )


def _nothing(_: object) -> None:
    """Return what travels at the end of a stream of items."""


def _near(name: str, known: list[str]) -> list[str]:
    """Return known names that look like another: those of the same service by their last part, which alone differs."""
    service, dot, last = name.rpartition(".")
    same = {item[len(service + dot) :]: item for item in known if item.startswith(service + dot)}
    near = [same[item] for item in difflib.get_close_matches(last, same, _NEAR_NAMES, _LIKENESS)]
    if near or (dot and same):
        return near
    return difflib.get_close_matches(name, known, _NEAR_NAMES, _LIKENESS)


_Claimed = set[tuple[str, str]]
"""Kinds and names that one registration takes."""


def _claim(what: str, name: str, table: Mapping[str, object], claimed: _Claimed) -> None:
    """Take a name, or raise because another has it."""
    if name in table or (what, name) in claimed:
        raise ConfigurationError("register", f"the {what} {name!r} is registered already: every name serves once")
    claimed.add((what, name))
