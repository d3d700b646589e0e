"""Reads the marks back: what a function, an event class or a service class was decorated as.

Marks of methods are inherited by method name along the MRO, so that a contract carries them and its implementation
only the code. The mark of an event lives in its class alone: a subclass of an event is not that event.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from echostream_derive.names import check_name, check_pattern, fault, is_reserved, label_of, location_of
from echostream_derive.signature import Scope, read_callback, read_handler
from echostream_derive.spec import (
    EventSpec,
    HandlerOptions,
    HandlerSpec,
    ListenerSpec,
    ServiceOptions,
    ServiceSpec,
    StreamSpec,
)

__all__ = (
    "EVENT_MARK",
    "MARKS",
    "SERVICE_MARK",
    "UNMARKED",
    "event_name",
    "handler_spec",
    "is_service",
    "listener_spec",
    "marks_of",
    "read_service",
    "service_spec",
    "stream_spec",
)

MARKS = "__echostream_marks__"
SERVICE_MARK = "__echostream_service__"
EVENT_MARK = "__echostream_event__"

UNMARKED = HandlerOptions(
    name=None, timeout=None, timeout_set=False, idempotent=False, safe=False, requires=None, raises=(), thread=False
)
"""What a function says that is registered without a decorator."""

Mark = HandlerSpec | ListenerSpec | StreamSpec


def marks_of(thing: object) -> tuple[Mark | ServiceSpec | EventSpec, ...]:
    """Return what a function, bound method or class was decorated as; empty when it was not."""
    if isinstance(thing, type):
        found = (vars(thing).get(SERVICE_MARK), vars(thing).get(EVENT_MARK))
        return tuple(item for item in found if item is not None)
    function = getattr(thing, "__func__", thing)
    return _marks(function) if isinstance(function, FunctionType) else ()


def event_name(cls: type) -> str | None:
    """Return the name of an event class, or None when the class itself is not decorated with `@event`."""
    spec = vars(cls).get(EVENT_MARK)
    return spec.name if isinstance(spec, EventSpec) else None


def is_service(cls: type) -> bool:
    """Whether the class, or one it inherits from, is decorated with `@service`."""
    return any(SERVICE_MARK in vars(item) for item in cls.__mro__)


def service_spec(cls: type) -> ServiceSpec:
    """Describe a service class or contract; a subclass without `@service` of its own is the service it inherits.

    Raises:
        SignatureError: the class is no service, or a method of it cannot be served.
    """
    for item in cls.__mro__:
        spec = vars(item).get(SERVICE_MARK)
        if isinstance(spec, ServiceSpec):
            # A class decorator above ours, such as dataclass(slots=True), may have made a new class out of the old one.
            return dataclasses.replace(spec, cls=cls) if item is cls else read_service(cls, spec, Scope())
    raise fault(
        location_of(cls), label_of(cls), f'is not a service; decorate it with @service("{cls.__name__.lower()}")'
    )


def handler_spec(func: Callable[..., Any], name: str | None = None) -> HandlerSpec:
    """Describe a free function or a bound method, marked or not.

    Args:
        func: the function.
        name: its wire name; by default that of its mark, else the function's own.

    Raises:
        SignatureError: it cannot be served, or the name is bad.
    """
    if inspect.isclass(func) or not callable(func) or not hasattr(func, "__name__"):
        raise fault(location_of(func), label_of(func), "is not a function; register a function or a bound method")
    marked = next((item for item in marks_of(func) if isinstance(item, HandlerSpec)), None)
    options: HandlerOptions = marked if marked is not None else UNMARKED
    if name is not None:
        options = dataclasses.replace(options, name=name)
    spec = marked if marked is not None and marked.function is func else None
    if spec is None or name is not None:
        spec = read_handler(func, options, attribute=func.__name__, scope=Scope())
    internal = is_reserved(getattr(func, "__module__", None))
    check_name(spec.name, location=spec.location, label=label_of(func), internal=internal)
    return spec


def listener_spec(func: Callable[..., Any], event: type | str, *, scope: Scope | None = None) -> ListenerSpec:
    """Describe a listener, plain or async, ``(payload)`` or ``(payload, ctx)``.

    Args:
        func: the function, bound method or other callable.
        event: an event class, a name, or a pattern such as ``price.*``.
        scope: names that its annotations may use beside its globals.

    Raises:
        SignatureError: the class is no event, the name is bad, or the function takes something else.
    """
    location, label = location_of(func), label_of(func)
    cls = event if isinstance(event, type) else None
    name = event_name(event) if isinstance(event, type) else event
    if cls is not None and name is None:
        raise fault(location, label, f'{cls.__name__} is not an event; decorate the class with @event("...")')
    check_pattern(name, location=location, label=label)
    base = read_callback(func, attribute=getattr(func, "__name__", "callback"), scope=scope or Scope())
    return ListenerSpec(**_fields(base), event=str(name), cls=cls)


def stream_spec(func: Callable[..., Any], name: str, *, scope: Scope | None = None) -> StreamSpec:
    """Describe the handler of a named application stream: async, ``(receiver)`` or ``(receiver, ctx)``.

    Raises:
        SignatureError: the name is bad, or the function is not async or takes something else.
    """
    location, label = location_of(func), label_of(func)
    internal = is_reserved(getattr(func, "__module__", None))
    check_name(name, location=location, label=label, internal=internal)
    attribute = getattr(func, "__name__", "callback")
    base = read_callback(func, attribute=attribute, scope=scope or Scope(), takes="receiver")
    if not base.is_async:
        raise fault(location, label, f"is a plain function; write async def {base.attribute}(...)")
    return StreamSpec(**_fields(base), name=name)


def read_service(cls: type, options: ServiceOptions, scope: Scope) -> ServiceSpec:
    """Collect the marked methods of a class and those that override marked ones.

    Raises:
        SignatureError: a method cannot be served, changes its shape, or two have one name.
    """
    found: list[Mark] = [mark for attribute, marks in _marked(cls) for mark in _current(cls, attribute, marks, scope)]
    handlers = [item for item in found if isinstance(item, HandlerSpec)]
    streams = [item for item in found if isinstance(item, StreamSpec)]
    for kind, items in (("handler", handlers), ("stream", streams)):
        _check_duplicates(options.name, kind, items)
    return ServiceSpec(
        name=options.name,
        version=options.version,
        strict=options.strict,
        emits=options.emits,
        location=options.location,
        doc=inspect.cleandoc(cls.__doc__ or ""),
        cls=cls,
        handlers={item.attribute: item for item in handlers},
        listeners=tuple(item for item in found if isinstance(item, ListenerSpec)),
        streams=tuple(streams),
    )


def _marks(function: FunctionType) -> tuple[Mark, ...]:
    return getattr(function, MARKS, ())


def _marked(cls: type) -> Iterator[tuple[str, tuple[Mark, ...]]]:
    """Yield method names with the marks that count for them: the nearest along the MRO."""
    nearest: dict[str, tuple[Mark, ...]] = {}
    for item in reversed(cls.__mro__):
        for attribute, value in vars(item).items():
            function: Any = getattr(value, "__func__", value)
            marks = _marks(function) if isinstance(function, FunctionType) else ()
            if marks and function is not value:
                kind = type(value).__name__
                raise fault(marks[0].location, label_of(function), f"is a {kind}; make it a plain method with self")
            if marks:
                nearest[attribute] = marks
    yield from nearest.items()


def _current(cls: type, attribute: str, marks: tuple[Mark, ...], scope: Scope) -> Iterator[Mark]:
    """Yield the marks as they are for the function that `cls` has now under that name."""
    function = inspect.getattr_static(cls, attribute)
    if function is None:  # `place = None`: taken out by a subclass
        return
    for mark in marks:
        if not isinstance(function, FunctionType):
            raise fault(mark.location, f"{cls.__name__}.{attribute}", "is overridden by something that is no method")
        if mark.function is function and mark.attribute == attribute:
            yield mark
        else:
            yield _renewed(mark, function, attribute, scope)


def _renewed(mark: Mark, function: FunctionType, attribute: str, scope: Scope) -> Mark:
    """Describe an override as what it overrides."""
    if isinstance(mark, HandlerSpec):
        return _renewed_handler(mark, function, attribute, scope)
    base = read_callback(function, attribute=attribute, scope=scope)
    if isinstance(mark, StreamSpec) and not base.is_async:
        raise fault(base.location, label_of(function), f"is a plain function; write async def {attribute}(...)")
    return dataclasses.replace(mark, **_fields(base))


def _renewed_handler(mark: HandlerSpec, function: FunctionType, attribute: str, scope: Scope) -> HandlerSpec:
    options: HandlerOptions = mark
    if mark.name == mark.attribute:  # named after its function, so the new one is too
        options = dataclasses.replace(mark, name=attribute)
    spec = read_handler(function, options, attribute=attribute, scope=scope)
    if spec.shape is not mark.shape:
        raise fault(
            spec.location,
            label_of(function),
            f"is {spec.shape.value}, but {label_of(mark.function)} that it overrides is {mark.shape.value}; "
            "take over its AsyncIterator parameter and result",
        )
    return spec


def _check_duplicates(service: str, kind: str, items: list[HandlerSpec] | list[StreamSpec]) -> None:
    seen: dict[str, HandlerSpec | StreamSpec] = {}
    for item in items:
        other = seen.setdefault(item.name, item)
        if other is not item:
            raise fault(
                item.location,
                f"{service}.{item.name}",
                f"{kind}s {other.attribute!r} and {item.attribute!r} have the same name; give one of them another",
            )


def _fields(spec: Any) -> dict[str, Any]:
    return {item.name: getattr(spec, item.name) for item in dataclasses.fields(spec)}
