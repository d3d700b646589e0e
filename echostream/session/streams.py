"""Application streams as the user holds them: `StreamSender` and `StreamReceiver`, two ends of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self

from echostream.binding import TypeCodec
from echostream.config import DEFAULT_STREAM_CLOSE_TIMEOUT
from echostream.errors import DeadlineExceededError, EchoStreamError, LocalProtocolError, Status, StreamResetError
from echostream.session.chains import Chain, Opening
from echostream.session.channel import Channel, make_channel

if TYPE_CHECKING:
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.types import Metadata

__all__ = ("OpenStream", "StreamReceiver", "StreamSender", "open_channel")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # a bare `StreamReceiver` is one of anything (PEP 696)
else:
    from typing import TypeVar

    T = TypeVar("T")


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


class OpenStream:
    """What `open_stream` returns: await it for the sender, or use it as a block."""

    __slots__ = ("_open", "_sender")

    def __init__(self, opened: Callable[[], Coroutine[Any, Any, StreamSender[Any]]]) -> None:
        self._open = opened
        self._sender: StreamSender[Any] | None = None

    def __await__(self) -> Generator[Any, None, StreamSender[Any]]:
        return self._open().__await__()

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __getattr__(self, name: str) -> NoReturn:
            """Say what was forgotten."""
            raise AttributeError(
                f"not opened yet, so there is no {name!r}: write `async with client.open_stream(...) as sender:`"
                " or `sender = await client.open_stream(...)`"
            )

    async def __aenter__(self) -> StreamSender[Any]:
        self._sender = await self._open()
        return self._sender

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sender is not None:
            await self._sender.__aexit__(kind, error, traceback)


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


async def open_channel(session: Session, name: str, metadata: Metadata | None, timeout: float | None) -> Channel:
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
                await _open(peer, channel, name, metadata)
            else:
                await _open_through(chain, channel, Opening(session=session, name=name, metadata=metadata or {}))
    except TimeoutError:
        channel.reset(StreamResetError("not accepted in time", code=Status.DEADLINE_EXCEEDED))
        raise DeadlineExceededError(
            f"stream not accepted within {timeout:.3g} s", duration=timeout, operation=name, session=session_id
        ) from None
    except asyncio.CancelledError:
        channel.reset(StreamResetError("the opener gave up", code=Status.CANCELLED))
        raise
    return channel


async def _open(peer: Peer, channel: Channel, name: str, metadata: Metadata | None) -> None:
    stream_id = await peer.open_transport_stream()
    try:
        channel.stream = peer.protocol.streams.open(name, stream_id, channel, metadata)
    except EchoStreamError:
        peer.give_back(stream_id)
        raise
    peer.touch()
    await channel.wait_accepted()


async def _open_through(chain: Chain[Opening], channel: Channel, opening: Opening) -> None:
    """Open a stream inside the layers, which must do so once; what one raises afterwards resets it."""

    async def call_next(changed: Opening) -> None:
        if channel.stream is not None:
            raise LocalProtocolError("a middleware opened the stream twice", operation=opening.name)
        await _open(opening.session.peer, channel, opening.name, changed.metadata)

    try:
        await chain(opening, call_next)
    except Exception:
        channel.reset(StreamResetError("a middleware raised while it was opened", code=Status.CANCELLED))
        raise
    if not channel.accepted:
        text = "a middleware did not open the stream; write `return await call_next(opening)`"
        raise LocalProtocolError(text, operation=opening.name)
