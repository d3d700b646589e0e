"""Application streams as the user holds them: `StreamSender` and `StreamReceiver`, two ends of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import replace
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Self

from echostream.binding import TypeCodec
from echostream.config import DEFAULT_FRAME, DEFAULT_STREAM_CLOSE_TIMEOUT
from echostream.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidArgumentError,
    Status,
    StreamResetError,
)
from echostream.session.aligned import Aligner
from echostream.session.arrivals import TimedItem
from echostream.session.channel import Channel
from echostream.session.opening import StreamOptions, checked_count, checked_policy, checked_sending
from echostream.session.quality import ChannelQuality, channel_quality

if TYPE_CHECKING:
    from echostream.types import Metadata, Overflow

__all__ = ("OpenStream", "StreamReceiver", "StreamSender")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # a bare `StreamReceiver` is one of anything (PEP 696)
else:
    from typing import TypeVar

    T = TypeVar("T")

_MAX_TIMESTAMP: Final = 1 << 63


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
        """Send one item; waits while the other side or the network is slow, unless the stream may drop items.

        On a stream with timestamps it gets the session time of now.

        Raises:
            StreamResetError: the other side gave the stream up.
            ConnectionLostError: the connection ended.
            InvalidArgumentError: the item does not fit the stream's type.
            ResourceError: the item is over the peer's payload limit.
            LocalProtocolError: this side has ended its half.
        """
        await self._channel.send(item, self._codec)

    async def send_with_timestamp(self, item: T, *, at_ns: int) -> None:
        """Send one item with a timestamp of its own.

        Args:
            item: what to send.
            at_ns: session time in nanoseconds (``client.clock.now_ns()``): when it was recorded, or is to be played.

        Raises:
            LocalProtocolError: as `send`, or the stream has no timestamps: open it with `time_sync`.
            InvalidArgumentError: as `send`, or `at_ns` is no whole number of 64 bits.
        """
        self._channel.check_timed()
        await self._channel.send(item, self._codec, _checked_timestamp(at_ns))

    def set_policy(
        self,
        policy: Overflow | None = None,
        *,
        max_items: int | None = None,
        max_age: float | None = None,
        rate: float | None = None,
    ) -> None:
        """Choose what happens to items that cannot be sent at once; what is left out stays as it is.

        Args:
            policy: ``block`` (send waits), ``drop_oldest``, ``drop_newest`` or ``disconnect`` (the stream is reset).
            max_items: items that may wait.
            max_age: seconds that they may wait; older ones are dropped.
            rate: payload bytes a second that are sent at the most.

        Raises:
            ConfigurationError: a value is unknown or out of range.
        """
        self._channel.set_sending(checked_sending(policy, max_items, max_age, rate))

    def quality(self) -> ChannelQuality:
        """Return how the stream does, in figures."""
        return channel_quality(self._channel)

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

    __slots__ = ("_open", "_options", "_sender")

    def __init__(
        self, opened: Callable[[StreamOptions], Coroutine[Any, Any, StreamSender[Any]]], options: StreamOptions
    ) -> None:
        self._open = opened
        self._options = options
        self._sender: StreamSender[Any] | None = None

    def with_time_sync(self) -> OpenStream:
        """Return the same with timestamps: as ``open_stream(..., time_sync=True)``."""
        return OpenStream(self._open, replace(self._options, timed=True))

    def __await__(self) -> Generator[Any, None, StreamSender[Any]]:
        return self._open(self._options).__await__()

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __getattr__(self, name: str) -> NoReturn:
            """Say what was forgotten."""
            raise AttributeError(
                f"not opened yet, so there is no {name!r}: write `async with client.open_stream(...) as sender:`"
                " or `sender = await client.open_stream(...)`"
            )

    async def __aenter__(self) -> StreamSender[Any]:
        self._sender = await self._open(self._options)
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

    async def timed(self) -> AsyncIterator[TimedItem[T]]:
        """Iterate over the items as they come, each with its number, its timestamp and the time of its arrival.

        Raises:
            LocalProtocolError: the stream was opened without timestamps and not in datagram mode.
            StreamResetError, ConnectionLostError, InvalidArgumentError: as `recv`.
        """
        while True:
            try:
                yield await self._channel.receive_timed(self._codec)
            except StopAsyncIteration:
                return

    async def recv_aligned(self, *, frame: float = DEFAULT_FRAME, latency: float | None = None) -> TimedItem[T]:
        """Return the next item when it is due by the session's clock: in order, late ones left out.

        Call it on one reader only, always with the same arguments.

        Args:
            frame: seconds from one item to the next, as a rule.
            latency: seconds from an item's timestamp to its turn, the same for all who should be in step. None for as
                little as the network allows, which differs from receiver to receiver and changes.

        Raises:
            StopAsyncIteration: the other side ended its half.
            LocalProtocolError: the stream was opened without `time_sync`.
            ConfigurationError: an argument is out of range, or not as in the first call.
            DeadlineExceededError: the session's clock could not be synchronised in time.
            StreamResetError, ConnectionLostError, InvalidArgumentError: as `recv`.
        """
        channel = self._channel
        if channel.aligner is None:
            channel.aligner = Aligner(channel, frame=frame, latency=latency)
        elif channel.aligner.wishes != (frame, latency):
            raise ConfigurationError("latency", "recv_aligned takes the same frame and latency in every call")
        item: TimedItem[T] = await channel.aligner.next(self._codec)
        return item

    def set_policy(self, policy: Overflow, *, max_items: int | None = None) -> None:
        """Choose what happens to items that nobody reads.

        Args:
            policy: ``block`` (the sender waits; not in datagram mode), ``drop_oldest``, ``drop_newest`` or
                ``disconnect`` (the stream is reset).
            max_items: items that may wait; left out, `Limits.max_queued_items`.

        Raises:
            ConfigurationError: a value is unknown or out of range.
        """
        checked_policy(policy)
        checked_count(max_items)
        self._channel.set_receiving(policy, max_items)

    def quality(self) -> ChannelQuality:
        """Return how the stream does, in figures."""
        return channel_quality(self._channel)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return await self.recv()


def _checked_timestamp(at_ns: Any) -> int:
    """Return a timestamp that the wire has room for; whole numbers of other kinds are taken, numpy's say.

    Raises:
        InvalidArgumentError: it is none.
    """
    is_whole = isinstance(at_ns, int) and not isinstance(at_ns, bool)
    told = f"of {at_ns.bit_length()} bits" if is_whole else repr(at_ns)  # a huge one has no decimal form
    if not isinstance(at_ns, bool):
        with suppress(TypeError):
            found = index(at_ns)
            if -_MAX_TIMESTAMP <= found < _MAX_TIMESTAMP:
                return found
    raise InvalidArgumentError(
        f"timestamp {told} is no whole number of nanoseconds in 64 bits; session time is one: client.clock.now_ns()"
    )
