"""Calls with middleware around them, at the caller's side: one chain, one deadline, an attempt for each `call_next`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from echostream.config import LOST_CALL_GRACE
from echostream.errors import LocalProtocolError, RpcError, Status
from echostream.session.calling import call_unary
from echostream.session.chains import Request
from echostream.session.context import deadline_of
from echostream.session.deadlines import Entry
from echostream.session.pending import CallRequest, PendingCall, deadline_error
from echostream.session.streaming import StreamingCall, call_with_items

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.session.session import Session
    from echostream.types import Metadata, WireValue

__all__ = ("Attempts", "ChainedCall", "call_through")


async def call_through(
    session: Session,
    request: CallRequest,
    decode: Callable[[WireValue], Any],
    pending: PendingCall | None = None,
    seen: Callable[[f.ResponseFrame], None] | None = None,
    *,
    idempotent: bool = False,
) -> Any:
    """Call, as `call_unary` and `call_with_items` do, with the session's middleware around it.

    Raises:
        LocalProtocolError: the middleware used `call_next` wrongly.
        Exception: what the middleware raises.
    """
    attempts = Attempts(session, request, idempotent=idempotent)
    answer: WireValue = None

    def noted(frame: f.ResponseFrame) -> None:
        attempts.note(frame.initial, frame.metadata)
        if seen is not None:
            seen(frame)

    async def attempt(view: Request) -> WireValue:
        nonlocal answer
        again = attempts.begin(view)
        try:
            if again.items is not None:
                answer = await call_with_items(session.peer, again, _same, pending, noted)
            else:
                handle = PendingCall(session.peer, None)
                if pending is not None:  # reports of every attempt go to the one who reads them
                    handle.progress, handle.progress_changed = pending.progress, pending.progress_changed
                answer = await call_unary(session.peer, again, again.arguments, _same, handle, noted)
            return answer
        finally:
            attempts.end()

    wire = await attempts.run(attempt)
    try:
        return decode(wire)
    except RpcError:
        if wire is None and answer is not None:
            raise swallowed(request.method) from None
        raise


class Attempts(Entry):
    """What all attempts of one call have in common: its `Request`, its deadline, its end with the connection.

    The deadline is kept as `asyncio.timeout` keeps it, but on the wheel, where it costs a call next to nothing.
    """

    __slots__ = (
        "_begun", "_cancelling", "_deadline", "_duration", "_expired", "_last_call", "_request", "_running", "_session",
        "_started", "_task", "_timeout", "view",
    )  # fmt: skip

    def __init__(self, session: Session, request: CallRequest, *, idempotent: bool) -> None:
        self.slot = -1  # on no wheel
        self._session = session
        self._request = request
        self._started = session.loop.time()
        self._timeout = request.timeout
        self._deadline, self._duration = deadline_of(self._started, request.timeout)
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._expired = False
        self._last_call: asyncio.TimerHandle | None = None
        self._begun = 0
        self._running = 0
        self.view = Request(
            session=session,
            method=request.method,
            args=request.arguments[0],
            kwargs=request.arguments[1],
            metadata=request.metadata or {},
            timeout=request.timeout,
            sends_items=request.items is not None,
            returns_items=request.accepts_items,
            idempotent=idempotent,
        )

    async def run(self, attempt: Callable[[Request], Awaitable[Any]]) -> Any:
        """Run the chain to its end, before the deadline.

        Raises:
            DeadlineExceededError: the middleware, or an attempt, took too long.
            ConnectionLostError: the connection ended, and the middleware did not come to an end after it.
        """
        session, view = self._session, self.view
        chain = session.chains.outbound_request
        task = self._task = asyncio.current_task()
        self._cancelling = task.cancelling() if task is not None else 0
        session.attempts[self] = None
        self._put()
        try:
            return await (attempt(view) if chain is None else chain(view, attempt))
        except asyncio.CancelledError:
            if not self._expired or self._take_back() > self._cancelling:
                raise  # somebody else wants it, too
            lost = session.peer.lost
            if lost is not None:
                raise lost.again(operation=view.method, session=session.id) from None
            raise deadline_error(view.method, self._duration) from None
        finally:
            session.attempts.pop(self, None)
            self._take_back()
            self._remove()
            if self._last_call is not None:
                self._last_call.cancel()

    def begin(self, view: Request) -> CallRequest:
        """Return the request of one attempt, whose own deadline counts until `end` instead of the chain's."""
        request = self._request
        if self._begun and request.items is not None:
            raise LocalProtocolError(
                f"{view.method}: call_next was called twice, but the items that the call sends can be read once only",
                operation=view.method,
            )
        if view.timeout != self._timeout:  # the middleware wants it longer or shorter
            self._timeout = view.timeout
            self._remove()
            self._deadline, self._duration = deadline_of(self._started, view.timeout)
            self._put()
        left = None if self._deadline is None else self._deadline - self._session.loop.time()
        if left is not None and left <= 0:
            raise deadline_error(view.method, self._duration)
        self._begun += 1
        self._running += 1
        # What was safe to repeat is that call, and a token in early data could be sent again by others.
        safe = request.safe and view.method == request.method and "authorization" not in view.metadata
        return CallRequest(
            view.method,
            (view.args, view.kwargs),
            left,
            view.metadata or None,
            request.raises,
            request.session,
            safe,
            request.accepts_items,
            request.items,
            request.encode_item,
            request.send_through,
        )

    def end(self) -> None:
        """An attempt is over: what the middleware does now, it does in the time of the whole."""
        self._running -= 1
        if self._deadline is not None and self._deadline <= self._session.loop.time():
            self._session.loop.call_soon(self.expire)

    def note(self, initial: Metadata | None, trailing: Metadata | None) -> None:
        """Let the middleware see the metadata of an answer."""
        self.view.initial_metadata = initial or {}
        self.view.trailing_metadata = trailing or {}

    def lost(self) -> None:
        """The connection ended: the attempts hear of it; the middleware has a moment left."""
        loop = self._session.loop
        end = loop.time() + LOST_CALL_GRACE
        if self._deadline is not None:
            end = min(end, self._deadline)
            self._remove()
        self._deadline = end
        self._last_call = loop.call_at(end, self.expire)  # the wheel may end with the connection

    def expire(self) -> None:
        """The time is over: end the middleware, unless it waits for an attempt, which ends by itself."""
        if self._task is not None and not self._running and not self._expired:
            self._expired = True
            self._task.cancel()

    def _take_back(self) -> int:
        """Undo the cancelling by `expire`, also where nobody minded it; return how many others want it."""
        task, self._task = self._task, None
        return task.uncancel() if task is not None and self._expired else 0

    def _put(self) -> None:
        if self._deadline is not None and self._task is not None:
            self._session.runtime.deadlines.put(self._deadline, self)

    def _remove(self) -> None:
        if self._deadline is not None:
            self._session.runtime.deadlines.remove(self)


