"""Chains: what middleware is handed on its way, and the callables that it was compiled to; none where there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from echostream.errors import LocalProtocolError

if TYPE_CHECKING:
    from echostream.session.context import Context
    from echostream.session.session import Session
    from echostream.types import Metadata, WireValue

__all__ = (
    "NO_CHAINS",
    "Chain",
    "Chains",
    "Item",
    "ItemNext",
    "Next",
    "Notice",
    "NoticeNext",
    "Opening",
    "OpeningNext",
    "Request",
    "RequestNext",
    "both",
    "item_sender",
    "item_taker",
)

T = TypeVar("T")


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """A call on its way through the middleware, at the caller's or at the handler's side.

    Attributes:
        session: the session that it goes through.
        method: wire name, ``"orders.place"``.
        args: positional arguments as they travel: plain values. May be changed, as `kwargs` and `metadata` may.
        kwargs: keyword arguments as they travel.
        metadata: the short strings sent along.
        timeout: seconds that the whole call may take, or None; the caller's side may change it before `call_next`.
        sends_items: whether the caller sends a stream of items.
        returns_items: whether the handler returns one.
        idempotent: whether the handler is marked `idempotent` or `safe`; False where the caller does not know.
        context: at the handler's side its `Context`; at the caller's None.
        state: data that the middlewares of this exchange share; at the handler's side the same as ``ctx.state``.
        initial_metadata: at the caller's side, after `call_next`: what the handler sent first.
        trailing_metadata: at the caller's side, after `call_next`: what the handler sent with the end.
        items_received: at the caller's side: items of the answer that came so far; a call is tried again before the
            first one only.
    """

    session: Session
    method: str
    args: list[WireValue]
    kwargs: dict[str, WireValue]
    metadata: Metadata
    timeout: float | None = None
    sends_items: bool = False
    returns_items: bool = False
    idempotent: bool = False
    context: Context | None = None
    state: dict[str, Any] = field(default_factory=dict[str, Any])
    initial_metadata: Metadata = field(default_factory=dict[str, "str | bytes"])
    trailing_metadata: Metadata = field(default_factory=dict[str, "str | bytes"])
    items_received: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Notice:
    """An event on its way through the middleware.

    Attributes:
        session: the session that it goes through; None for a broadcast, which goes to many.
        name: the event's name.
        payload: the event as it travels: plain values. May be changed.
        metadata: the short strings sent along.
        ack: whether the sender waits until the listeners ran.
        context: at the listeners' side the `Context`; at the sender's None.
    """

    session: Session | None
    name: str
    payload: WireValue
    metadata: Metadata = field(default_factory=dict[str, "str | bytes"])
    ack: bool = False
    context: Context | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Opening:
    """The opening of an application stream on its way through the middleware.

    Attributes:
        session: the session that it goes through.
        name: the stream's name.
        metadata: the short strings sent along. May be changed.
        context: at the side of the handler its `Context`; at the other None.
    """

    session: Session
    name: str
    metadata: Metadata
    context: Context | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Item:
    """One item of a streaming call or of an application stream on its way through the middleware.

    Attributes:
        session: the session that it goes through.
        name: wire name of the method or stream.
        payload: the item as it travels: plain values. May be changed.
        context: at the side of the handler its `Context`; at the other None.
    """

    session: Session
    name: str
    payload: WireValue
    context: Context | None = None


Next = Callable[[T], Awaitable[Any]]
"""The rest of the chain."""
RequestNext = Next[Request]
NoticeNext = Next[Notice]
ItemNext = Next[Item]
OpeningNext = Next[Opening]

Chain = Callable[[T, Next[T]], Coroutine[Any, Any, Any]]
"""A compiled chain: given the thing and what is at the end of the chain."""


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of a server, a client or a service: one for each kind and direction; None where nothing takes part.

    Items that answer pass the layers as an answer does, the innermost first: those that a handler sends, and those that
    come to a caller.
    """

    inbound_request: Chain[Request] | None = None
    outbound_request: Chain[Request] | None = None
    inbound_event: Chain[Notice] | None = None
    outbound_event: Chain[Notice] | None = None
    inbound_stream: Chain[Opening] | None = None
    outbound_stream: Chain[Opening] | None = None
    inbound_item: Chain[Item] | None = None
    outbound_item: Chain[Item] | None = None
    inbound_answer: Chain[Item] | None = None
    outbound_answer: Chain[Item] | None = None


NO_CHAINS: Final = Chains()


def both(outer: Chain[T] | None, inner: Chain[T] | None) -> Chain[T] | None:
    """Return one chain out of two."""
    if outer is None or inner is None:
        return outer or inner
    return lambda thing, end: outer(thing, lambda changed: inner(changed, end))


def item_taker(
    chain: Chain[Item] | None, session: Session, name: str, context: Context | None = None
) -> Callable[[WireValue], Coroutine[Any, Any, WireValue]] | None:
    """Return what runs an item that came through a chain and returns what its reader gets; None without a chain."""
    if chain is None:
        return None

    async def take(payload: WireValue) -> WireValue:
        passed: WireValue = None

        async def end(item: Item) -> WireValue:
            nonlocal passed
            passed = item.payload
            return passed

        taken: WireValue = await chain(Item(session=session, name=name, payload=payload, context=context), end)
        if taken is None and passed is not None:  # the commonest slip in a middleware
            text = f"{name}: a middleware returned None in the place of an item; write `return await call_next(item)`"
            raise LocalProtocolError(text, operation=name)
        return taken

    return take


def item_sender(
    chain: Chain[Item] | None, session: Session, name: str, context: Context | None = None
) -> Callable[[WireValue, Next[WireValue]], Coroutine[Any, Any, Any]] | None:
    """Return what runs an item that leaves through a chain to what sends it; None without a chain."""
    if chain is None:
        return None
    return lambda payload, send: chain(
        Item(session=session, name=name, payload=payload, context=context), lambda item: send(item.payload)
    )
