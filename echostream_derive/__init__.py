"""Decorators that mark services, handlers, events, listeners and streams, and readers for the marks.

Standard library only: a package of contracts may depend on this alone.
"""

from __future__ import annotations

from echostream_derive.decorators import event, handler, listener, service, stream
from echostream_derive.names import SignatureError, fault, label_of, location_of
from echostream_derive.services import (
    event_name,
    handler_spec,
    is_service,
    listener_spec,
    marks_of,
    service_spec,
    stream_spec,
)
from echostream_derive.signature import (
    RESERVED_PARAMETERS,
    Scope,
    dependency_of,
    is_context,
    is_items,
    misplaced_dependency,
)
from echostream_derive.spec import (
    CallShape,
    EventSpec,
    HandlerSpec,
    ListenerSpec,
    ParameterRole,
    ParameterSpec,
    ServiceSpec,
    StreamSpec,
)

__all__ = (
    "RESERVED_PARAMETERS",
    "CallShape",
    "EventSpec",
    "HandlerSpec",
    "ListenerSpec",
    "ParameterRole",
    "ParameterSpec",
    "Scope",
    "ServiceSpec",
    "SignatureError",
    "StreamSpec",
    "dependency_of",
    "event",
    "event_name",
    "fault",
    "handler",
    "handler_spec",
    "is_context",
    "is_items",
    "is_service",
    "label_of",
    "listener",
    "listener_spec",
    "location_of",
    "marks_of",
    "misplaced_dependency",
    "service",
    "service_spec",
    "stream",
    "stream_spec",
)
