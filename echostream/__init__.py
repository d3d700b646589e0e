"""EchoStream: programs that talk in real time over one authenticated connection.

Names are imported when they are first used (PEP 562), so that ``import echostream`` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echostream.builder import ServerBuilder
    from echostream.client import RpcClient
    from echostream.config import Limits, RetrySettings
    from echostream.discovery.mdns_browser import MdnsResolver
    from echostream.discovery.resolver import StaticResolver
    from echostream.discovery.service import Arrived, Departed, ServiceInfo
    from echostream.errors import (
        CertificateError,
        CloseCode,
        ConfigurationError,
        ConnectError,
        ConnectionLostError,
        DeadlineExceededError,
        EchoStreamError,
        InvalidArgumentError,
        LocalProtocolError,
        ProtocolError,
        RemoteProtocolError,
        ResourceError,
        RpcError,
        ServiceNotFoundError,
        Status,
        StreamResetError,
        TransportError,
    )
    from echostream.middleware.auth import BearerToken, TokenAuthentication
    from echostream.middleware.base import Middleware
    from echostream.middleware.logging import LoggingMiddleware
    from echostream.middleware.rate_limit import RateLimit
    from echostream.middleware.retry import Retry
    from echostream.middleware.size_limit import SizeLimit
    from echostream.middleware.timeout import DeadlineMiddleware, TimeoutMiddleware
    from echostream.plugin import Plugin
    from echostream.routing.plan import Depends
    from echostream.server import RpcServer
    from echostream.session.arrivals import TimedItem
    from echostream.session.call import Call
    from echostream.session.chains import Item, Notice, Request
    from echostream.session.clock import SessionClock
    from echostream.session.clock_quality import ClockQuality
    from echostream.session.context import Context
    from echostream.session.emitter import EventAck
    from echostream.session.manager import BroadcastResult
    from echostream.session.pending import Progress
    from echostream.session.quality import ChannelQuality, SessionQuality
    from echostream.session.session import Principal, Session
    from echostream.session.streams import StreamReceiver, StreamSender
    from echostream.session.timing import CallTiming
    from echostream.types import INJECTED
    from echostream_derive import SignatureError, event, handler, listener, service, stream

__all__ = (
    "INJECTED",
    "Arrived",
    "BearerToken",
    "BroadcastResult",
    "Call",
    "CallTiming",
    "CertificateError",
    "ChannelQuality",
    "ClockQuality",
    "CloseCode",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "Context",
    "DeadlineExceededError",
    "DeadlineMiddleware",
    "Departed",
    "Depends",
    "EchoStreamError",
    "EventAck",
    "InvalidArgumentError",
    "Item",
    "Limits",
    "LocalProtocolError",
    "LoggingMiddleware",
    "MdnsResolver",
    "Middleware",
    "Notice",
    "Plugin",
    "Principal",
    "Progress",
    "ProtocolError",
    "RateLimit",
    "RemoteProtocolError",
    "Request",
    "ResourceError",
    "Retry",
    "RetrySettings",
    "RpcClient",
    "RpcError",
    "RpcServer",
    "ServerBuilder",
    "ServiceInfo",
    "ServiceNotFoundError",
    "Session",
    "SessionClock",
    "SessionQuality",
    "SignatureError",
    "SizeLimit",
    "StaticResolver",
    "Status",
    "StreamReceiver",
    "StreamResetError",
    "StreamSender",
    "TimedItem",
    "TimeoutMiddleware",
    "TokenAuthentication",
    "TransportError",
    "event",
    "handler",
    "listener",
    "service",
    "stream",
)

_MODULES = {
    "echostream.builder": ("ServerBuilder",),
    "echostream.client": ("RpcClient",),
    "echostream.config": ("Limits", "RetrySettings"),
    "echostream.discovery.mdns_browser": ("MdnsResolver",),
    "echostream.discovery.resolver": ("StaticResolver",),
    "echostream.discovery.service": ("Arrived", "Departed", "ServiceInfo"),
    "echostream.errors": (
        "CertificateError",
        "CloseCode",
        "ConfigurationError",
        "ConnectError",
        "ConnectionLostError",
        "DeadlineExceededError",
        "EchoStreamError",
        "InvalidArgumentError",
        "LocalProtocolError",
        "ProtocolError",
        "RemoteProtocolError",
        "ResourceError",
        "RpcError",
        "ServiceNotFoundError",
        "Status",
        "StreamResetError",
        "TransportError",
    ),
    "echostream.middleware.auth": ("BearerToken", "TokenAuthentication"),
    "echostream.middleware.base": ("Middleware",),
    "echostream.middleware.logging": ("LoggingMiddleware",),
    "echostream.middleware.rate_limit": ("RateLimit",),
    "echostream.middleware.retry": ("Retry",),
    "echostream.middleware.size_limit": ("SizeLimit",),
    "echostream.middleware.timeout": ("DeadlineMiddleware", "TimeoutMiddleware"),
    "echostream.plugin": ("Plugin",),
    "echostream.routing.plan": ("Depends",),
    "echostream.server": ("RpcServer",),
    "echostream.session.arrivals": ("TimedItem",),
    "echostream.session.call": ("Call",),
    "echostream.session.chains": ("Item", "Notice", "Request"),
    "echostream.session.clock": ("SessionClock",),
    "echostream.session.clock_quality": ("ClockQuality",),
    "echostream.session.context": ("Context",),
    "echostream.session.emitter": ("EventAck",),
    "echostream.session.manager": ("BroadcastResult",),
    "echostream.session.pending": ("Progress",),
    "echostream.session.quality": ("ChannelQuality", "SessionQuality"),
    "echostream.session.session": ("Principal", "Session"),
    "echostream.session.streams": ("StreamReceiver", "StreamSender"),
    "echostream.session.timing": ("CallTiming",),
    "echostream.types": ("INJECTED",),
    "echostream_derive": ("SignatureError", "event", "handler", "listener", "service", "stream"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'echostream' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
