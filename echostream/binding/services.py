"""Whole services and events, compiled: every method, listener and stream of a class with its codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast, get_origin

from pydantic import BaseModel

from echostream.binding.codec import TypeCodec
from echostream.binding.hints import Hints, item_of
from echostream.binding.methods import MethodBinding, bind_handler
from echostream.types import WireValue
from echostream_derive import (
    EventSpec,
    ListenerSpec,
    ServiceSpec,
    SignatureError,
    StreamSpec,
    dependency_of,
    event_name,
    fault,
    label_of,
    marks_of,
    service_spec,
)

__all__ = (
    "EventBinding",
    "ListenerBinding",
    "ServiceBinding",
    "StreamBinding",
    "bind_event",
    "bind_listener",
    "bind_service",
    "bind_stream",
)

_CACHED = 1024
"""Classes remembered: more than a program has services or events."""

_ITEMS: Final = (BaseModel, bytes, bytearray, memoryview, str, int, float, dict, list, tuple, set)
"""What an item is and no receiver of items."""


class EventBinding:
    """Encodes and decodes the payload of one event.

    Attributes:
        name: the name on the wire.
        cls: the event class.
        codec: its codec.
    """

    __slots__ = ("cls", "codec", "name")

    def __init__(self, name: str, cls: type, codec: TypeCodec) -> None:
        self.name = name
        self.cls = cls
        self.codec = codec

    def __repr__(self) -> str:
        return f"<EventBinding {self.name} {self.cls.__name__}>"

    def encode(self, value: Any) -> WireValue:
        """Return the payload for an event.

        Raises:
            InvalidArgumentError: the value is not of the event's class.
        """
        return self.codec.dump(value, what=self.name)

    def decode(self, wire: WireValue) -> Any:
        """Return the event that a payload stands for.

        Raises:
            InvalidArgumentError: the payload does not fit.
        """
        return self.codec.validate(wire, what=self.name)


@dataclass(frozen=True, slots=True)
class ListenerBinding:
    """One listener: its description, and the payload's class where it is known."""

    spec: ListenerSpec
    event: EventBinding | None
    """None where the payload is passed as a dict."""
    dependencies: Mapping[str, Any]
    """Parameters that dependencies fill, each with its marker."""


@dataclass(frozen=True, slots=True)
class StreamBinding:
    """One stream handler: its description, and the type of the items where ``StreamReceiver[X]`` says it."""

    spec: StreamSpec
    item: TypeCodec | None
    dependencies: Mapping[str, Any]
    """Parameters that dependencies fill, each with its marker."""


@dataclass(frozen=True, slots=True)
class ServiceBinding:
    """One service, ready to serve or to call."""

    name: str
    version: str
    spec: ServiceSpec
    methods: Mapping[str, MethodBinding]
    """By wire name (``orders.place``)."""
    by_attribute: Mapping[str, MethodBinding]
    """The same by the name of the method in the class (``place``)."""
    listeners: tuple[ListenerBinding, ...]
    streams: tuple[StreamBinding, ...]


def bind_service(service: type | ServiceSpec) -> ServiceBinding:
    """Compile a service class, contract or description; a class is compiled once.

    Raises:
        SignatureError: the class is no service, or a type in it does not exist or cannot be validated.
    """
    return _bind_class(service) if isinstance(service, type) else _bind_spec(service)


@lru_cache(maxsize=_CACHED)
def bind_event(cls: type) -> EventBinding:
    """Compile an event class; done once for each.

    Raises:
        SignatureError: the class is no event, or cannot be validated.
    """
    name = event_name(cls)
    if name is None:
        raise fault(f"<{cls.__module__}>", label_of(cls), 'is not an event; decorate it with @event("...")')
    try:
        return EventBinding(name, cls, TypeCodec(cls))
    except SignatureError as error:
        location = next(item.location for item in marks_of(cls) if isinstance(item, EventSpec))
        raise fault(location, label_of(cls), str(error)) from error.__cause__


def bind_listener(spec: ListenerSpec, *, owner: type | None = None) -> ListenerBinding:
    """Find the class of a listener's payload: the one it was declared with, or an annotation that is that event.

    Raises:
        SignatureError: the event class cannot be validated, or a dependency's marker does not exist.
    """
    needs = _dependencies(spec, owner)
    if spec.cls is not None:
        return ListenerBinding(spec, bind_event(spec.cls), needs)
    annotation = _annotation(spec, owner)
    known = isinstance(annotation, type) and event_name(annotation) == spec.event
    return ListenerBinding(spec, bind_event(annotation) if known else None, needs)


def bind_stream(spec: StreamSpec, *, owner: type | None = None) -> StreamBinding:
    """Compile the type of a stream's items.

    Raises:
        SignatureError: it cannot be validated, or the parameter is declared as an item instead of as a receiver.
    """
    annotation, needs = _annotation(spec, owner), _dependencies(spec, owner)
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, _ITEMS):
        shown = cast("type", kind).__name__
        raise fault(
            spec.location,
            label_of(spec.function),
            f"a stream's items come one by one; write StreamReceiver[{shown}] instead of {shown}, and iterate over it",
        )
    item = item_of(annotation)
    if item is None:
        return StreamBinding(spec, None, needs)
    try:
        return StreamBinding(spec, TypeCodec(item), needs)
    except SignatureError as error:
        raise fault(spec.location, label_of(spec.function), f"the items: {error}") from error.__cause__


@lru_cache(maxsize=_CACHED)
def _bind_class(cls: type) -> ServiceBinding:
    return _bind_spec(service_spec(cls))


def _bind_spec(spec: ServiceSpec) -> ServiceBinding:
    by_attribute = {
        attribute: bind_handler(item, owner=spec.cls, wire_name=f"{spec.name}.{item.name}", strict=spec.strict)
        for attribute, item in spec.handlers.items()
    }
    return ServiceBinding(
        name=spec.name,
        version=spec.version,
        spec=spec,
        methods={item.name: item for item in by_attribute.values()},
        by_attribute=by_attribute,
        listeners=tuple(bind_listener(item, owner=spec.cls) for item in spec.listeners),
        streams=tuple(bind_stream(item, owner=spec.cls) for item in spec.streams),
    )


def _dependencies(spec: ListenerSpec | StreamSpec, owner: type | None) -> Mapping[str, Any]:
    """Return the markers of the parameters that dependencies fill."""
    if not spec.dependencies:
        return {}
    hints, found = Hints(spec, owner, label_of(spec.function)), dict[str, Any]()
    for name, annotation in spec.dependencies.items():
        where = f"parameter {name!r}"
        found[name] = dependency_of(hints.resolve(annotation, where))
        if found[name] is None:
            raise hints.fault(where, "turns out to be no dependency; write Annotated[T, Depends(function)]")
    return found


def _annotation(spec: ListenerSpec | StreamSpec, owner: type | None) -> object:
    """Return the type of the first parameter; None where it is not said or exists for type checkers only."""
    try:
        return Hints(spec, owner, label_of(spec.function)).resolve(spec.annotation, "the payload")
    except SignatureError:
        return None
