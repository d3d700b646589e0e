"""The items that wait in a jitter buffer, by index, and what is missing between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from echostream.realtime.sequence import WINDOW

__all__ = ("LATER", "NEVER", "Gap", "Played", "Waiting")

LATER: Final = 3
"""So many later items prove a loss (as in TCP and QUIC, RFC 9002 section 6.1.1), once reordering had its time."""

NEVER: Final = -(1 << 70)
"""Before any index and any timestamp."""


@dataclass(slots=True)
class Played:
    """An item whose turn has come."""

    index: int
    """The sequence number, unwrapped."""
    timestamp_ns: int
    """As sent, or as the sequence says where that could not be believed."""
    arrival_ns: int
    payload: bytes
    play_at_ns: int = 0
    """When it is to be heard, on the clock of `now_ns`."""


@dataclass(slots=True)
class Gap:
    """A frame that is missing in its turn, to be concealed."""

    index: int
    """Of the item that should be here; where the sender paused there is none, and the next one has it."""
    timestamp_ns: int
    duration_ns: int
    play_at_ns: int


class Waiting:
    """Items by index, the lowest first. Holds what it is given: the owner drops while it `is_overfull`."""

    __slots__ = ("_capacity_bytes", "_head", "_items", "capacity", "size_bytes")

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self._items: dict[int, Played] = {}
        self._head = 0  # the lowest index, if there is any
        self.capacity = capacity
        self._capacity_bytes = capacity_bytes
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> Played | None:
        """The item with the lowest index."""
        return self._items.get(self._head)

    @property
    def is_overfull(self) -> bool:
        """Whether more waits than may."""
        return len(self._items) > self.capacity or self.size_bytes > self._capacity_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether one more item leaves room for those that wait."""
        items = len(self._items)
        return not items or (items < self.capacity and self.size_bytes + size_bytes <= self._capacity_bytes)

    @property
    def last(self) -> Played | None:
        """The item with the highest index."""
        return self._items[max(self._items)] if self._items else None

    @property
    def span_ns(self) -> int:
        """Media time from the first to the last, 0 when there are none."""
        last = self.last
        return last.timestamp_ns - self._items[self._head].timestamp_ns if last is not None else 0

    def put(self, item: Played) -> None:
        """Hold an item with an index that is not there."""
        if not self._items or item.index < self._head:
            self._head = item.index
        self._items[item.index] = item
        self.size_bytes += len(item.payload)

    def take(self) -> Played:
        """Return the first, and hold it no more."""
        item = self._items.pop(self._head)
        self.size_bytes -= len(item.payload)
        self._head += 1
        if self._items and self._head not in self._items:
            self._head = min(self._items)
        return item

    def clear(self) -> None:
        """Hold nothing."""
        self._items.clear()
        self.size_bytes = 0

    def missing(self, after: int, before_ns: int) -> list[int]:
        """Return the indices above `after` that are not there, while three later ones came before an instant."""
        found: list[int] = []
        later = 0
        newest = max(self._items, default=NEVER)
        lowest = max(self._head if after == NEVER else after, newest - WINDOW)
        for index in range(newest, lowest, -1):
            item = self._items.get(index)
            if item is None:
                if later >= LATER:
                    found.append(index)
            elif item.arrival_ns <= before_ns:
                later += 1
        return found[::-1]
