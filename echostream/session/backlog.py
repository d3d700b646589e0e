"""What one connection has written and not sent yet: how much it is, who waits because of it, and whether it moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from echostream.session.deadlines import DeadlineWheel, Entry
from echostream.session.turns import Turns

if TYPE_CHECKING:
    from echostream.config import Limits
    from echostream.protocol.account import Share
    from echostream.transport.base import Connection

__all__ = ("Backlog",)

_STEP_BYTES: Final = 64 << 10
_STEP_BYTES_PER_STREAM: Final = 256
"""Bytes that may be written between two counts. Each asks all streams that may have something left, so many streams are
asked less often."""
_LOOKS: Final = 6
"""Looks in a `stall_timeout`: a stall is seen at most a sixth later."""
_RECOUNT: Final = 0.1
"""Seconds between two counts while writers wait and nothing else gives rise to one."""


class Backlog(Entry):
    """The unsent bytes of one connection; also the timer that looks whether they move.

    Above `max_unsent_bytes` every writer of the connection waits (`full`) until half of it is left. Only what cannot
    wait, such as answers to probes and refusals, is written nevertheless: at twice the limit, on top of what a large
    payload may need alone, the connection is ended. So it is when nothing was sent, or nothing of what was sent was
    acknowledged, for `stall_timeout`.
    """

    __slots__ = (
        "_acknowledged",
        "_connection",
        "_end",
        "_go_on",
        "_large",
        "_loop",
        "_sent",
        "_share",
        "_since",
        "_timeout",
        "_wheel",
        "count_at",
        "full",
        "is_watched",
        "streams",
        "unsent_bytes",
        "written_bytes",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        share: Share,
        limits: Limits,
        wheel: DeadlineWheel,
        large: Turns,
        loop: asyncio.AbstractEventLoop,
        go_on: Callable[[], None],
        end: Callable[[str], None],
    ) -> None:
        """Make one.

        Args:
            connection: where the bytes wait.
            share: this connection's part of what all may have unsent.
            limits: of the session.
            wheel: for the timer.
            large: knows the large payloads that are being written; one may be above the limit, alone.
            loop: the loop that it lives on.
            go_on: called when writers may go on.
            end: called once, with the reason, when the connection is to be ended.
        """
        self._connection = connection
        self._share = share
        self._timeout = limits.stall_timeout
        self._wheel = wheel
        self._large = large
        self._loop = loop
        self._go_on = go_on
        self._end: Callable[[str], None] | None = end
        self._sent = 0
        self._acknowledged: object = None
        self._since = 0.0
        self.is_watched = False
        """Whether there is a timer: not when all was sent and acknowledged at the last look."""
        self.full = False
        """Whether all writers of the connection wait."""
        self.streams: dict[int, None] = {}
        """Transport streams that something was written on: whoever writes adds them."""
        self.written_bytes = 0
        """All that was ever written: whoever writes adds to it, and calls `count` where it reaches `count_at`."""
        self.count_at = 0
        self.unsent_bytes = 0
        """As of the last count."""

    def count(self) -> None:
        """Count what is unsent, and let writers wait or go on."""
        if self._end is None:
            return
        streams, unsent = self.streams, 0
        for stream_id in tuple(streams):
            left = self._connection.unsent_bytes(stream_id)
            if left:
                unsent += left
            else:
                del streams[stream_id]
        share = self._share
        share.add(unsent - share.held)
        self.unsent_bytes = unsent
        step = max(min(_STEP_BYTES, share.limit // 4), _STEP_BYTES_PER_STREAM * len(streams))
        self.count_at = self.written_bytes + step
        if unsent > 2 * share.limit + self._large.claimed_bytes:
            self._end_soon(f"{unsent} bytes wait to be sent to it, limit {share.limit} (max_unsent_bytes)")
        elif self.full:
            self.full = unsent > share.limit // 2 or share.crowded(unsent)
            if not self.full:
                self._go_on()
        elif share.full:
            self.full = True
            self._look_in(_RECOUNT)
        if not self.is_watched:
            self._sent, self._acknowledged = self.written_bytes - unsent, self._connection.acknowledged()
            self._since = self._loop.time()
            self._look_in(self._timeout / _LOOKS)

    def expire(self) -> None:
        """Look whether anything moves."""
        if self._end is None:
            return
        self.count()
        if not self.unsent_bytes and not self._connection.has_undelivered():
            self.is_watched = False
            self.count_at = 0  # the next write starts it again
            return
        now, sent = self._loop.time(), self.written_bytes - self.unsent_bytes
        acknowledged = self._connection.acknowledged()
        # Both: a window that stays shut lets packets be acknowledged, and probes send a little where none is. Where
        # nothing waits there may be datagrams under way at every look, and nothing but them.
        if (sent != self._sent or not self.unsent_bytes) and acknowledged != self._acknowledged:
            self._sent, self._acknowledged, self._since = sent, acknowledged, now
        elif now - self._since >= self._timeout:
            took_nothing = self.unsent_bytes and sent == self._sent
            what = f"took nothing of {self.unsent_bytes} bytes" if took_nothing else "acknowledged nothing"
            self._end_soon(f"it {what} for {self._timeout:g} s (stall_timeout)")
            return
        self._look_in(_RECOUNT if self.full else self._timeout / _LOOKS)

    def close(self) -> None:
        """Forget all: the connection has ended."""
        self._end = None
        self.full = False
        self.streams.clear()
        self._share.close()
        if self.is_watched:
            self.is_watched = False
            self._wheel.remove(self)

    def _look_in(self, seconds: float) -> None:
        if self.is_watched:
            self._wheel.remove(self)
        self.is_watched = True
        self._wheel.put(self._loop.time() + seconds, self)

    def _end_soon(self, reason: str) -> None:
        """End the connection in a turn of its own: this may be called from within a write."""
        end, self._end = self._end, None
        if end is not None:
            self._loop.call_soon(end, reason)
