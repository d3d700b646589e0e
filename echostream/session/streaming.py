"""The caller's side of a streaming call: items in, items out, deadline and cancellation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, Any

from echostream.errors import EchoStreamError, RpcError, Status
from echostream.session.calling import check_status, encode_arguments, encode_payload
from echostream.session.context import deadline_of
from echostream.session.items import NO_CREDIT, credit_came, turn, wants_turn
from echostream.session.pending import CallRequest, deadline_error, lost_error, seconds_left, start_call

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.protocol.records import OutgoingCall
    from echostream.session.deadlines import Entry
    from echostream.session.peer import Peer
    from echostream.session.pending import PendingCall
    from echostream.types import Metadata, WireValue

__all__ = ("StreamingCall", "call_with_items")


class StreamingCall:
    """A call with items, on a transport stream of its own: its handle and its life.

    Results are read with `next_item` (raises StopAsyncIteration at the end) and `response`.
    """

    __slots__ = (
        "_arrived",
        "_deadline",
        "_duration",
        "_ended",
        "_entry",
        "_error",
        "_items",
        "_pump",
        "_sendable",
        "call",
        "initial_metadata",
        "on_end",
        "on_report",
        "peer",
        "request",
        "started",
        "trailing_metadata",
    )

    def __init__(self, peer: Peer, request: CallRequest) -> None:
        self.peer = peer
        self.request = request
        self.call: OutgoingCall | None = None
        self.started = False
        self.initial_metadata: Metadata = {}
        self.trailing_metadata: Metadata = {}
        self.on_end: Callable[[], None] | None = None
        """Called once it has ended, where somebody besides the reader of its items wants to know."""
        self.on_report: Callable[[f.ProgressFrame], None] | None = None
        """Told of the reports of its progress, where somebody reads them."""
        self._items: deque[f.ItemFrame] = deque()
        self._arrived = asyncio.Event()
        self._sendable = asyncio.Event()
        self._ended: f.ResponseFrame | None = None
        self._error: EchoStreamError | None = None
        self._deadline: float | None = None
        self._duration: float | None = None
        self._entry: Entry | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the stream and send the request; input items follow from a task of their own.

        Raises:
            DeadlineExceededError, ConnectionLostError, ResourceError: as `call_unary`.
        """
        self.started = True
        peer, request = self.peer, self.request
        self._deadline, self._duration = deadline_of(peer.runtime.loop.time(), request.timeout)
        try:
            payload, raw = encode_arguments(peer, request.arguments)
            if peer.lost is not None:
                raise peer.lost.again(operation=request.method, session=request.session_id)
            async with asyncio.timeout_at(self._deadline):
                await self._begin(payload, raw=raw)
        except TimeoutError:
            self._error = deadline_error(request.method, self._duration)
            peer.cancel_call(self.call, Status.DEADLINE_EXCEEDED)
            raise self._error from None
        except EchoStreamError as error:
            self._error = error
            raise
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._deadline is not None:
            self._entry = peer.runtime.deadlines.add(self._deadline, self._expire)
        if request.items is not None:
            self._pump = peer.runtime.tasks.start(self._send_items(request.items), f"{request.method} input")

    async def next_item(self) -> f.ItemFrame:
        """Return the next item's frame.

        Raises:
            StopAsyncIteration: the call ended well.
            EchoStreamError: it ended otherwise; items that came before are delivered first.
        """
        while not self._items:
            self.check()
            if self._ended is not None:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._items.popleft()
        if self.call is not None:
            self.peer.protocol.calls.item_consumed(self.call, len(frame.payload))
            self.peer.touch()
        return frame

    async def response(self) -> f.ResponseFrame:
        """Wait for the end of a call that returns one value; the frame may carry an error status."""
        while self._ended is None:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        return self._ended

    def check(self) -> None:
        """Raise how it ended, if it ended otherwise than well."""
        if self._error is not None:
            raise self._error
        if self._ended is not None:
            check_status(self.peer, self._ended, self.request)

    @property
    def waiting_items(self) -> int:
        """Items that came and were not read."""
        return len(self._items)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.started and self._error is None and self._ended is None

    def cancel(self) -> None:
        """Give up, if it has not ended: the remote handler is cancelled. Safe to call at any time."""
        if self.running:
            self._fail(RpcError(Status.CANCELLED, "the call was closed", operation=self.request.method))
            self.peer.cancel_call(self.call, Status.CANCELLED)

    async def aclose(self) -> None:
        """Give up, if it has not ended, and wait until its input is no longer read."""
        self.cancel()
        if self._pump is not None and not self._pump.done():
            await asyncio.wait({self._pump})

    # The handle

    def on_item(self, frame: f.ItemFrame) -> None:
        """An item of the result."""
        if frame.initial:
            self.initial_metadata = frame.initial
        self._items.append(frame)
        self._arrived.set()

    def on_response(self, frame: f.ResponseFrame) -> None:
        """The end."""
        if frame.initial:
            self.initial_metadata = frame.initial
        self.trailing_metadata = frame.metadata or {}
        self._ended = frame
        self._finish()

    def on_credit(self) -> None:
        """More input may be sent."""
        self._sendable.set()

    def on_progress(self, frame: f.ProgressFrame) -> None:
        """Hand a report on; what returns items shows its progress by them."""
        if self.on_report is not None:
            self.on_report(frame)

    def on_lost(self, error: EchoStreamError) -> None:
        """There will be no end."""
        self._fail(lost_error(error, self.request.method))

    # Inside

    async def _begin(self, payload: bytes, *, raw: bool) -> None:
        """Send the request; a large one takes its turn, as those of unary calls do."""
        peer, size = self.peer, len(payload)
        if size <= peer.runtime.limits.large_payload_bytes:
            size = 0
        async with peer.places.one():
            if size:
                await peer.large.claim(size)
            try:
                stream_id = await peer.open_transport_stream()
                seconds = seconds_left(peer, self._deadline)
                self.call = start_call(peer, self.request, self, payload, raw, seconds, stream_id)
            except BaseException:
                peer.large.release(size)
                raise
        if size:
            try:
                await peer.drain_whole(stream_id)
            finally:
                peer.large.release(size)

    def _expire(self) -> None:
        if self.running:
            self._fail(deadline_error(self.request.method, self._duration))
            self.peer.cancel_call(self.call, Status.DEADLINE_EXCEEDED)

    def _fail(self, error: EchoStreamError) -> None:
        if self.running:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self._arrived.set()
        self._sendable.set()
        if self._entry is not None:
            self.peer.runtime.deadlines.remove(self._entry)
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
        if self.on_end is not None:
            self.on_end()

    async def _send_items(self, items: AsyncIterable[Any]) -> None:
        """Send the input as credit and network allow."""
        call, peer, encode, through = self.call, self.peer, self.request.encode_item, self.request.send_through
        if call is None or call.send_credit is None:
            return
        iterator = aiter(items)
        try:
            async for item in iterator:
                wire = item if encode is None else encode(item)
                await (self._send_item(wire) if through is None else through(wire, self._send_item))
                if not (self.running and call.input_open):
                    return
            peer.protocol.calls.end_input(call)
            peer.touch()
        except asyncio.CancelledError as error:  # by the iterator's own doing, if the call still runs
            self._input_failed(error)
            raise
        except Exception as error:  # noqa: BLE001 - the user's own iterator
            self._input_failed(error)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def _send_item(self, wire: WireValue) -> None:
        """Send one item of the input; nothing where the call has ended meanwhile."""
        call, peer = self.call, self.peer
        if call is None or call.send_credit is None:
            return
        payload, raw = encode_payload(peer, wire)
        while not call.send_credit.available and self.running:
            self._sendable.clear()
            if not await credit_came(peer, self._sendable):
                raise RpcError(Status.DEADLINE_EXCEEDED, NO_CREDIT, operation=self.request.method)
        if peer.is_blocked(call.stream_id):
            await peer.drain(call.stream_id)
        if not (self.running and call.input_open):
            return
        if wants_turn(peer, len(payload)):
            async with turn(peer, call.stream_id, len(payload)):
                peer.protocol.calls.send_item(call, payload, raw=raw)
            return
        peer.protocol.calls.send_item(call, payload, raw=raw)
        peer.touch()
        if peer.is_blocked(call.stream_id):
            await peer.drain(call.stream_id)

    def _input_failed(self, error: BaseException) -> None:
        """The caller's own iterator raised: that error is what the caller sees."""
        if self.running:
            if isinstance(error, EchoStreamError):
                self._fail(error)
            else:
                wrapped = RpcError(
                    Status.CANCELLED, f"the input of the call raised {error!r}", operation=self.request.method
                )
                wrapped.__cause__ = error
                self._fail(wrapped)
            self.peer.cancel_call(self.call, Status.CANCELLED)


async def call_with_items(
    peer: Peer,
    request: CallRequest,
    decode: Callable[[WireValue], Any],
    pending: PendingCall | None = None,
    seen: Callable[[f.ResponseFrame], None] | None = None,
) -> Any:
    """Call with a stream of items and return what `decode` makes of the single answer; as `call_unary`."""
    call = StreamingCall(peer, request)
    if pending is not None:
        call.on_report = pending.on_progress
    try:
        await call.start()
        frame = await call.response()
        if seen is not None:
            seen(frame)
        if frame.status:
            check_status(peer, frame, request)
        return decode(frame.payload if frame.raw else peer.runtime.payload.decode(frame.payload))
    finally:
        await call.aclose()
