"""Deadlines of unary calls: nothing is set for a call that ends in time, one look goes over all that run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from echostream.session.deadlines import DeadlineWheel, Entry

if TYPE_CHECKING:
    from echostream.protocol.records import OutgoingCall

__all__ = ("DueCalls",)


class DueCalls(Entry):
    """Ends the calls of one connection whose `deadline` passed, by ``handle.expire()``.

    Whoever starts a call calls `look_at` where its deadline is before `at`. As a rule it is not: calls that follow one
    another are due one after another, and those that are looked for have ended long since.
    """

    __slots__ = ("_loop", "_running", "_wheel", "at")

    def __init__(
        self, running: Mapping[int, OutgoingCall], wheel: DeadlineWheel, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._running = running
        self._wheel = wheel
        self._loop = loop
        self.at = math.inf
        """When the next look is, on the loop's clock in seconds."""

    def include(self, deadline: float) -> None:
        """Look at that time at the latest."""
        if deadline < self.at:
            self.look_at(deadline)

    def look_at(self, deadline: float) -> None:
        """Look earlier."""
        self.close()
        self.at = deadline
        self._wheel.put(deadline, self)

    def expire(self) -> None:
        """Look."""
        now, self.at = self._loop.time(), math.inf
        late = [call for call in self._running.values() if call.deadline <= now]
        for call in late:
            call.handle.expire()
        following = min((call.deadline for call in self._running.values()), default=math.inf)
        if following < self.at:
            self.look_at(following)

    def close(self) -> None:
        """Look no more."""
        if self.at < math.inf:
            self._wheel.remove(self)
            self.at = math.inf
