"""`Middleware`, the base of every layer of the onion, and its compilation to the chains that calls run through."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from echostream.errors import ConfigurationError
from echostream.session.chains import (
    NO_CHAINS,
    Chain,
    Chains,
    Item,
    ItemNext,
    Notice,
    NoticeNext,
    Opening,
    OpeningNext,
    Request,
    RequestNext,
    both,
)

__all__ = ("Middleware", "compile_chains")


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

    async def inbound_stream(self, opening: Opening, call_next: OpeningNext, /) -> Any:
        """Around the handler of a stream: `call_next` takes the stream, and returns when the handler is through."""
        return await call_next(opening)

    async def outbound_stream(self, opening: Opening, call_next: OpeningNext, /) -> Any:
        """Around `open_stream` of this side: `call_next` returns when the other side took the stream."""
        return await call_next(opening)

    async def inbound_item(self, item: Item, call_next: ItemNext, /) -> Any:
        """Around an item that came: return what its reader gets."""
        return await call_next(item)

    async def outbound_item(self, item: Item, call_next: ItemNext, /) -> Any:
        """Around an item that leaves: `call_next` sends it, when credit and network allow."""
        return await call_next(item)

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __iter__(self) -> NoReturn:
            """Say that layers come in a list."""
            raise ConfigurationError("middleware", f"give a list of layers: [{type(self).__name__}(...)]")


_KINDS = tuple(kind for kind in Chains.__dataclass_fields__ if hasattr(Middleware, kind))
_ALL_KINDS = ", ".join(_KINDS)


def compile_chains(middlewares: Sequence[object]) -> Chains:
    """Compile layers, the outermost first, to chains in which only overridden methods take part.

    Raises:
        ConfigurationError: one is no object of a `Middleware` class, or one that nothing would ever call.
    """
    for item in middlewares:
        if isinstance(item, type) and issubclass(item, Middleware):
            raise ConfigurationError("middleware", f"{item.__name__} is a class: give an object, {item.__name__}(...)")
        if not isinstance(item, Middleware):
            shown = getattr(item, "__qualname__", None) or f"an object of {type(item).__qualname__}"
            raise ConfigurationError("middleware", f"{shown} is no middleware: derive a class from Middleware")
        _check(item)
    if not middlewares:
        return NO_CHAINS
    return Chains(
        **{kind: _chain(kind, middlewares) for kind in _KINDS},
        inbound_answer=_chain("inbound_item", middlewares[::-1]),
        outbound_answer=_chain("outbound_item", middlewares[::-1]),
    )


def _check(layer: Middleware) -> None:
    """Raise where a slip would leave a layer out: a check that is never made is worse than none."""
    cls = type(layer)
    for name in dir(cls):
        if name.startswith(("inbound_", "outbound_")) and name not in _KINDS:
            raise ConfigurationError("middleware", f"{cls.__name__}.{name} is never called: there are {_ALL_KINDS}")
    own = [kind for kind in _KINDS if _is_own(layer, kind)]
    if not own and cls is not Middleware:
        raise ConfigurationError("middleware", f"{cls.__name__} does nothing: override one of {_ALL_KINDS}")
    for kind in own:
        method = getattr(layer, kind)
        if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
            raise ConfigurationError("middleware", f"{cls.__name__}.{kind} yields: `await call_next(...)` instead")
        try:
            inspect.signature(method).bind(None, None)
        except TypeError:
            thing = {"request": "request", "event": "notice", "stream": "opening", "item": "item"}[
                kind.rpartition("_")[2]
            ]
            raise ConfigurationError(
                "middleware", f"{cls.__name__}.{kind} must be written as `async def {kind}(self, {thing}, call_next)`"
            ) from None


def _is_own(layer: object, kind: str) -> bool:
    """Whether a layer overrides a method."""
    return getattr(getattr(layer, kind), "__func__", None) is not getattr(Middleware, kind)


def _chain(kind: str, middlewares: Sequence[object]) -> Chain[Any] | None:
    chain: Chain[Any] | None = None
    for item in reversed(middlewares):
        if _is_own(item, kind):
            chain = both(getattr(item, kind), chain)
    return chain
