"""Limits on the size of what passes, smaller than those of the connection: for one service, or in one direction."""

from __future__ import annotations

from typing import Any

from echostream.errors import ConfigurationError, ResourceError
from echostream.middleware.base import Middleware
from echostream.session.chains import Item, ItemNext, Notice, NoticeNext, Request, RequestNext
from echostream.types import WireValue

__all__ = ("SizeLimit", "size_of")


class SizeLimit(Middleware):
    """Refuses what is too large with RESOURCE_EXHAUSTED: arguments, results, events, items.

    Counted are the bytes of texts and binary values and eight for everything else, before it is packed.
    """

    def __init__(self, *, inbound: int | None = None, outbound: int | None = None) -> None:
        """Make one.

        Args:
            inbound: bytes of one thing that comes: the arguments of a call, an event, an item, an answer.
            outbound: bytes of one thing that leaves.

        Raises:
            ConfigurationError: neither is given, or one is not above 0.
        """
        for name, value in (("inbound", inbound), ("outbound", outbound)):
            if value is not None and value <= 0:
                raise ConfigurationError(name, f"{value!r} must be above 0 bytes")
        if inbound is None and outbound is None:
            raise ConfigurationError("inbound", "give inbound=, outbound= or both")
        self._inbound = inbound
        self._outbound = outbound

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        _check("arguments of", request.method, [request.args, request.kwargs], self._inbound)
        reply = await call_next(request)
        _check("the result of", request.method, reply, self._outbound)
        return reply

    async def outbound_request(self, request: Request, call_next: RequestNext) -> Any:
        _check("arguments of", request.method, [request.args, request.kwargs], self._outbound)
        reply = await call_next(request)
        _check("the result of", request.method, reply, self._inbound)
        return reply

    async def inbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        _check("event", notice.name, notice.payload, self._inbound)
        return await call_next(notice)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext) -> Any:
        _check("event", notice.name, notice.payload, self._outbound)
        return await call_next(notice)

    async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
        _check("an item of", item.name, item.payload, self._inbound)
        return await call_next(item)

    async def outbound_item(self, item: Item, call_next: ItemNext) -> Any:
        _check("an item of", item.name, item.payload, self._outbound)
        return await call_next(item)


def size_of(value: WireValue) -> int:
    """Return about how many bytes a wire value is: those of its texts and binaries, and eight for all else."""
    size, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, bytes):
            size += len(item)
        elif isinstance(item, str):
            size += len(item) if item.isascii() else len(item.encode())
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
        else:
            size += 8
    return size


def _check(what: str, name: str, value: WireValue, limit: int | None) -> None:
    if limit is None:
        return
    size = size_of(value)
    if size > limit:
        raise ResourceError(f"{what} {name}: {size} bytes are over the limit of {limit}", current=size, limit=limit)
