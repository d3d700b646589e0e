"""Application streams as the user holds them: `StreamSender` and `StreamReceiver`, two ends of one channel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from echostream.binding import TypeCodec, dump_any
from echostream.config import DEFAULT_STREAM_CLOSE_TIMEOUT
from echostream.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    EchoStreamError,
    LocalProtocolError,
    Status,
    StreamResetError,
    error_to_wire,
    least_text,
)
from echostream.session.calling import decode_payload, encode_payload, error_of, lost_error
from echostream.session.items import NO_CREDIT, credit_came, turn, wants_turn

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.protocol.records import AppStream
    from echostream.session.peer import Peer
    from echostream.types import Metadata

__all__ = ("Channel", "StreamReceiver", "StreamSender", "open_channel")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # a bare `StreamReceiver` is one of anything (PEP 696)
else:
    from typing import TypeVar

    T = TypeVar("T")


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
            raise LocalProtocolError(f"stream {stream.name!r} takes no more items", operation=stream.name)
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


class StreamSender(Generic[T]):
    """The sending end of an application stream; `receiver` is the way back on the same stream.

    ``async with`` ends the stream in order: it half-closes, waits up to `close_timeout` seconds until the other
    side's handler returned, and raises what that handler raised. After an exception in the block it resets instead.
    """

    __slots__ = ("_channel", "_close_timeout", "_codec", "receiver")

    def __init__(
        self,
        channel: Channel,
        codec: TypeCodec | None = None,
        *,
        back: TypeCodec | None = None,
        close_timeout: float | None = DEFAULT_STREAM_CLOSE_TIMEOUT,
    ) -> None:
        self._channel = channel
        self._codec = codec
        self._close_timeout = close_timeout
        self.receiver: StreamReceiver[Any] = StreamReceiver(channel, back, sender=self)
        """The items that the other side sends back."""

    def __repr__(self) -> str:
        return f"<StreamSender {self._channel.stream!r}>"

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._channel.name

    async def send(self, item: T) -> None:
        """Send one item; waits while the other side or the network is slow.

        Raises:
            StreamResetError: the other side gave the stream up.
            ConnectionLostError: the connection ended.
            InvalidArgumentError: the item does not fit the stream's type.
            ResourceError: the item is over the peer's payload limit.
            LocalProtocolError: this side has ended its half.
        """
        await self._channel.send(item, self._codec)

    def end(self) -> None:
        """Half-close: no more items from this side; the way back stays open."""
        self._channel.end()

    def reset(self, message: str = "reset by the sender", *, code: Status = Status.CANCELLED) -> None:
        """Give up both directions now; the other side sees `code` and `message`."""
        self._channel.reset(StreamResetError(message, code=code))

    async def close(self) -> None:
        """Half-close and wait until the other side ends its half too, as its handler does by returning.

        Raises:
            DeadlineExceededError: it was not within `close_timeout` seconds; the stream was reset.
            StreamResetError: its handler raised.
        """
        channel = self._channel
        channel.end()
        try:
            async with asyncio.timeout(self._close_timeout):
                while not channel.remote_ended:
                    channel.check()
                    channel.discard_items()
                    await channel.changed()
        except TimeoutError:
            self.reset("the other side did not finish in time", code=Status.DEADLINE_EXCEEDED)
            raise DeadlineExceededError(
                f"the other side did not finish within {self._close_timeout:.3g} s",
                duration=self._close_timeout,
                operation=self.name,
            ) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.reset("the sender gave up")


class StreamReceiver(Generic[T]):
    """The receiving end of an application stream: iterate over it. `sender` is the way back on the same stream."""

    __echostream_role__ = "receiver"
    __slots__ = ("_channel", "_codec", "sender")

    def __init__(
        self, channel: Channel, codec: TypeCodec | None = None, *, sender: StreamSender[Any] | None = None
    ) -> None:
        self._channel = channel
        self._codec = codec
        self.sender: StreamSender[Any] = sender if sender is not None else StreamSender(channel)
        """Sends items back to the side that opened the stream."""

    def __repr__(self) -> str:
        return f"<StreamReceiver {self._channel.stream!r}>"

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._channel.name

    @property
    def metadata(self) -> Metadata:
        """What the opener sent along."""
        return self._channel.metadata

    async def recv(self) -> T:
        """Return the next item.

        Raises:
            StopAsyncIteration: the other side ended its half.
            StreamResetError: it gave the stream up.
            ConnectionLostError: the connection ended.
            InvalidArgumentError: the item does not fit the stream's type; the next ones can still be read.
        """
        item: T = await self._channel.receive(self._codec)
        return item

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self.recv()


async def open_channel(
    peer: Peer, session_id: str, name: str, metadata: Metadata | None, timeout: float | None
) -> Channel:
    """Open a stream and wait until the other side took it.

    Raises:
        RpcError: it refused, or this side may open no more streams.
        DeadlineExceededError: no answer within `timeout` seconds.
        ConnectionLostError: the connection ended first.
    """
    channel = Channel(peer, session_id)
    if peer.lost is not None:
        raise peer.lost.again(operation=name, session=session_id)
    try:
        async with asyncio.timeout(timeout):
            stream_id = await peer.open_transport_stream()
            try:
                channel.stream = peer.protocol.streams.open(name, stream_id, channel, metadata)
            except EchoStreamError:
                peer.give_back(stream_id)
                raise
            peer.touch()
            await channel.wait_accepted()
    except TimeoutError:
        channel.reset(StreamResetError("not accepted in time", code=Status.DEADLINE_EXCEEDED))
        raise DeadlineExceededError(
            f"stream not accepted within {timeout:.3g} s", duration=timeout, operation=name, session=session_id
        ) from None
    except asyncio.CancelledError:
        channel.reset(StreamResetError("the opener gave up", code=Status.CANCELLED))
        raise
    return channel
