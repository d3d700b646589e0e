"""`Channel`: one application stream on one side, between the machine and both ends of the user's API."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
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
from echostream.session.arrivals import Arrivals, TimedItem
from echostream.session.calling import decode_payload, encode_payload, error_of
from echostream.session.datagrams import DatagramOutgoing
from echostream.session.items import NO_CREDIT, credit_came, turn, wants_turn
from echostream.session.outgoing import PLAIN, Outgoing, ReliableOutgoing, SendOptions
from echostream.session.pending import lost_error

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.protocol.records import AppStream
    from echostream.session.aligned import Aligner
    from echostream.session.session import Session
    from echostream.types import Metadata, Overflow

__all__ = ("Channel",)


class Channel:
    """One application stream on this side: the machine's handle and what both ends of the user's API share."""

    __slots__ = (
        "_changed",
        "_items",
        "_sendable",
        "accepted",
        "aligner",
        "arrivals",
        "counted",
        "error",
        "metadata",
        "outgoing",
        "peer",
        "release_clock",
        "remote_ended",
        "session",
        "stream",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        self.peer = session.peer
        self.stream: AppStream | None = None
        self.outgoing: Outgoing | None = None
        """Its queue of items to be sent, where it has one."""
        self.arrivals: Arrivals | None = None
        """What came, where items have timestamps, come in datagrams or may be dropped; else they are in `_items`."""
        self.aligner: Aligner | None = None
        """What hands its items out in step with the session's clock, where somebody asked for that."""
        self.counted: list[int] | None = None
        """What the ledger of the server or client has of it, where one is kept."""
        self.release_clock: Callable[[], None] | None = None
        """Ends what keeps the session's clock up to date for the timestamps of its items."""
        self.metadata: Metadata = {}
        self.accepted = False
        self.remote_ended = False
        self.error: EchoStreamError | None = None
        self._items: deque[f.StreamItemFrame] = deque()
        self._changed = asyncio.Event()
        self._sendable = asyncio.Event()

    @property
    def unread(self) -> int:
        """Items that came on a plain stream and were not read."""
        return len(self._items)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.stream.name if self.stream is not None else ""

    def attach(self, stream: AppStream, options: SendOptions = PLAIN, *, may_drop: bool = False) -> None:
        """Take the machine's stream; what it says of its items decides what stands around them."""
        self.stream = stream
        if stream.timed or stream.datagrams is not None:
            self.arrivals = Arrivals(self, datagrams=stream.datagrams is not None)
        if stream.timed:
            self.release_clock = self.session.clock.hold()
        self.set_sending(options, may_drop=may_drop)
        if self.peer.runtime.ledger is not None:
            self.peer.runtime.ledger.opened(self)

    def set_sending(self, options: SendOptions, *, may_drop: bool = False) -> None:
        """Send as the options say from now on; `may_drop` where datagrams were asked for and cannot be had."""
        may_drop = may_drop or self.require_stream().datagrams is not None
        if self.outgoing is not None:
            self.outgoing.configure(options)
        elif self.require_stream().datagrams is not None and self.peer.connection.max_datagram_payload_bytes:
            self.outgoing = DatagramOutgoing(self, options)
        elif may_drop or options.needs_queue:
            self.outgoing = ReliableOutgoing(self, options, may_drop=may_drop)

    # The handle

    def on_accepted(self) -> None:
        """The other side took it."""
        self.accepted = True
        self._changed.set()

    def on_item(self, frame: f.StreamItemFrame) -> None:
        """An item; credit bounds how many can wait here."""
        if self.arrivals is not None:
            self.arrivals.on_item(frame, self.peer.runtime.clock.monotonic_ns())
        else:
            self._items.append(frame)
        self._changed.set()

    def on_datagram(self, frame: f.DatagramItemFrame, arrived_ns: int) -> None:
        """An item that came in datagrams."""
        if self.arrivals is not None and self.error is None:
            if self.remote_ended:
                self.arrivals.meter.late += 1
                return
            self.arrivals.on_datagram(frame, arrived_ns)
            self._changed.set()

    def on_ended(self) -> None:
        """The other side sends no more."""
        if self.arrivals is None or self.arrivals.on_ended():
            self.all_came()

    def all_came(self) -> None:
        """Nothing more comes, not even late."""
        self.remote_ended = True
        self._stop_receiving()
        self._let_go()
        self._changed.set()

    def on_reset(self, status: int, payload: bytes) -> None:
        """The other side ended it, or refused it."""
        cause = error_of(self.peer, status, payload, self.name, self.session.id)
        if self.accepted:
            reset = StreamResetError(
                cause.message or "the other side reset the stream",
                code=cause.code,
                details=cause.details,
                session=self.session.id,
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
            for event in self.peer.protocol.streams.take_early(self.stream, self.peer.runtime.clock.monotonic_ns()):
                self.on_datagram(event.frame, event.arrived_ns)
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

    def wake(self) -> None:
        """Let who waits in `changed` look again."""
        self._changed.set()

    async def changed(self) -> None:
        """Wait for the next thing to happen."""
        self._changed.clear()
        await self._changed.wait()

    async def send(self, value: Any, codec: TypeCodec | None, at_ns: int | None = None) -> None:
        """Send one item when credit and network allow, or as its queue does."""
        stream = self.require_stream()
        wire = codec.dump(value, what=stream.name) if codec is not None else dump_any(value)
        payload, raw = encode_payload(self.peer, wire)
        if stream.timed and at_ns is None:
            at_ns = await self._now_ns()
        try:
            if self.outgoing is None:
                await self.send_payload(stream, payload, raw=raw, timestamp_ns=at_ns)
            else:
                await self.outgoing.put(stream, payload, raw=raw, timestamp_ns=at_ns)
        except ConnectionLostError:
            self.check()  # the same error for all who use the stream
            raise

    async def _now_ns(self) -> int:
        """Return session time, for an item that has no timestamp of its own."""
        clock = self.session.clock
        if not clock.locked:
            await clock.wait_locked()
        return clock.now_ns()

    async def send_payload(
        self, stream: AppStream, payload: bytes, *, raw: bool, timestamp_ns: int | None = None
    ) -> None:
        """Send an item on the stream's transport stream, with credit and in turn."""
        peer, size = self.peer, len(payload)
        await self.credit(stream)
        while wants_turn(peer, size):
            async with turn(peer, stream.stream_id, size):
                if self.may_send(stream):
                    peer.protocol.streams.send_item(stream, payload, raw=raw, timestamp_ns=timestamp_ns)
                    return
            await self.credit(stream)  # another writer of this stream has taken it meanwhile
        peer.protocol.streams.send_item(stream, payload, raw=raw, timestamp_ns=timestamp_ns)
        peer.touch()
        if peer.is_blocked(stream.stream_id):
            await peer.drain(stream.stream_id)

    async def credit(self, stream: AppStream) -> None:
        """Wait until an item may be sent."""
        while not self.may_send(stream) or self.peer.is_blocked(stream.stream_id):
            if stream.send_credit.available:
                await self.peer.drain(stream.stream_id)
                continue
            self._sendable.clear()
            if not await credit_came(self.peer, self._sendable):
                self.reset(StreamResetError(NO_CREDIT, code=Status.DEADLINE_EXCEEDED))

    def may_send(self, stream: AppStream) -> bool:
        """Whether an item may be sent now; raises when none ever may."""
        self.check()
        if not stream.local_open:
            raise self.ended_error()
        return stream.send_credit.available

    def ended_error(self) -> LocalProtocolError:
        """Return what is raised for an item after the end of this half."""
        return LocalProtocolError(f"stream {self.name!r} takes no more items: end() was called", operation=self.name)

    async def receive(self, codec: TypeCodec | None) -> Any:
        """Return the next item; raise StopAsyncIteration at the end."""
        stream = self.require_stream()
        if self.arrivals is not None:
            return (await self.receive_timed(codec)).item
        while not self._items:
            await self.more()
        frame = self._items.popleft()
        self.peer.protocol.streams.item_consumed(stream, len(frame.payload))
        self.peer.touch()
        return await self.understand(frame.payload, codec, raw=frame.raw)

    async def receive_timed(self, codec: TypeCodec | None) -> TimedItem[Any]:
        """Return the next item with what is known of its way; raise StopAsyncIteration at the end."""
        arrivals = self.require_arrivals()
        while (arrived := arrivals.take()) is None:
            await self.more()
        frame = arrived.frame
        item = await self.understand(frame.payload, codec, raw=frame.raw)
        return TimedItem(arrived.sequence, frame.timestamp_ns, arrived.arrived_ns, item)

    async def more(self) -> None:
        """Wait for something to read; raise where nothing comes any more."""
        if self.remote_ended or self.error is not None:
            self._settle()
        self.check()
        if self.remote_ended:
            raise StopAsyncIteration
        await self.changed()

    async def understand(self, payload: bytes, codec: TypeCodec | None, *, raw: bool) -> Any:
        """Return what a payload is to its reader."""
        value = decode_payload(self.peer, payload, raw=raw)
        return value if codec is None else codec.validate(value, what=self.name)

    def set_receiving(self, policy: Overflow, max_items: int | None) -> None:
        """Choose what happens to items that nobody reads, from now on."""
        if self.arrivals is None:
            self.arrivals = Arrivals(self, datagrams=False)
            while self._items:
                self.arrivals.on_item(self._items.popleft(), self.peer.runtime.clock.monotonic_ns())
        self.arrivals.set_policy(policy, max_items)

    def check_timed(self) -> None:
        """Raise where items have no timestamps."""
        if not self.require_stream().timed:
            text = f"items of stream {self.name!r} have no timestamps: open it with time_sync=True"
            raise LocalProtocolError(text, operation=self.name)

    def require_arrivals(self) -> Arrivals:
        """Return them; raise where the stream has none."""
        if self.arrivals is None:
            text = f"items of stream {self.name!r} have no timestamps: open it with time_sync=True, or mode='datagram'"
            raise LocalProtocolError(text, operation=self.name)
        return self.arrivals

    def end(self) -> None:
        """Half-close, once all that waits was sent; safe to repeat."""
        if self.outgoing is not None:
            self.outgoing.end()
        else:
            self.finish_end()

    def finish_end(self) -> None:
        """Half-close now."""
        if self.stream is not None and self.error is None:
            self.peer.protocol.streams.end(self.stream)
            self._let_go()
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
        self._fail(StreamResetError(message, code=code, session=self.session.id, operation=self.name))

    def discard_items(self) -> None:
        """Throw away what came and was not read, so that the other side is not held up."""
        while self.arrivals is not None and self.arrivals.take() is not None:
            pass
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
            self._stop_receiving()
            if self.outgoing is not None:
                self.outgoing.stop()
            self._let_go()
            self._changed.set()
            self._sendable.set()

    def _let_go(self) -> None:
        """Settle the account and let go of the clock, once both halves have ended."""
        has_ended = self.remote_ended and self.stream is not None and not self.stream.local_open
        if has_ended or self.error is not None:
            self._settle()
            if self.release_clock is not None:
                self.release_clock()
                self.release_clock = None

    def _settle(self) -> None:
        if self.peer.runtime.ledger is not None:
            self.peer.runtime.ledger.settle(self)

    def _stop_receiving(self) -> None:
        if self.arrivals is not None:
            self.arrivals.stop()
            if self.stream is not None:
                self.peer.protocol.streams.forget(self.stream)

    def require_stream(self) -> AppStream:
        """Return the machine's stream; raise where it is not open yet."""
        if self.stream is None:
            raise LocalProtocolError("the stream is not open: enter it with `async with`")
        return self.stream
