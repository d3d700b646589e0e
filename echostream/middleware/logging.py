"""One line in the log for every call, event and stream: what, how it ended, how long it took, of which session."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from echostream.errors import EchoStreamError, Status
from echostream.middleware.base import Middleware
from echostream.session.chains import Notice, NoticeNext, Opening, OpeningNext, Request, RequestNext
from echostream.session.context import Context
from echostream.types import clock, random_bytes

__all__ = ("REQUEST_ID", "LoggingMiddleware", "sane_request_id")

REQUEST_ID: Final = "es-request-id"
"""Metadata key that carries the id of a request from program to program."""

_SANE_ID: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_FAILURES: Final = frozenset((
    Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.UNIMPLEMENTED, Status.INTERNAL, Status.UNAVAILABLE,
    Status.DATA_LOSS,
))  # fmt: skip
"""Statuses that speak of a fault here and not of the caller (OpenTelemetry's list for RPC servers)."""

T = TypeVar("T")


class LoggingMiddleware(Middleware):
    """Logs calls, events and streams, each with an id that travels on with the calls that it gives rise to.

    Arguments and results are never logged. Each record has the attributes ``direction``, ``method``, ``status``,
    ``duration`` (seconds), ``session`` and ``request_id``, for formatters and for filters.
    """

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        """Make one.

        Args:
            logger: left out, ``echostream.calls``.
            level: of what went well or failed by the caller's fault; a fault of this side is a warning.
        """
        self._log = logger if logger is not None else logging.getLogger("echostream.calls")
        self._level = level

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        request_id = sane_request_id(request.metadata.get(REQUEST_ID)) or _new_id()
        request.state["request_id"] = request_id
        return await self._logged("<", request.method, request.session.id, request_id, call_next, request)

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        request_id = sane_request_id(request.metadata.get(REQUEST_ID)) or _inherited() or _new_id()
        request.state["request_id"] = request.metadata[REQUEST_ID] = request_id
        return await self._logged(">", request.method, request.session.id, request_id, call_next, request)

    async def inbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        request_id = sane_request_id(notice.metadata.get(REQUEST_ID)) or _new_id()
        session = ""
        if notice.context is not None:
            notice.context.state["request_id"] = request_id
            session = notice.context.session.id
        return await self._logged("<", f"event {notice.name}", session, request_id, call_next, notice)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        request_id = sane_request_id(notice.metadata.get(REQUEST_ID)) or _inherited() or _new_id()
        if notice.session is None:
            session = "all"
        else:
            session, notice.metadata[REQUEST_ID] = notice.session.id, request_id
        return await self._logged(">", f"event {notice.name}", session, request_id, call_next, notice)

    async def inbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        request_id = sane_request_id(opening.metadata.get(REQUEST_ID)) or _new_id()
        if opening.context is not None:
            opening.context.state["request_id"] = request_id
        return await self._logged("<", f"stream {opening.name}", opening.session.id, request_id, call_next, opening)

    async def outbound_stream(self, opening: Opening, call_next: OpeningNext) -> Any:
        request_id = sane_request_id(opening.metadata.get(REQUEST_ID)) or _inherited() or _new_id()
        opening.metadata[REQUEST_ID] = request_id
        return await self._logged(">", f"stream {opening.name}", opening.session.id, request_id, call_next, opening)

    async def _logged(
        self, mark: str, what: str, session: str, request_id: str, call_next: Callable[[T], Awaitable[Any]], thing: T
    ) -> Any:
        start, status = clock.monotonic(), Status.OK
        try:
            return await call_next(thing)
        except BaseException as error:
            status = _status_of(error, getattr(thing, "context", None))
            raise
        finally:
            seconds = clock.monotonic() - start
            self._log.log(
                max(self._level, logging.WARNING) if status in _FAILURES else self._level,
                "%s %s %s in %.1f ms (session %s, request %s)",
                mark,
                what if what.isprintable() else ascii(what),  # names come from the peer
                status,
                seconds * 1000,
                session,
                request_id,
                extra={
                    "direction": "inbound" if mark == "<" else "outbound",
                    "method": what,
                    "status": str(status),
                    "duration": seconds,
                    "session": session,
                    "request_id": request_id,
                },
            )


def _status_of(error: BaseException, context: Context | None) -> Status:
    if isinstance(error, EchoStreamError):
        return error.code
    if not isinstance(error, asyncio.CancelledError):
        return Status.INTERNAL
    # A handler is cancelled for either reason; a deadline never passes early.
    late = context is not None and context.time_left == 0
    return Status.DEADLINE_EXCEEDED if late else Status.CANCELLED


def sane_request_id(value: str | bytes | None) -> str | None:
    """Return an id that came from outside, if it can be shown."""
    return value if isinstance(value, str) and _SANE_ID.fullmatch(value) else None


def _inherited() -> str | None:
    """Return the id of the request that is being handled here."""
    try:
        found = Context.current().state.get("request_id")
    except LookupError:
        return None
    return found if isinstance(found, str) else None


def _new_id() -> str:
    return random_bytes(8).hex()
