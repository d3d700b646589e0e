"""The onion around calls, events and items: `Middleware`, and layers that are ready to use.

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echostream.middleware.auth import BearerToken, TokenAuthentication
    from echostream.middleware.base import Middleware
    from echostream.middleware.logging import LoggingMiddleware
    from echostream.middleware.rate_limit import RateLimit
    from echostream.middleware.retry import Retry
    from echostream.middleware.size_limit import SizeLimit
    from echostream.middleware.timeout import DeadlineMiddleware, TimeoutMiddleware
    from echostream.session.chains import Item, ItemNext, Notice, NoticeNext, Opening, OpeningNext, Request, RequestNext

__all__ = (
    "BearerToken",
    "DeadlineMiddleware",
    "Item",
    "ItemNext",
    "LoggingMiddleware",
    "Middleware",
    "Notice",
    "NoticeNext",
    "Opening",
    "OpeningNext",
    "RateLimit",
    "Request",
    "RequestNext",
    "Retry",
    "SizeLimit",
    "TimeoutMiddleware",
    "TokenAuthentication",
)

_MODULES = {
    "echostream.middleware.auth": ("BearerToken", "TokenAuthentication"),
    "echostream.middleware.base": ("Middleware",),
    "echostream.middleware.logging": ("LoggingMiddleware",),
    "echostream.middleware.rate_limit": ("RateLimit",),
    "echostream.middleware.retry": ("Retry",),
    "echostream.middleware.size_limit": ("SizeLimit",),
    "echostream.middleware.timeout": ("DeadlineMiddleware", "TimeoutMiddleware"),
    "echostream.session.chains": (
        "Item",
        "ItemNext",
        "Notice",
        "NoticeNext",
        "Opening",
        "OpeningNext",
        "Request",
        "RequestNext",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'echostream.middleware' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
