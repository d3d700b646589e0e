"""Reads a router: what its bindings say, as the plain data of `model.py`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, Final

from echostream.binding import EventBinding, MethodBinding, StreamBinding, bind_event
from echostream.errors import RpcError
from echostream.introspection.model import (
    ErrorDescription,
    EventDescription,
    MethodDescription,
    ServiceDescription,
    StreamDescription,
)
from echostream.routing.router import Router
from echostream_derive import EventSpec, ServiceSpec, SignatureError, marks_of

__all__ = ("describe", "reader")

_FRAMEWORK: Final = ("echostream", "echostream_derive", "builtins", "abc", "typing")
"""Modules of base classes that hold no events of an application."""


def describe(router: Router) -> list[ServiceDescription]:
    """Describe all that a router serves, in the order in which it was registered; what belongs to no service last.

    Events that a service sends are those of its ``emits=``; where it says nothing, and for plain functions, those that
    can be seen in its module and are not listened to: a good guess, and no promise.
    """
    return reader(router)()


def reader(router: Router) -> Callable[[], list[ServiceDescription]]:
    """Return what describes the router as it is now, in any thread: it takes about 2 ms a method."""
    return _Reader(router).read


class _Reader:
    """Sorts methods, events and streams to the services that they belong to."""

    def __init__(self, router: Router) -> None:
        # Copies, because `read` may run in a thread while more is registered.
        self._methods = [*router.methods()]
        self._streams = [*router.streams()]
        self._services = dict(router.services)
        self._binding = router.listeners.binding
        self._found: dict[str, ServiceDescription] = {}
        self._listened = {listener.pattern: listener for listener in router.listeners}
        self._events: set[tuple[str, str]] = set()

    def read(self) -> list[ServiceDescription]:
        services = self._services
        for spec in services.values():
            self._found[spec.name] = ServiceDescription(name=spec.name, version=spec.version, doc=spec.doc)
        for method in self._methods:
            self._service(method.name.rpartition(".")[0]).methods.append(_method(method.binding))
        owners = {stream.name: spec.name for spec in services.values() for stream in spec.streams}
        for name, stream in self._streams:
            self._service(owners.get(name, "")).streams.append(_stream(stream.binding))
        for spec in services.values():
            self._read_events(spec)
        self._read_free_events()
        nameless = self._found.pop("", None)
        return [*self._found.values(), *([nameless] if nameless is not None else [])]

    def _service(self, name: str) -> ServiceDescription:
        return self._found.setdefault(name, ServiceDescription(name=name))

    def _read_events(self, spec: ServiceSpec) -> None:
        for listener in spec.listeners:
            self._add_received(spec.name, listener.event, listener.function)
        if spec.emits is not None:
            sent: Iterable[type] = spec.emits
        else:
            modules = [vars(sys.modules[item.__module__]) for item in spec.cls.__mro__ if _is_users(item)]
            sent = self._unheard(_event_classes(modules))
        for cls in sent:
            self._add_sent(spec.name, cls)

    def _read_free_events(self) -> None:
        """Events of plain functions, the callbacks of ``server.on(...)`` included."""
        functions = [*(item.function for item in self._methods), *(item.function for _, item in self._streams)]
        free = [function for function in functions if not _is_of_service(function, self._services)]
        for pattern, listener in self._listened.items():
            if not _is_of_service(listener.callback, self._services):
                self._add_received("", pattern, listener.callback)
                free.append(listener.callback)
        for cls in self._unheard(_event_classes(_globals_of(free))):
            self._add_sent("", cls)

    def _unheard(self, classes: Iterable[type]) -> Iterator[type]:
        return (cls for cls in classes if _event_spec(cls).name not in self._listened)

    def _add_received(self, service: str, name: str, callback: Callable[..., Any]) -> None:
        binding = self._binding(name)
        doc = _doc(callback) or (_doc(binding.cls) if binding is not None else "")
        self._add(service, name, "received", doc, binding)

    def _add_sent(self, service: str, cls: type) -> None:
        try:
            binding = bind_event(cls)
        except SignatureError:  # never used, or `emit` would have said so
            return
        self._add(service, binding.name, "sent", _doc(cls), binding)

    def _add(self, service: str, name: str, direction: Any, doc: str, binding: EventBinding | None) -> None:
        if (name, direction) in self._events:
            return
        self._events.add((name, direction))
        payload = binding.codec.json_schema() if binding is not None else None
        event = EventDescription(name=name, direction=direction, doc=doc, payload=payload)
        self._service(service).events.append(event)


def _method(binding: MethodBinding) -> MethodDescription:
    spec, items = binding.spec, binding.input_codec
    return MethodDescription(
        name=binding.name,
        doc=spec.doc,
        sends_items=binding.sends_items,
        returns_items=binding.returns_items,
        arguments=binding.arguments_schema(),
        positional=binding.positional,
        input_item=items.json_schema() if items is not None else None,
        result=binding.output_codec.json_schema(written=True),
        errors=[_error(item) for item in binding.raises],
        timeout=spec.timeout,
        idempotent=spec.idempotent,
        safe=spec.safe,
        requires=spec.requires,
    )


def _stream(binding: StreamBinding) -> StreamDescription:
    item = binding.item.json_schema() if binding.item is not None else None
    return StreamDescription(name=binding.spec.name, doc=_doc(binding.spec.function), item=item)


def _error(cls: type[RpcError]) -> ErrorDescription:
    return ErrorDescription(reason=cls.reason or cls.__name__, code=str(cls.code), doc=_doc(cls))


def _doc(thing: object) -> str:
    """Return the docstring that the thing has itself; dataclasses write one that is no help."""
    doc = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    made = isinstance(thing, type) and doc.startswith(f"{thing.__name__}(")
    inherited = isinstance(thing, type) and "__doc__" not in vars(thing)
    return "" if made or inherited else doc


def _is_users(cls: type) -> bool:
    return cls.__module__.partition(".")[0] not in _FRAMEWORK and cls.__module__ in sys.modules


def _is_of_service(function: Callable[..., Any], services: Any) -> bool:
    """Whether it is a method of an object that is registered as a service."""
    owner = type(getattr(function, "__self__", None))
    return any(spec.cls is owner for spec in services.values())


def _globals_of(functions: Iterable[Callable[..., Any]]) -> Iterator[dict[str, Any]]:
    for function in functions:
        plain = getattr(function, "__func__", function)
        if isinstance(plain, FunctionType):
            yield plain.__globals__


def _event_classes(modules: Iterable[dict[str, Any]]) -> Iterator[type]:
    """Yield the event classes that the modules define or import, each once."""
    seen: set[type] = set()
    for names in modules:
        for value in [*names.values()]:
            if isinstance(value, type) and value not in seen and any(isinstance(m, EventSpec) for m in marks_of(value)):
                seen.add(value)
                yield value


def _event_spec(cls: type) -> EventSpec:
    return next(mark for mark in marks_of(cls) if isinstance(mark, EventSpec))
