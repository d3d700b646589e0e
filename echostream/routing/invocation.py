"""One call that is being served: its handle in the protocol machine, its input, its answers, its end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from echostream.errors import (
    ConnectionLostError,
    EchoStreamError,
    ResourceError,
    RpcError,
    Status,
    error_to_wire,
    least_text,
)
from echostream.protocol.records import IncomingCall
from echostream.session.calling import decode_payload, encode_payload
from echostream.session.context import Context, enter_context
from echostream.session.items import NO_CREDIT, credit_came, turn, wants_turn
from echostream.session.timing import TIMING, stamps
from echostream.types import clock

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.session.deadlines import Entry
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.types import WireValue

__all__ = ("Invocation", "TimedInvocation")


class Invocation(IncomingCall, Context):
    """The responder's side of a call: what its handler sees of it, and the means to answer."""

    is_call = True
    is_expired = False
    """Whether the deadline passed."""
    has_ended = False
    """Whether the handler has: what still arrives changes nothing."""
    task: asyncio.Task[None] | None = None
    """Where it runs, once it waits for something."""
    _arrived: asyncio.Event | None = None
    _sendable: asyncio.Event | None = None
    _inbox: deque[f.ItemFrame]
    received_ns = 0
    """When it came, on the local clock, where the caller wants to know."""
    _input_ended = False
    _entry: Entry | None = None

    def __init__(self, frame: f.RequestFrame, stream_id: int) -> None:
        self.id = frame.id  # what the base classes do: this is done for every call
        self.stream_id = stream_id
        self.method = frame.method
        self.frame = frame
        if frame.metadata is None:
            self.metadata = {}
        else:
            self.metadata = frame.metadata
            if TIMING in frame.metadata:
                # Here, so that calls without metadata are not even asked.
                self.__class__ = TimedInvocation  # pyright: ignore[reportAttributeAccessIssue]
                self.received_ns = clock.monotonic_ns()
        self._deadline = None
        if frame.sends_items:
            self._inbox = deque()
            self._arrived = asyncio.Event()
        if frame.accepts_items:
            self._sendable = asyncio.Event()

    def enter(self, session: Session, now: float) -> None:
        """Begin in the running task; the call came at `now`, on the loop's clock."""
        self.session = session
        if self.frame.timeout_ns:
            self._deadline = now + self.frame.timeout_ns / 1e9
        enter_context(self)

    # The handle

    def on_item(self, frame: f.ItemFrame) -> None:
        """An item of the input; credit bounds how many can wait here."""
        if not self.has_ended:
            self._inbox.append(frame)
            self._wake(self._arrived)

    def on_input_ended(self) -> None:
        """The input is complete."""
        self._input_ended = True
        self._wake(self._arrived)

    def on_credit(self) -> None:
        """More items may be sent."""
        self._wake(self._sendable)

    def on_cancelled(self, _status: int) -> None:
        """The caller gave up."""
        self._stop()

    def on_lost(self, _error: EchoStreamError) -> None:
        """The connection ended."""
        self._stop()

    # For the dispatcher

    def on_waiting(self, task: asyncio.Task[None]) -> None:
        """The handler waits for something, in this task: from now on it can be cancelled, and its deadline counts."""
        self.task = task
        if self._deadline is not None:
            self._entry = self.session.peer.runtime.deadlines.add(self._deadline, self._expire)

    def finish(self) -> None:
        """The handler has ended."""
        if self._entry is not None:
            self.session.peer.runtime.deadlines.remove(self._entry)
        self._deadline = None  # a task that the handler has left behind may go on calling
        self.task = None
        self.has_ended = True

    async def items(
        self, decode: Callable[[WireValue], Any], take: Callable[[WireValue], Awaitable[WireValue]] | None = None
    ) -> AsyncIterator[Any]:
        """Iterate over the caller's items, validated; `take` runs the middleware around each."""
        arrived = self._arrived
        while True:
            while self._inbox:
                frame = self._inbox.popleft()
                self.session.peer.protocol.calls.item_consumed(self, len(frame.payload))
                self.session.peer.touch()
                wire = decode_payload(self.session.peer, frame.payload, raw=frame.raw)
                yield decode(wire if take is None else await take(wire))
            if self._input_ended or arrived is None:
                return
            arrived.clear()
            await arrived.wait()

    async def send_item(self, wire: WireValue) -> None:
        """Send one item of the result when credit and network allow."""
        peer = self.session.peer
        payload, raw = encode_payload(peer, wire)
        credit, sendable = self.send_credit, self._sendable
        if credit is None or sendable is None:
            return
        while not credit.available:
            sendable.clear()
            if not await credit_came(peer, sendable):
                raise RpcError(Status.DEADLINE_EXCEEDED, NO_CREDIT, operation=self.method)
        if peer.is_blocked(self.stream_id):
            await peer.drain(self.stream_id)
        if wants_turn(peer, len(payload)):
            async with turn(peer, self.stream_id, len(payload)):
                peer.protocol.calls.send_item(self, payload, raw=raw, initial=self.take_initial())
            return
        peer.protocol.calls.send_item(self, payload, raw=raw, initial=self.take_initial())
        peer.touch()
        if peer.is_blocked(self.stream_id):
            await peer.drain(self.stream_id)

    def respond(self, wire: WireValue, status: int = Status.OK) -> Awaitable[None] | None:
        """Send the result, or a failure; return what is left to wait for: a coroutine costs, and most need none."""
        peer = self.session.peer
        raw = type(wire) is bytes
        payload: bytes = wire if raw else peer.runtime.payload.encode(wire)
        if len(payload) > peer.runtime.limits.large_payload_bytes:
            peer.protocol.link.check_payload(len(payload))
            return self._send_large_response(status, payload, raw=raw)
        if self.stream_id in peer.blocked or peer.backlog.full:  # as `is_blocked`
            return self._send_response_later(status, payload, raw=raw)
        peer.protocol.calls.respond(self, status, payload, self.trailing, self.initial, raw)
        peer.touch()
        self._deadline, self.has_ended = None, True  # as `finish` does: this is all that most calls need
        return None

    async def fail(self, error: EchoStreamError) -> None:
        """Send an error; where it cannot be sent as it is, its status and the start of its text."""
        code, message, details = error_to_wire(error)
        try:
            await self._send_failure(code, message, details)
        except ConnectionLostError:
            raise
        except EchoStreamError:
            # Too large, or details, text or metadata that nothing can carry: the caller must not wait for ever.
            self.drop_metadata()
            await self._send_failure(code, least_text(message), {})

    # Inside

    async def _send_failure(self, code: int, message: str, details: dict[str, Any]) -> None:
        rest = self.respond({"message": message, "details": details}, code)
        if rest is not None:
            await rest

    async def _send_response_later(self, status: int, payload: bytes, *, raw: bool) -> None:
        """Answer when the stream takes more: until then the call counts, and the peer may have only so many."""
        peer = self.session.peer
        await peer.drain(self.stream_id)
        peer.protocol.calls.respond(self, status, payload, self.trailing, self.initial, raw)
        peer.touch()

    async def _send_large_response(self, status: int, payload: bytes, *, raw: bool) -> None:
        """Answer on a stream of its own, so that small answers do not stand behind it."""
        peer, size = self.session.peer, len(payload)
        with _held(peer, size):
            await peer.large.claim(size)
            try:
                await self._send_by_itself(status, payload, raw=raw)
            finally:
                peer.large.release(size)

    async def _send_by_itself(self, status: int, payload: bytes, *, raw: bool) -> None:
        peer = self.session.peer
        own_stream = None
        if peer.protocol.link.is_lane(self.stream_id):
            own_stream = await peer.open_transport_stream(unidirectional=True)
        answered = False
        try:
            answered = peer.protocol.calls.respond(
                self,
                status,
                payload,
                raw=raw,
                initial=self.take_initial(),
                metadata=self.trailing,
                own_stream=own_stream,
            )
        finally:
            if own_stream is not None and not answered:
                peer.give_back(own_stream)
        await peer.drain_whole(self.stream_id if own_stream is None else own_stream)

    def _report(self, progress: float, total: float | None, message: str | None) -> None:
        if self.has_ended:
            return  # nobody hears of it any more
        # A report that would have to wait is of no use later.
        if "progress" in self.session.peer.protocol.features and not self.session.peer.is_blocked(self.stream_id):
            self.session.peer.protocol.calls.send_progress(
                self, self.session.peer.runtime.payload.encode([progress, total, message])
            )
            self.session.peer.touch()

    def _expire(self) -> None:
        self.is_expired = True
        self._stop()

    def _stop(self) -> None:
        """Cancel the handler, once: its cleaning up is not disturbed by the next reason to."""
        if not (self.cancelled or self.has_ended):
            self.cancelled = True
            if self.task is not None:
                self.task.cancel()

    @staticmethod
    def _wake(event: asyncio.Event | None) -> None:
        if event is not None:
            event.set()


class TimedInvocation(Invocation):
    """A call whose caller asks where its time goes."""

    _started_ns = 0

    def enter(self, session: Session, now: float) -> None:
        """As any; and note that the handler begins."""
        super().enter(session, now)
        self._started_ns = clock.monotonic_ns()
        arrived_ns = session.peer.connection.arrived_ns
        if 0 < arrived_ns < self.received_ns:  # and waited for this program since; later ones are not of this call
            self.received_ns = arrived_ns

    def respond(self, wire: WireValue, status: int = Status.OK) -> Awaitable[None] | None:
        """As any; the answer says when all this was."""
        times = stamps(self.session.clock, self.received_ns, self._started_ns, clock.monotonic_ns())
        self.trailing = {**(self.trailing or {}), **times}
        return super().respond(wire, status)


@contextmanager
def _held(peer: Peer, size: int) -> Generator[None]:
    """Count a large result while it waits.

    Raises:
        ResourceError: too much waits for the peer already.
    """
    held = peer.protocol.link.held
    too_much = held.add(size)
    try:
        if too_much:
            raise ResourceError(
                f"more than {held.limit} bytes wait for this peer already (max_held_bytes)",
                current=held.held,
                limit=held.limit,
            )
        yield
    finally:
        held.add(-size)
