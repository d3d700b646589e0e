"""Items of one stream that wait to be sent: bounded by number, bytes and age, and who gives way. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echostream.protocol.frames import DatagramItemFrame

__all__ = ("QueuedItem", "SendQueue")


@dataclass(slots=True, eq=False)
class QueuedItem:
    """An item that waits."""

    frame: DatagramItemFrame
    """As it will be sent; on a reliable stream only payload, form and timestamp count."""
    expires: float = 0.0
    """When it is of no use any more, on the clock of `now` in seconds."""


class SendQueue:
    """The newest items are kept; a large one may be in it alone.

    Attributes:
        stale: items dropped because they had waited too long.
        dropped: items dropped because there was no room.
    """

    __slots__ = ("_items", "bytes", "dropped", "max_age", "max_bytes", "max_items", "stale")

    def __init__(self, *, max_items: int, max_bytes: int, max_age: float) -> None:
        self._items: deque[QueuedItem] = deque()
        self.bytes = 0
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.max_age = max_age
        """Seconds that an item may wait; infinity for any time."""
        self.stale = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<SendQueue {len(self)} items of {self.bytes} bytes, {self.stale} stale, {self.dropped} dropped>"

    def has_room(self, size: int) -> bool:
        """Whether an item of so many bytes fits."""
        return not self._items or (len(self._items) < self.max_items and self.bytes + size <= self.max_bytes)

    def put(self, item: QueuedItem, now: float) -> None:
        """Add the newest item; whoever wants the bounds kept has made room for it."""
        item.expires = now + self.max_age
        self._items.append(item)
        self.bytes += len(item.frame.payload)

    def drop_oldest(self) -> None:
        """Give up the item that has waited longest, if there is one."""
        if self._items:
            self._pop()
            self.dropped += 1

    def drop_stale(self, now: float) -> None:
        """Give up what has waited too long."""
        while self._items and self._items[0].expires <= now:
            self._pop()
            self.stale += 1

    def take(self, now: float) -> QueuedItem | None:
        """Return the oldest item that is still of use, and forget it."""
        self.drop_stale(now)
        return self._pop() if self._items else None

    def peek(self, now: float) -> QueuedItem | None:
        """Return what `take` would."""
        self.drop_stale(now)
        return self._items[0] if self._items else None

    def clear(self) -> None:
        """Forget all: the stream has ended."""
        self._items.clear()
        self.bytes = 0

    def _pop(self) -> QueuedItem:
        item = self._items.popleft()
        self.bytes -= len(item.frame.payload)
        return item