class ChainedCall:
    """A call that returns items, with middleware around it; `ItemIterator` uses it as it uses a `StreamingCall`.

    The chain runs in a task of the session's, from the start of the call until its last item came.
    """

    def __init__(self, session: Session, request: CallRequest, *, idempotent: bool = False) -> None:
        self.peer = session.peer
        self.request = request
        self._session = session
        self._idempotent = idempotent
        self._task: asyncio.Task[None] | None = None
        self._last: StreamingCall | None = None
        self._unread: StreamingCall | None = None
        self._read = 0
        self._changed = asyncio.Event()

    @property
    def started(self) -> bool:
        """Whether the chain runs or has run."""
        return self._task is not None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    @property
    def initial_metadata(self) -> Metadata:
        """Of the last attempt."""
        return {} if self._last is None else self._last.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata:
        """Of the last attempt."""
        return {} if self._last is None else self._last.trailing_metadata

    async def start(self) -> None:
        """Start the chain; return when the first attempt was sent.

        Raises:
            Exception: the chain ended before.
        """
        attempts = Attempts(self._session, self.request, idempotent=self._idempotent)
        task = self._session.calls.start(self._run(attempts), f"call {self.request.method}")
        self._task = task
        task.add_done_callback(self._over)
        try:
            while self._last is None and not task.done():
                await self._change()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._last is None:
            self._outcome(task)

    async def next_item(self) -> f.ItemFrame:
        """Return the next item's frame; as `StreamingCall.next_item`. How it all ended, the chain says."""
        task = self._task
        while task is not None:
            call = self._unread
            if call is not None:
                try:
                    frame = await call.next_item()
                except Exception:  # noqa: BLE001 - its end; perhaps another attempt follows
                    if self._unread is call:
                        self._unread = None
                    continue
                self._read += 1
                return frame
            if task.done():
                self._outcome(task)
                break
            await self._change()
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Give up: the remote handler is cancelled, and so is the chain. Safe to call at any time."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Give up, if it has not ended, and wait until the chain has."""
        self.cancel()
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    # Inside

    async def _run(self, attempts: Attempts) -> None:
        reply = await attempts.run(lambda view: self._attempt(attempts, view))
        method = self.request.method
        if reply is not None:
            raise LocalProtocolError(
                f"{method} returns items, but a middleware returned {type(reply).__name__}: see inbound_item",
                operation=method,
            )

    async def _attempt(self, attempts: Attempts, view: Request) -> None:
        if view.items_received or (self._last is not None and self._last.running):
            raise LocalProtocolError(
                f"{view.method}: call_next was called again, but items have come or may still come",
                operation=view.method,
            )
        again = attempts.begin(view)
        try:
            call = StreamingCall(self.peer, again)
            ended = asyncio.Event()
            call.on_end = ended.set
            try:
                await call.start()
                self._last = self._unread = call
                self._changed.set()
                await ended.wait()
            finally:
                await call.aclose()
                view.items_received = self._read + call.waiting_items
                attempts.note(call.initial_metadata, call.trailing_metadata)
            call.check()
        finally:
            attempts.end()

    def _outcome(self, task: asyncio.Task[None]) -> None:
        """Raise what the chain raised."""
        if task.cancelled():
            raise RpcError(Status.CANCELLED, "the call was closed", operation=self.request.method)
        error = task.exception()
        if error is not None:
            raise error

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen: perhaps nobody reads on
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def swallowed(method: str) -> LocalProtocolError:
    """Build the error for the commonest slip in a middleware."""
    return LocalProtocolError(
        f"{method}: a middleware returned None in the place of the answer; write `return await call_next(request)`",
        operation=method,
    )


def _same(value: Any) -> Any:
    return value
