"""`Channel`: one application stream on one side, between the machine and both ends of the user's API."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from echostream.binding import TypeCodec, dump_any
from echostream.errors import (
    ConnectionLostError,
    EchoStreamError,
    LocalProtocolError,
    Status,
    StreamResetError,
    error_to_wire,
    least_text,
)
from echostream.session.calling import decode_payload, encode_payload, error_of
from echostream.session.chains import NO_CHAINS, Chains, Next, both, item_sender, item_taker
from echostream.session.items import NO_CREDIT, credit_came, turn, wants_turn
from echostream.session.pending import lost_error

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.protocol.records import AppStream
    from echostream.session.context import Context
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.types import Metadata, WireValue

__all__ = ("ChainedChannel", "Channel", "make_channel")


class Channel:
    """One application stream on this side: the machine's handle and what both ends of the user's API share."""

    __slots__ = (
        "_changed",
        "_items",
        "_sendable",
        "accepted",
        "error",
        "metadata",
        "peer",
        "remote_ended",
        "session_id",
        "stream",
    )

    def __init__(self, peer: Peer, session_id: str) -> None:
        self.peer = peer
        self.session_id = session_id
        self.stream: AppStream | None = None
        self.metadata: Metadata = {}
        self.accepted = False
        self.remote_ended = False
        self.error: EchoStreamError | None = None
        self._items: deque[f.StreamItemFrame] = deque()
        self._changed = asyncio.Event()
        self._sendable = asyncio.Event()

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.stream.name if self.stream is not None else ""

    # The handle

    def on_accepted(self) -> None:
        """The other side took it."""
        self.accepted = True
        self._changed.set()

    def on_item(self, frame: f.StreamItemFrame) -> None:
        """An item; credit bounds how many can wait here."""
        self._items.append(frame)
        self._changed.set()

    def on_ended(self) -> None:
        """The other side sends no more."""
        self.remote_ended = True
        self._changed.set()

    def on_reset(self, status: int, payload: bytes) -> None:
        """The other side ended it, or refused it."""
        cause = error_of(self.peer, status, payload, self.name, self.session_id)
        if self.accepted:
            reset = StreamResetError(
                cause.message or "the other side reset the stream",
                code=cause.code,
                details=cause.details,
                session=self.session_id,
                operation=self.name,
            )
            self._fail(reset)
        else:
            self._fail(cause)

    def on_credit(self) -> None:
        """More may be sent."""
        self._sendable.set()

    def on_lost(self, error: EchoStreamError) -> None:
        """The connection ended."""
        self._fail(lost_error(error, self.name))

    def accept(self) -> None:
        """Take the stream, which the other side opened."""
        if self.stream is not None:
            self.accepted = True
            self.peer.protocol.streams.accept(self.stream)
            self.peer.touch()

    # For both ends

    async def wait_accepted(self) -> None:
        """Wait for the other side's yes.

        Raises:
            RpcError: it refused (UNIMPLEMENTED: it has no stream of this name).
            ConnectionLostError: the connection ended first.
        """
        while not self.accepted:
            self.check()
            await self.changed()

    async def changed(self) -> None:
        """Wait for the next thing to happen."""
        self._changed.clear()
        await self._changed.wait()

    async def send(self, value: Any, codec: TypeCodec | None) -> None:
        """Send one item when credit and network allow."""
        stream = self._live_stream()
        wire = codec.dump(value, what=stream.name) if codec is not None else dump_any(value)
        payload, raw = encode_payload(self.peer, wire)
        try:
            await self._send_payload(stream, payload, raw=raw)
        except ConnectionLostError:
            self.check()  # the same error for all who use the stream
            raise

    async def _send_payload(self, stream: AppStream, payload: bytes, *, raw: bool) -> None:
        peer, size = self.peer, len(payload)
        await self._credit(stream)
        while wants_turn(peer, size):
            async with turn(peer, stream.stream_id, size):
                if self._may_send(stream):
                    peer.protocol.streams.send_item(stream, payload, raw=raw)
                    return
            await self._credit(stream)  # another writer of this stream has taken it meanwhile
        peer.protocol.streams.send_item(stream, payload, raw=raw)
        peer.touch()
        if peer.is_blocked(stream.stream_id):
            await peer.drain(stream.stream_id)

    async def _credit(self, stream: AppStream) -> None:
        """Wait until an item may be sent."""
        while not self._may_send(stream) or self.peer.is_blocked(stream.stream_id):
            if stream.send_credit.available:
                await self.peer.drain(stream.stream_id)
                continue
            self._sendable.clear()
            if not await credit_came(self.peer, self._sendable):
                self.reset(StreamResetError(NO_CREDIT, code=Status.DEADLINE_EXCEEDED))

    def _may_send(self, stream: AppStream) -> bool:
        """Whether an item may be sent now; raises when none ever may."""
        self.check()
        if not stream.local_open:
            raise LocalProtocolError(
                f"stream {stream.name!r} takes no more items: end() was called", operation=stream.name
            )
        return stream.send_credit.available

    async def receive(self, codec: TypeCodec | None) -> Any:
        """Return the next item; raise StopAsyncIteration at the end."""
        stream = self._live_stream()
        while not self._items:
            self.check()
            if self.remote_ended:
                raise StopAsyncIteration
            await self.changed()
        frame = self._items.popleft()
        self.peer.protocol.streams.item_consumed(stream, len(frame.payload))
        self.peer.touch()
        value = decode_payload(self.peer, frame.payload, raw=frame.raw)
        return value if codec is None else codec.validate(value, what=stream.name)

    def end(self) -> None:
        """Half-close; safe to repeat."""
        if self.stream is not None and self.error is None:
            self.peer.protocol.streams.end(self.stream)
            self._sendable.set()
            self.peer.touch()

    def reset(self, error: EchoStreamError) -> None:
        """End both directions now; safe to repeat."""
        if self.stream is None or self.error is not None:
            return
        code, message, details = error_to_wire(error)
        reset, encode = self.peer.protocol.streams.reset, self.peer.runtime.payload.encode
        try:
            done = reset(self.stream, code, encode({"message": message, "details": details}))
        except EchoStreamError:  # too large, or nothing can carry it: the other side must not wait for ever
            done = reset(self.stream, code, encode({"message": least_text(message), "details": {}}))
        if done:
            self.peer.touch()
        self._fail(StreamResetError(message, code=code, session=self.session_id, operation=self.name))

    def discard_items(self) -> None:
        """Throw away what came and was not read, so that the other side is not held up."""
        while self._items and self.stream is not None:
            self.peer.protocol.streams.item_consumed(self.stream, len(self._items.popleft().payload))
        self.peer.touch()

    def check(self) -> None:
        """Raise what ended the stream, if anything did."""
        if self.error is not None:
            raise self.error

    def _fail(self, error: EchoStreamError) -> None:
        if self.error is None:
            self.error = error
            self._changed.set()
            self._sendable.set()

    def _live_stream(self) -> AppStream:
        if self.stream is None:
            raise LocalProtocolError("the stream is not open: enter it with `async with`")
        return self.stream


class ChainedChannel(Channel):
    """A channel with middleware around its items."""

    __slots__ = ("_send_through", "_take")

    def __init__(
        self,
        peer: Peer,
        session_id: str,
        take: Callable[[WireValue], Awaitable[WireValue]] | None,
        send_through: Callable[[WireValue, Next[WireValue]], Awaitable[None]] | None,
    ) -> None:
        super().__init__(peer, session_id)
        self._take = take
        self._send_through = send_through

    async def send(self, value: Any, codec: TypeCodec | None) -> None:
        if self._send_through is None:
            await super().send(value, codec)
        else:
            wire = codec.dump(value, what=self.name) if codec is not None else dump_any(value)
            await self._send_through(wire, self._send_wire)

    async def receive(self, codec: TypeCodec | None) -> Any:
        if self._take is None:
            return await super().receive(codec)
        value = await self._take(await super().receive(None))
        return value if codec is None else codec.validate(value, what=self.name)

    async def _send_wire(self, wire: WireValue) -> None:
        await super().send(wire, None)


def make_channel(session: Session, name: str, chains: Chains = NO_CHAINS, context: Context | None = None) -> Channel:
    """Return the channel of a stream; `chains` are those of the service that has its handler, `context` is its own."""
    if context is None:  # this side opens it, and what comes is the answer
        taking, sending = session.chains.inbound_answer, session.chains.outbound_item
    else:
        taking = both(session.chains.inbound_item, chains.inbound_item)
        sending = both(chains.outbound_answer, session.chains.outbound_answer)
    if taking is None and sending is None:
        return Channel(session.peer, session.id)
    return ChainedChannel(
        session.peer,
        session.id,
        item_taker(taking, session, name, context),
        item_sender(sending, session, name, context),
    )
