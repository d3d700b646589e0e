"""Time for calls: how long one may take, and whether what is left is worth beginning."""

from __future__ import annotations

import asyncio
from typing import Any

from echostream.config import checked_seconds
from echostream.errors import ConfigurationError, DeadlineExceededError
from echostream.middleware.base import Middleware
from echostream.session.chains import Request, RequestNext

__all__ = ("DeadlineMiddleware", "TimeoutMiddleware")


class TimeoutMiddleware(Middleware):
    """Ends every call after so many seconds, whatever its deadline: handlers of this side, and calls that it makes."""

    def __init__(self, timeout: float, *, items: bool = False) -> None:
        """Make one.

        Args:
            timeout: seconds.
            items: whether calls with streams of items are meant too; they may be meant to go on.

        Raises:
            ConfigurationError: `timeout` is not above 0.
        """
        self._timeout = checked_seconds("timeout", timeout)
        self._items = items

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        if not self._meant(request):
            return await call_next(request)
        return await _within(self._timeout, request, call_next)

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        if self._meant(request):
            request.timeout = self._timeout if request.timeout is None else min(request.timeout, self._timeout)
        return await call_next(request)

    def _meant(self, request: Request) -> bool:
        return self._items or not (request.sends_items or request.returns_items)


class DeadlineMiddleware(Middleware):
    """Sees to the deadlines of callers: gives one to a call without, cuts one too far away, refuses one too near.

    For handlers. Calls with streams of items keep what they have, apart from `least`.
    """

    def __init__(self, *, default: float | None = None, longest: float | None = None, least: float = 0.0) -> None:
        """Make one.

        Args:
            default: seconds for a call without a deadline; None leaves it without.
            longest: seconds that a call may take at the most; None for any time.
            least: seconds that must be left when a call comes; with less it is refused at once, because its answer
                would be too late.

        Raises:
            ConfigurationError: a number is not above 0, or none is given.
        """
        if default is None and longest is None and not least:
            raise ConfigurationError("default", "give default=, longest= or least=: without them nothing is done")
        self._default = default if default is None else checked_seconds("default", default)
        self._longest = longest if longest is None else checked_seconds("longest", longest)
        self._least = checked_seconds("least", least) if least else 0.0

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        left = request.context.time_left if request.context is not None else None
        if left is not None and left < self._least:
            raise DeadlineExceededError(
                f"{left:.3g} s are left, and {self._least:.3g} s are needed", details={"unprocessed": True}
            )
        if request.sends_items or request.returns_items:
            return await call_next(request)
        wanted = self._default if left is None else left
        if self._longest is not None and (wanted is None or wanted > self._longest):
            wanted = self._longest
        if wanted is None or wanted == left:
            return await call_next(request)
        return await _within(wanted, request, call_next)


async def _within(seconds: float, request: Request, call_next: RequestNext) -> Any:
    """Run the rest with a deadline that nested calls inherit."""
    deadline = asyncio.get_running_loop().time() + seconds
    if request.context is not None:
        request.context.shorten(deadline)
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope:
            return await call_next(request)
    except TimeoutError:
        if not scope.expired():  # the handler's own
            raise
        raise DeadlineExceededError(f"not done within {seconds:.3g} s", duration=seconds) from None
