"""Opening an application stream: what its opener wants, what can be had of it, and the other side's yes."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from echostream.config import checked_seconds
from echostream.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EchoStreamError,
    LocalProtocolError,
    Status,
    StreamResetError,
)
from echostream.protocol.hello import DATAGRAM_ITEMS
from echostream.session.chained import make_channel
from echostream.session.chains import Chain, Opening
from echostream.session.channel import Channel
from echostream.session.outgoing import PLAIN, SendOptions
from echostream.types import Overflow

if TYPE_CHECKING:
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.types import Metadata

__all__ = ("StreamMode", "StreamOptions", "checked_sending", "open_channel")

StreamMode = Literal["reliable", "datagram"]

_MAX_RATE: Final = 1e12
"""Bytes a second: above it a rate says nothing."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How the items of a stream travel."""

    mode: StreamMode = "reliable"
    timed: bool = False
    """Whether they have timestamps."""
    sending: SendOptions = PLAIN

    def __post_init__(self) -> None:
        if self.mode not in get_args(StreamMode):
            raise ConfigurationError("mode", f"{self.mode!r} is neither 'reliable' nor 'datagram'")


def checked_sending(
    policy: Overflow | None, max_items: int | None, max_age: float | None, rate: float | None
) -> SendOptions:
    """Return what a user wants of a queue.

    Raises:
        ConfigurationError: a value is unknown or out of range.
    """
    checked_policy(policy)
    checked_count(max_items)
    if max_age is not None:
        checked_seconds("max_age", max_age, ", or None for the default")
    if rate is not None and not _is_a(rate, int, float):
        raise ConfigurationError("rate", f"{rate!r} is no number of bytes a second")
    if rate is not None and not 0 < rate < math.inf:
        raise ConfigurationError("rate", f"{rate!r} must be above 0 bytes a second, or None for no limit")
    return SendOptions(policy, max_items, max_age, None if rate is None else min(rate, _MAX_RATE))


def checked_policy(policy: Overflow | None) -> None:
    """Raise ConfigurationError unless it is one."""
    if policy is not None and policy not in get_args(Overflow):
        raise ConfigurationError("policy", f"{policy!r} is none of {', '.join(get_args(Overflow))}")


def _is_a(value: object, *kinds: type) -> bool:
    """Whether a user gave a number of these kinds; a truth is none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def checked_count(max_items: int | None) -> None:
    """Raise ConfigurationError unless a queue can have so many items."""
    if max_items is None:
        return
    if not _is_a(max_items, int):
        raise ConfigurationError("max_items", f"{max_items!r} is no whole number")
    if max_items < 1:
        raise ConfigurationError("max_items", f"{max_items!r} must be at least 1, or None for max_queued_items")


async def open_channel(
    session: Session,
    name: str,
    metadata: Metadata | None,
    timeout: float | None,
    options: StreamOptions = StreamOptions(),
) -> Channel:
    """Open a stream and wait until the other side took it.

    Raises:
        RpcError: it refused, or this side may open no more streams.
        DeadlineExceededError: no answer within `timeout` seconds.
        ConnectionLostError: the connection ended first.
    """
    peer, session_id, chain = session.peer, session.id, session.runtime.chains.outbound_stream
    channel = make_channel(session, name)
    if peer.lost is not None:
        raise peer.lost.again(operation=name, session=session_id)
    try:
        async with asyncio.timeout(timeout):
            if chain is None:
                await _open(peer, channel, name, metadata, options)
            else:
                opening = Opening(session=session, name=name, metadata=metadata or {})
                await _open_through(chain, channel, opening, options)
    except TimeoutError:
        channel.reset(StreamResetError("not accepted in time", code=Status.DEADLINE_EXCEEDED))
        what = "the clock for its timestamps is not locked" if channel.accepted else "stream not accepted"
        raise DeadlineExceededError(
            f"{what} within {timeout:.3g} s", duration=timeout, operation=name, session=session_id
        ) from None
    except asyncio.CancelledError:
        channel.reset(StreamResetError("the opener gave up", code=Status.CANCELLED))
        raise
    return channel


async def _open(peer: Peer, channel: Channel, name: str, metadata: Metadata | None, options: StreamOptions) -> None:
    stream_id = await peer.open_transport_stream()
    wants_datagrams = options.mode == "datagram"
    has_datagrams = DATAGRAM_ITEMS in peer.protocol.features and peer.connection.max_datagram_payload_bytes > 0
    try:
        stream = peer.protocol.streams.open(
            name, stream_id, channel, metadata, timed=options.timed, datagram=wants_datagrams and has_datagrams
        )
    except EchoStreamError:
        peer.give_back(stream_id)
        raise
    channel.attach(stream, options.sending, may_drop=wants_datagrams)
    peer.touch()
    await channel.wait_accepted()
    if options.timed:
        await channel.session.clock.wait_locked(timeout=None)  # the caller bounds it: what follows may read the clock


async def _open_through(chain: Chain[Opening], channel: Channel, opening: Opening, options: StreamOptions) -> None:
    """Open a stream inside the layers, which must do so once; what one raises afterwards resets it."""

    async def call_next(changed: Opening) -> None:
        if channel.stream is not None:
            raise LocalProtocolError("a middleware opened the stream twice", operation=opening.name)
        await _open(opening.session.peer, channel, opening.name, changed.metadata, options)

    try:
        await chain(opening, call_next)
    except Exception:
        channel.reset(StreamResetError("a middleware raised while it was opened", code=Status.CANCELLED))
        raise
    if not channel.accepted:
        text = "a middleware did not open the stream; write `return await call_next(opening)`"
        raise LocalProtocolError(text, operation=opening.name)
