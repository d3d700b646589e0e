"""Channels of application streams with middleware around their items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from echostream.binding import TypeCodec, dump_any
from echostream.session.chains import NO_CHAINS, Chains, Next, both, item_sender, item_taker
from echostream.session.channel import Channel

if TYPE_CHECKING:
    from echostream.session.context import Context
    from echostream.session.session import Session
    from echostream.types import WireValue

__all__ = ("ChainedChannel", "make_channel")


class ChainedChannel(Channel):
    """A channel with middleware around its items."""

    __slots__ = ("_send_through", "_take")

    def __init__(
        self,
        session: Session,
        take: Callable[[WireValue], Awaitable[WireValue]] | None,
        send_through: Callable[[WireValue, Next[WireValue]], Awaitable[None]] | None,
    ) -> None:
        super().__init__(session)
        self._take = take
        self._send_through = send_through

    async def send(self, value: Any, codec: TypeCodec | None, at_ns: int | None = None) -> None:
        if self._send_through is None:
            await super().send(value, codec, at_ns)
            return

        async def send_on(changed: WireValue) -> None:
            await Channel.send(self, changed, None, at_ns)

        wire = codec.dump(value, what=self.name) if codec is not None else dump_any(value)
        await self._send_through(wire, send_on)

    async def understand(self, payload: bytes, codec: TypeCodec | None, *, raw: bool) -> Any:
        if self._take is None:
            return await super().understand(payload, codec, raw=raw)
        value = await self._take(await super().understand(payload, None, raw=raw))
        return value if codec is None else codec.validate(value, what=self.name)


def make_channel(session: Session, name: str, chains: Chains = NO_CHAINS, context: Context | None = None) -> Channel:
    """Return the channel of a stream; `chains` are those of the service that has its handler, `context` is its own."""
    if context is None:  # this side opens it, and what comes is the answer
        taking, sending = session.chains.inbound_answer, session.chains.outbound_item
    else:
        taking = both(session.chains.inbound_item, chains.inbound_item)
        sending = both(chains.outbound_answer, session.chains.outbound_answer)
    if taking is None and sending is None:
        return Channel(session)
    return ChainedChannel(
        session,
        item_taker(taking, session, name, context),
        item_sender(sending, session, name, context),
    )
