"""Taking turns by size: so many bytes may be under way at once, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ("Turns",)


class Turns:
    """A bounded amount, claimed and released in pieces; a piece larger than the whole goes alone."""

    __slots__ = ("_claimed", "_limit", "_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int) -> None:
        self._loop = loop
        self._limit = limit_bytes
        self._claimed = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] | None = None  # 760 bytes, made when the first one waits

    @property
    def claimed_bytes(self) -> int:
        """What is under way."""
        return self._claimed

    async def claim(self, size: int) -> None:
        """Wait for the turn of `size` bytes; `release` ends it."""
        if not self._waiters and self._fits(size):
            self._claimed += size
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters = self._waiters = self._waiters or deque()
        waiters.append((size, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.release(size)  # the turn was ours already: hand it on
            elif (size, waiter) in waiters:
                waiters.remove((size, waiter))
                self.release(0)  # those behind may be smaller
            raise

    def release(self, size: int) -> None:
        """Let the next ones in."""
        self._claimed -= size
        while self._waiters and self._fits(self._waiters[0][0]):
            wanted, waiter = self._waiters.popleft()
            if not waiter.done():
                self._claimed += wanted
                waiter.set_result(None)

    def take_waiters(self) -> list[asyncio.Future[None]]:
        """Return those who wait, and forget them: their connection has ended."""
        waiters, self._waiters = self._waiters or (), None
        return [waiter for _, waiter in waiters]

    def _fits(self, size: int) -> bool:
        return not self._claimed or self._claimed + size <= self._limit
