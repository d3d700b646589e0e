"""Places for calls: the peer says how many it serves at once, and callers above that wait in line on this side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sized
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from echostream.errors import ResourceError
from echostream.session.deadlines import DeadlineWheel, Entry

if TYPE_CHECKING:
    from echostream.protocol.link import Link

__all__ = ("Places",)


class Places:
    """Who may call now. A place is promised to the first in line as soon as it is free, or others would be faster."""

    __slots__ = ("_link", "_loop", "_max_waiting", "_promised", "_running", "_waiters", "_wheel")

    def __init__(self, loop: asyncio.AbstractEventLoop, running: Sized, link: Link, wheel: DeadlineWheel) -> None:
        """Make the places of one connection.

        Args:
            loop: the loop that it lives on.
            running: the calls that have started and not ended.
            link: knows the peer's limit.
            wheel: for the deadlines of those who wait.
        """
        self._loop = loop
        self._running = running
        self._link = link
        self._wheel = wheel
        self._max_waiting = link.limits.max_waiting_calls
        self._promised = 0
        self._waiters: deque[_Waiter] | None = None  # 760 bytes, made when the first one waits

    @property
    def free(self) -> bool:
        """Whether a call may start now."""
        return len(self._running) + self._promised < self._link.peer_limits.max_concurrent_calls

    @property
    def waiting(self) -> int:
        """Callers in line."""
        return len(self._waiters or ())

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        """`take` a place and keep it for the block, in which the call starts or fails to."""
        await self.take()
        try:
            yield
        finally:
            self.settle()

    async def take(self, deadline: float | None = None) -> None:
        """Wait for a place, until `deadline` on the loop's clock; `settle` follows.

        Raises:
            ResourceError: too many wait already.
            TimeoutError: the deadline passed.
            ConnectionLostError: the connection ended meanwhile.
        """
        if self.free:
            self._promised += 1
        else:
            await self._wait(deadline)

    def settle(self) -> None:
        """The call has started, or failed to."""
        self._promised -= 1
        self.freed()

    def freed(self) -> None:
        """Calls ended: let the next ones in."""
        while self._waiters and self.free:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                self._promised += 1
                waiter.future.set_result(None)

    def take_waiters(self) -> list[asyncio.Future[None]]:
        """Return those who wait, and forget them: their connection has ended."""
        waiters, self._waiters = self._waiters or (), None
        return [waiter.future for waiter in waiters]

    async def _wait(self, deadline: float | None) -> None:
        if self.waiting >= self._max_waiting:
            raise ResourceError(
                f"{self._max_waiting} calls already wait for a free place (max_waiting_calls); slow down",
                current=self.waiting,
                limit=self._max_waiting,
            )
        waiter = _Waiter(self._loop.create_future())
        waiters = self._waiters = self._waiters or deque()
        waiters.append(waiter)
        if deadline is not None:
            self._wheel.put(deadline, waiter)
        try:
            await waiter.future
        except (asyncio.CancelledError, TimeoutError):
            if waiter.is_called:
                self.settle()  # the place was ours already: hand it on
            else:
                with suppress(ValueError):
                    waiters.remove(waiter)
            raise
        finally:
            if deadline is not None:
                self._wheel.remove(waiter)


class _Waiter(Entry):
    """Somebody in the line. A deadline here costs a fifth of what `asyncio.timeout` does."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    @property
    def is_called(self) -> bool:
        """Whether a place was promised."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    def expire(self) -> None:
        if not self.future.done():
            self.future.set_exception(TimeoutError())
