"""`Call`: a unary or client-streaming call in the making, as an object."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from echostream.errors import LocalProtocolError
from echostream.session.pending import Progress
from echostream.session.timing import TIMING, CallTiming, TimedCall, timing_of
from echostream.types import clock
from echostream_derive import CallShape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echostream.protocol.frames import ResponseFrame
    from echostream.session.proxy import ProxyMethod
    from echostream.session.session import Session
    from echostream.types import Metadata

__all__ = ("Call",)

T = TypeVar("T")

_MAX_PROGRESS: Final = 64
"""Progress reports kept for a reader; the oldest goes first: only the newest matter."""


class Call(Generic[T]):
    """A call that runs; await it for the result.

    Attributes:
        initial_metadata: what the handler sent first; complete once the call has ended.
        trailing_metadata: what the handler sent with the end.
    """

    def __init__(self, session: Session, method: ProxyMethod, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.initial_metadata: Metadata = {}
        self.trailing_metadata: Metadata = {}
        self._method = method.binding.name
        self._session = session
        self._sent_ns = clock.monotonic_ns()
        self._answered_ns: int | None = None
        self._is_timed = TIMING in (method.options.metadata or ())
        self._pending = TimedCall.make(session.peer, timed=self._is_timed)
        self._pending.progress = deque(maxlen=_MAX_PROGRESS)
        self._pending.progress_changed = asyncio.Event()
        request = method.request(args, kwargs)
        start = method.unary if method.binding.shape is CallShape.UNARY else method.collect
        coroutine = start(request, self._pending, self._seen)
        self._task: asyncio.Task[T] = session.calls.start(coroutine, f"call {self._method}")
        self._task.add_done_callback(self._ended)

    def __repr__(self) -> str:
        state = "ended" if self._task.done() else "running"
        return f"<Call {self._method} {state}>"

    def __await__(self) -> Generator[Any, None, T]:
        return self._task.__await__()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    def cancel(self) -> bool:
        """Give up: the remote handler is cancelled, awaiting raises CancelledError. False when it had ended."""
        return self._task.cancel()

    async def timing(self) -> CallTiming:
        """Return where the time of the call went; waits for its end, and until the session's clock is known.

        Raises:
            LocalProtocolError: nobody asked for it with ``client.proxy(Service, timing=True)``, the other side cannot
                tell, or the call ended without an answer.
            DeadlineExceededError: the clock could not be synchronised in time.
        """
        await asyncio.wait({self._task})
        if not self._is_timed or self._answered_ns is None:
            way_out = "is not timed: call a method of client.proxy(Service, timing=True)"
            why = "ended without an answer" if self._is_timed else way_out
            raise LocalProtocolError(f"the call {why}", operation=self._method)
        session_clock = self._session.clock
        if not session_clock.locked:
            await session_clock.wait_locked()
        return timing_of(self.trailing_metadata, session_clock, self._sent_ns, self._answered_ns)

    async def progress(self) -> AsyncIterator[Progress]:
        """Iterate over the reports of the handler's ``ctx.progress(...)`` until the call ends; one reader only."""
        reports, changed = self._pending.progress, self._pending.progress_changed
        if reports is None or changed is None:
            return
        while True:
            while reports:
                yield reports.popleft()
            if self._task.done():
                return
            changed.clear()
            await changed.wait()

    def _seen(self, frame: ResponseFrame) -> None:
        self.initial_metadata = frame.initial or {}
        self.trailing_metadata = frame.metadata or {}
        if self._is_timed:
            noted = getattr(self._pending, "answered_ns", None)
            self._answered_ns = clock.monotonic_ns() if noted is None else noted

    def _ended(self, _task: asyncio.Task[T]) -> None:
        if self._pending.progress_changed is not None:
            self._pending.progress_changed.set()
