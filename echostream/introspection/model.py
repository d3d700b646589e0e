"""The description of a server as plain data, as it travels: services with their methods, events and streams.

Every schema is JSON Schema (draft 2020-12) of the wire form and whole in itself: its definitions are in its ``$defs``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = (
    "ErrorDescription",
    "EventDescription",
    "MethodDescription",
    "Schema",
    "ServiceDescription",
    "ServiceSummary",
    "StreamDescription",
)

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDescription:
    """One error that a method declares with ``raises=``."""

    reason: str
    code: str
    """Name of its status, such as ``NOT_FOUND``."""
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodDescription:
    """One callable method."""

    name: str
    """Whole name on the wire: ``orders.place``."""
    doc: str = ""
    sends_items: bool = False
    """Whether the caller sends a stream of items beside the arguments."""
    returns_items: bool = False
    """Whether the answer is a stream of items."""
    arguments: Schema
    """An object with one property for each argument, in the order of the signature."""
    positional: list[str] = field(default_factory=list[str])
    """The arguments that may be passed by position, in their order."""
    input_item: Schema | None = None
    """One item that the caller sends."""
    result: Schema
    """The result, or one item of the answer."""
    errors: list[ErrorDescription] = field(default_factory=list[ErrorDescription])
    timeout: float | None = None
    """Seconds after which a proxy gives up, where the method says so."""
    idempotent: bool = False
    safe: bool = False
    requires: str | None = None
    """Permission without which a call is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDescription:
    """One event that the server listens to, or may send."""

    name: str
    """Its name; a pattern (``price.*``) where the server listens to all that fit it."""
    direction: Literal["received", "sent"]
    doc: str = ""
    payload: Schema | None = None
    """None where any payload is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDescription:
    """One named application stream that the server accepts."""

    name: str
    doc: str = ""
    item: Schema | None = None
    """One item that is sent to the server; None where any is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDescription:
    """One service; the one without a name holds what belongs to none."""

    name: str
    version: str = ""
    doc: str = ""
    methods: list[MethodDescription] = field(default_factory=list[MethodDescription])
    events: list[EventDescription] = field(default_factory=list[EventDescription])
    streams: list[StreamDescription] = field(default_factory=list[StreamDescription])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSummary:
    """One service at a glance."""

    name: str
    version: str = ""
    doc: str = ""
    methods: list[str] = field(default_factory=list[str])
    """Whole names on the wire."""
