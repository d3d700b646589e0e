"""What a server serves, told to people and to tools: reflection, AsyncAPI, and a page to read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from echostream.routing.router import Router

__all__ = ("REFLECTION", "offer_reflection")

REFLECTION: Final = "echostream.reflection.v1.Reflection"
"""Name of the reflection service."""


def offer_reflection(router: Router, allowed: Callable[[Any], bool]) -> None:
    """Let a router serve reflection of itself, made when it is first called, to sessions that `allowed` lets know."""

    @cache
    def routes() -> Router:
        from echostream.introspection.reflection import reflection_router

        return reflection_router(router, allowed)

    router.offer(REFLECTION, routes)
