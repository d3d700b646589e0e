"""What the decorators found: frozen descriptions of handlers, listeners, streams, events and services.

Plain data without behaviour, made by `signature.py` and `services.py`, read by whoever serves or calls. Annotations are
kept as they were found: a type where it could be resolved at decoration, else its text.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = (
    "CallShape",
    "EventSpec",
    "HandlerOptions",
    "HandlerSpec",
    "ListenerSpec",
    "ParameterRole",
    "ParameterSpec",
    "ServiceOptions",
    "ServiceSpec",
    "StreamSpec",
)


class CallShape(enum.Enum):
    """Which side of a call sends one value and which sends many."""

    UNARY = "unary"
    SERVER_STREAMING = "server streaming"
    CLIENT_STREAMING = "client streaming"
    BIDIRECTIONAL = "bidirectional"

    @classmethod
    def of(cls, *, sends_items: bool, returns_items: bool) -> CallShape:
        """Return the shape of a call whose caller sends and whose handler returns items, or one value."""
        if sends_items:
            return cls.BIDIRECTIONAL if returns_items else cls.CLIENT_STREAMING
        return cls.SERVER_STREAMING if returns_items else cls.UNARY

    @property
    def sends_items(self) -> bool:
        """Whether the caller sends a stream of items."""
        return self in (CallShape.CLIENT_STREAMING, CallShape.BIDIRECTIONAL)

    @property
    def returns_items(self) -> bool:
        """Whether the handler returns a stream of items."""
        return self in (CallShape.SERVER_STREAMING, CallShape.BIDIRECTIONAL)


class ParameterRole(enum.Enum):
    """What fills a parameter."""

    ARGUMENT = "argument"
    """A value that the caller passes."""
    ITEMS = "items"
    """The stream of items that the caller sends."""
    CONTEXT = "context"
    """The framework; callers leave it out."""
    DEPENDENCY = "dependency"
    """What the function in ``Annotated[T, Depends(function)]`` gives; callers leave it out."""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter of a handler, without ``self``."""

    name: str
    role: ParameterRole
    keyword_only: bool
    has_default: bool
    default: object
    positional_only: bool
    annotation: object


@dataclass(frozen=True, kw_only=True)
class HandlerOptions:
    """What ``@handler(...)`` was told; an override without a mark of its own inherits it."""

    name: str | None
    """Wire name; inside a service without the service's name. None in options: the function's own name."""
    timeout: float | None
    """Seconds, or None for no deadline; means something only with `timeout_set`."""
    timeout_set: bool
    """Whether the handler said anything about its timeout."""
    idempotent: bool
    safe: bool
    requires: str | None
    raises: tuple[type[Exception], ...]
    thread: bool


@dataclass(frozen=True, kw_only=True)
class HandlerSpec(HandlerOptions):
    """One callable method."""

    name: str
    attribute: str
    """Name of the method in its class; differs from `name` where the decorator gave another one."""
    shape: CallShape
    parameters: tuple[ParameterSpec, ...]
    result: object
    """Annotation of the result; ``AsyncIterator[X]`` where items are returned."""
    doc: str
    function: Callable[..., Any]
    location: str
    """``file:line`` of the definition."""


@dataclass(frozen=True, kw_only=True)
class CallbackSpec:
    """A function that takes one thing and, if it likes, the context."""

    attribute: str
    annotation: object
    """Annotation of the first parameter, or None."""
    accepts_context: bool
    context_keyword: str | None
    """Name of a keyword-only context parameter; None where the context is the second positional argument."""
    dependencies: Mapping[str, object]
    """Annotations of the parameters that dependencies fill, by name."""
    is_async: bool
    function: Callable[..., Any]
    location: str


@dataclass(frozen=True, kw_only=True)
class ListenerSpec(CallbackSpec):
    """One listener of an event."""

    event: str
    """Event name or pattern (``price.*``)."""
    cls: type | None
    """The event class, where the listener was declared with one."""


@dataclass(frozen=True, kw_only=True)
class StreamSpec(CallbackSpec):
    """The handler of one named application stream."""

    name: str


@dataclass(frozen=True, slots=True)
class EventSpec:
    """One event class."""

    name: str
    cls: type
    location: str


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """What ``@service(...)`` was told; a subclass without a mark of its own inherits it."""

    name: str
    version: str
    strict: bool
    emits: tuple[type, ...] | None
    """Event classes that it sends; None where it does not say."""
    location: str


@dataclass(frozen=True, kw_only=True)
class ServiceSpec(ServiceOptions):
    """One service: a name in front of its handlers, listeners and streams."""

    doc: str
    cls: type
    handlers: Mapping[str, HandlerSpec]
    """By the name of the method in the class."""
    listeners: tuple[ListenerSpec, ...]
    streams: tuple[StreamSpec, ...]
