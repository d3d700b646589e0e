"""Items that travel in datagrams: cut to size, joined again, held while their stream is not open. Sans-IO, bounded."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from echostream.protocol import frames as f
from echostream.protocol.layout import DATAGRAM_ITEM, I64

if TYPE_CHECKING:
    from echostream.protocol.account import Share

__all__ = ("DatagramHalves", "EarlyItems", "cut_item")

_SEQUENCES: Final = 1 << 32
_MAX_PIECES: Final = 1 << 16
_MAX_UNFINISHED: Final = 16
"""Items of one stream that wait for pieces: those of a newer one mean that the oldest will not be whole any more."""
_LEAST_PIECE_BYTES: Final = 64
"""What a piece costs at the least: without it those of a byte or none would be free. A path carries far larger ones."""
_MAX_EARLY: Final = 64
_EARLY_NS: Final = 100_000_000
"""Datagrams that overtook the opening of their stream: what took longer than this is of no use to it."""


class DatagramHalves:
    """What an application stream remembers of both its directions, where its items may travel in datagrams."""

    __slots__ = (
        "_held", "_limit", "_piece_count", "_unfinished", "buffered_bytes", "dropped", "numbered", "remote_items",
    )  # fmt: skip

    def __init__(self, limit_bytes: int, held: Share | None = None) -> None:
        """Make one; unfinished items take no more than `limit_bytes`, and count in `held` until `release`."""
        self._limit = limit_bytes
        self._held = held
        self._unfinished: dict[int, _Unfinished] = {}
        self._piece_count = 0
        self.buffered_bytes = 0
        """Of unfinished items."""
        self.dropped = 0
        """Unfinished items that were given up."""
        self.numbered = 0
        """Items of this side that have a number, sent or not."""
        self.remote_items: int | None = None
        """Items of the other side that have a number, once its StreamEnd told."""

    def next_sequence(self) -> int:
        """Number the next item of this side."""
        self.numbered += 1
        return (self.numbered - 1) % _SEQUENCES

    def join(self, frame: f.DatagramItemFrame) -> f.DatagramItemFrame | None:
        """Take a piece; return the item when it is whole. One that does not fit the others is dropped."""
        if frame.pieces == 1:
            return frame
        item = self._unfinished.get(frame.sequence)
        if item is None:
            item = self._unfinished[frame.sequence] = _Unfinished(frame)
        if frame.piece in item.pieces or not item.fits(frame):
            return None
        item.pieces[frame.piece] = frame.payload
        self._piece_count += 1
        self._count(len(frame.payload))
        if len(item.pieces) == frame.pieces:
            self._forget(frame.sequence)
            payload = b"".join(item.pieces[number] for number in range(frame.pieces))
            return f.DatagramItemFrame(frame.id, frame.sequence, payload, 0, 1, frame.raw, frame.timestamp_ns)
        while self._unfinished and self._too_much:
            self._forget(next(iter(self._unfinished)))
            self.dropped += 1
        return None

    def release(self) -> None:
        """The stream has ended: nothing will be whole any more."""
        self._unfinished.clear()
        self._piece_count = 0
        self._count(-self.buffered_bytes)
        self._held = None

    @property
    def _too_much(self) -> bool:
        is_full = self._held is not None and self._held.full
        size = max(self.buffered_bytes, self._piece_count * _LEAST_PIECE_BYTES)
        return len(self._unfinished) > _MAX_UNFINISHED or size > self._limit or is_full

    def _forget(self, sequence: int) -> None:
        pieces = self._unfinished.pop(sequence).pieces
        self._piece_count -= len(pieces)
        self._count(-sum(map(len, pieces.values())))

    def _count(self, size: int) -> None:
        self.buffered_bytes += size
        if self._held is not None:
            self._held.add(size)


class _Unfinished:
    """An item of which some pieces came."""

    __slots__ = ("first", "pieces")

    def __init__(self, first: f.DatagramItemFrame) -> None:
        self.first = first
        self.pieces: dict[int, bytes] = {}

    def fits(self, frame: f.DatagramItemFrame) -> bool:
        first = self.first
        kind = (frame.pieces, frame.raw, frame.timestamp_ns)
        return kind == (first.pieces, first.raw, first.timestamp_ns)


class EarlyItems:
    """Datagrams that came before their stream was taken: few, and not for long."""

    __slots__ = ("_frames", "_held", "dropped")

    def __init__(self, held: Share | None = None) -> None:
        """Make one; what waits counts in `held`."""
        self._frames: deque[tuple[int, f.DatagramItemFrame]] = deque()
        self._held = held
        self.dropped = 0
        """Those that nobody wanted in time."""

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: f.DatagramItemFrame, arrived_ns: int) -> None:
        """Hold one."""
        self._drop(arrived_ns)
        if len(self._frames) >= _MAX_EARLY or (self._held is not None and self._held.full):
            self._drop_oldest()
        self._frames.append((arrived_ns, frame))
        self._count(len(frame.payload))

    def take(self, number: int, now_ns: int) -> list[tuple[int, f.DatagramItemFrame]]:
        """Return (arrival, frame) of those of one stream, and forget them."""
        if not self._frames:
            return []
        self._drop(now_ns)
        taken = [item for item in self._frames if item[1].id == number]
        self._frames = deque(item for item in self._frames if item[1].id != number)
        self._count(-sum(len(frame.payload) for _, frame in taken))
        return taken

    def _drop(self, now_ns: int) -> None:
        while self._frames and now_ns - self._frames[0][0] > _EARLY_NS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if self._frames:
            self._count(-len(self._frames.popleft()[1].payload))
            self.dropped += 1

    def _count(self, size: int) -> None:
        if self._held is not None:
            self._held.add(size)


def cut_item(item: f.DatagramItemFrame, room: int) -> list[f.DatagramItemFrame]:
    """Return an item in pieces whose frames have at most `room` bytes each; empty when it would take too many."""
    size = room - DATAGRAM_ITEM.size - (I64.size if item.timestamp_ns is not None else 0)
    payload = item.payload
    if len(payload) <= size:
        return [item]
    pieces = -(-len(payload) // size) if size > 0 else _MAX_PIECES + 1
    if pieces > _MAX_PIECES:
        return []
    return [
        f.DatagramItemFrame(
            item.id, item.sequence, payload[at * size : (at + 1) * size], at, pieces, item.raw, item.timestamp_ns
        )
        for at in range(pieces)
    ]
