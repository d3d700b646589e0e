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
    from echostream.errors import ConnectionLostError
    from echostream.protocol.link import Link

__all__ = ("InLine", "Places")


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
        self._waiters: deque[InLine] | None = None  # 760 bytes, made when the first one waits

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
            if self._waiters.popleft().enter():
                self._promised += 1

    def line_up(self, waiter: InLine, deadline: float | None) -> None:
        """Put somebody at the end of the line, who expires at `deadline` on the loop's clock.

        Raises:
            ResourceError: too many wait already.
        """
        if self.waiting >= self._max_waiting:
            raise ResourceError(
                f"{self._max_waiting} calls already wait for a free place (max_waiting_calls); slow down",
                current=self.waiting,
                limit=self._max_waiting,
            )
        waiters = self._waiters = self._waiters or deque()
        waiters.append(waiter)
        if deadline is not None:
            self._wheel.put(deadline, waiter)

    def leave(self, waiter: InLine) -> None:
        """Forget somebody who gives up."""
        if self._waiters:
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def lose(self, error: ConnectionLostError) -> None:
        """Tell those who wait that there is no place any more, and forget them."""
        waiters, self._waiters = self._waiters or (), None
        for waiter in waiters:
            waiter.lose(error)

    async def _wait(self, deadline: float | None) -> None:
        waiter = _Waiter(self._loop.create_future())
        self.line_up(waiter, deadline)
        try:
            await waiter.future
        except (asyncio.CancelledError, TimeoutError):
            if waiter.is_called:
                self.settle()  # the place was ours already: hand it on
            else:
                self.leave(waiter)
            raise
        finally:
            if deadline is not None:
                self._wheel.remove(waiter)


class InLine(Entry):
    """Somebody in the line."""

    __slots__ = ()

    def enter(self) -> bool:
        """Take the place; True when that is still to come, so that it has to be promised, and `settle` follows."""
        raise NotImplementedError

    def lose(self, error: ConnectionLostError) -> None:
        """The connection ended."""
        raise NotImplementedError


class _Waiter(InLine):
    """Whoever awaits a place. A deadline here costs a fifth of what `asyncio.timeout` does."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    @property
    def is_called(self) -> bool:
        """Whether a place was promised."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    def enter(self) -> bool:
        if self.future.done():
            return False
        self.future.set_result(None)
        return True

    def lose(self, error: ConnectionLostError) -> None:
        if not self.future.done():
            self.future.set_exception(error.again())

    def expire(self) -> None:
        if not self.future.done():
            self.future.set_exception(TimeoutError())
