"""Types at the edge of the wire: signatures compiled to validators and encoders. The only place that knows pydantic."""

from __future__ import annotations

from echostream.binding.arguments import split_arguments
from echostream.binding.codec import TypeCodec, codec_for, dump_any
from echostream.binding.methods import MethodBinding, bind_handler
from echostream.binding.services import (
    EventBinding,
    ListenerBinding,
    ServiceBinding,
    StreamBinding,
    bind_event,
    bind_listener,
    bind_service,
    bind_stream,
)

__all__ = (
    "EventBinding",
    "ListenerBinding",
    "MethodBinding",
    "ServiceBinding",
    "StreamBinding",
    "TypeCodec",
    "bind_event",
    "bind_handler",
    "bind_listener",
    "bind_service",
    "bind_stream",
    "codec_for",
    "dump_any",
    "split_arguments",
)
