"""`Middleware`, the base of every layer of the onion, and its compilation to the chains that calls run through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from echostream.errors import ConfigurationError
from echostream.session.chains import (
    NO_CHAINS,
    Chain,
    Chains,
    Item,
    ItemNext,
    Notice,
    NoticeNext,
    Request,
    RequestNext,
    both,
)

__all__ = ("Middleware", "compile_chains")

_KINDS = tuple(Chains.__dataclass_fields__)


class Middleware:
    """One layer around calls, events and items. Override what you need; what you leave alone costs nothing.

    Every method gets the thing on its way and `call_next`, which hands it on to the next layer: change the thing
    before, look at the outcome after, catch what it raises, or do not call it at all. Return what `call_next` returned,
    or something else instead. What a method raises is what the caller sees, as if the handler had raised it.

    *Inbound* is what the peer sent, *outbound* what this side sends. Around a handler `call_next` may be called once;
    around a call of this side each `call_next` is another attempt.
    """

    async def inbound_request(self, request: Request, call_next: RequestNext, /) -> Any:
        """Around a handler: `call_next` returns what it returned, as it travels; None once all items were sent."""
        return await call_next(request)

    async def outbound_request(self, request: Request, call_next: RequestNext, /) -> Any:
        """Around a call of this side: `call_next` returns the answer; None once all items came."""
        return await call_next(request)

    async def inbound_event(self, notice: Notice, call_next: NoticeNext, /) -> Any:
        """Around each listener: `call_next` returns when the listener is through."""
        return await call_next(notice)

    async def outbound_event(self, notice: Notice, call_next: NoticeNext, /) -> Any:
        """Around `emit` and `broadcast` (once for all its sessions; it waits for nobody, so do not wait in it)."""
        return await call_next(notice)

    async def inbound_item(self, item: Item, call_next: ItemNext, /) -> Any:
        """Around an item that came: return what its reader gets."""
        return await call_next(item)

    async def outbound_item(self, item: Item, call_next: ItemNext, /) -> Any:
        """Around an item that leaves: `call_next` sends it, when credit and network allow."""
        return await call_next(item)


def compile_chains(middlewares: Sequence[object]) -> Chains:
    """Compile layers, the outermost first, to chains in which only overridden methods take part.

    Raises:
        ConfigurationError: one is no object of a `Middleware` class.
    """
    for item in middlewares:
        if isinstance(item, type) and issubclass(item, Middleware):
            raise ConfigurationError("middleware", f"{item.__name__} is a class: give an object, {item.__name__}(...)")
        if not isinstance(item, Middleware):
            shown = getattr(item, "__qualname__", None) or f"an object of {type(item).__qualname__}"
            raise ConfigurationError("middleware", f"{shown} is no middleware: derive a class from Middleware")
    if not middlewares:
        return NO_CHAINS
    return Chains(**{kind: _chain(kind, middlewares) for kind in _KINDS})


def _chain(kind: str, middlewares: Sequence[object]) -> Chain[Any] | None:
    passes = getattr(Middleware, kind)
    chain: Chain[Any] | None = None
    for item in reversed(middlewares):
        layer = getattr(item, kind)
        if getattr(layer, "__func__", None) is not passes:
            chain = both(layer, chain)
    return chain
