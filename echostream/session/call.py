"""`Call`: a unary or client-streaming call in the making, as an object."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from echostream.session.pending import PendingCall, Progress
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
        self._pending = PendingCall(session.peer, None)
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

    def _ended(self, _task: asyncio.Task[T]) -> None:
        if self._pending.progress_changed is not None:
            self._pending.progress_changed.set()
