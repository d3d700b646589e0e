"""The service that tells a peer what can be called, heard and opened here, with JSON Schema of all of it.

It is made when it is first asked for, and never announced: calls pay nothing for it.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from echostream.errors import RpcError, Status
from echostream.introspection import REFLECTION
from echostream.introspection.describe import reader
from echostream.introspection.model import MethodDescription, ServiceDescription, ServiceSummary
from echostream.routing.router import Router
from echostream.session.context import Context
from echostream.types import INJECTED
from echostream_derive import handler, service

if TYPE_CHECKING:
    from echostream.session.session import Session

__all__ = ("Reflection", "reflection_router")

T = TypeVar("T")

_NEAR_NAMES: Final = 3
"""Names suggested for an unknown one: more are not read."""


@service(REFLECTION)
class Reflection:
    """Describes what the server serves."""

    def __init__(self, router: Router, allowed: Callable[[Session], bool]) -> None:
        """Describe a router to the sessions that `allowed` lets know."""
        self._router = router
        self._allowed = allowed
        self._made: tuple[object, list[ServiceDescription]] | None = None

    @handler("ListServices", safe=True)
    async def list_services(self, *, ctx: Context = INJECTED) -> list[ServiceSummary]:
        """List the services with the names of their methods; what belongs to none comes last, without a name."""
        return [
            ServiceSummary(
                name=item.name, version=item.version, doc=item.doc, methods=[method.name for method in item.methods]
            )
            for item in await self._services(ctx)
        ]

    @handler("DescribeService", safe=True)
    async def describe_service(self, name: str, *, ctx: Context = INJECTED) -> ServiceDescription:
        """Describe one service: methods, events and streams."""
        return _named(name, {item.name: item for item in await self._services(ctx)}, "service")

    @handler("DescribeMethod", safe=True)
    async def describe_method(self, method: str, *, ctx: Context = INJECTED) -> MethodDescription:
        """Describe one method, by its whole name on the wire."""
        return _named(method, {item.name: item for one in await self._services(ctx) for item in one.methods}, "method")

    @handler("Describe", safe=True)
    async def describe(self, *, ctx: Context = INJECTED) -> AsyncIterator[ServiceDescription]:
        """Describe everything, one service at a time."""
        for item in await self._services(ctx):
            yield item

    async def _services(self, ctx: Context) -> list[ServiceDescription]:
        """Return the description, made anew when something was registered since, without holding up the event loop."""
        if not self._allowed(ctx.session):
            raise RpcError(Status.UNAUTHENTICATED, "what is served here is told to those who have authenticated")
        key = self._router.version
        if self._made is None or self._made[0] != key:
            self._made = key, await asyncio.to_thread(reader(self._router))
        return self._made[1]


def reflection_router(router: Router, allowed: Callable[[Session], bool]) -> Router:
    """Return the routes of a reflection service for a router."""
    made = Router()
    made.register(Reflection(router, allowed))
    return made


def _named(name: str, found: dict[str, T], what: str) -> T:
    if name in found:
        return found[name]
    near = difflib.get_close_matches(name, found, _NEAR_NAMES, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise RpcError(Status.NOT_FOUND, f"there is no {what} {name[:80]!r}{hint}")
