"""Bytes on their way down, gathered per transport stream until the driver takes them."""

from __future__ import annotations

from typing import Final

__all__ = ("LANE", "Outbox")

LANE: Final = 0
"""The transport stream that the client opens first: the lane of both sides."""


class Outbox:
    """What the protocol machine wants written and aborted."""

    __slots__ = ("_aborts", "_chunks", "_fins", "frames", "lane", "size")

    def __init__(self) -> None:
        self._chunks: dict[int, list[bytes]] = {}
        self.lane: list[bytes] = []
        """Frames for the first lane, which most are for: whoever adds one here instead of by `write` counts it."""
        self._fins: dict[int, None] = {}
        self._aborts: list[tuple[int, bool, bool, int]] = []
        self.frames = 0
        """Frames gathered since the last `take_writes`."""
        self.size = 0
        """Their bytes."""

    @property
    def pending(self) -> bool:
        """Whether anything is to be taken."""
        return bool(self.lane or self._chunks or self._aborts)

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Queue one frame, or only the end of the stream."""
        chunks = self._chunks.get(stream_id) if stream_id != LANE else self.lane
        if chunks is None:
            self._chunks[stream_id] = [data]
        else:
            chunks.append(data)
        if fin:
            self._fins[stream_id] = None
        self.frames += 1
        self.size += len(data)

    def abort(self, stream_id: int, *, reset: bool, stop: bool, code: int) -> None:
        """Queue a reset of the sending half, a stop of the receiving half, or both."""
        if reset:
            if stream_id == LANE:
                self.lane.clear()
            self._chunks.pop(stream_id, None)
            self._fins.pop(stream_id, None)
        self._aborts.append((stream_id, reset, stop, code))

    def take_writes(self) -> list[tuple[int, bytes, bool]]:
        """Return (stream, bytes, fin), and start afresh."""
        fins = self._fins
        writes = [
            (stream_id, chunks[0] if len(chunks) == 1 else b"".join(chunks), stream_id in fins)
            for stream_id, chunks in self._chunks.items()
        ]
        if self.lane:
            writes.insert(0, (LANE, b"".join(self.lane), LANE in fins))
            self.lane.clear()
        self._chunks = {}
        self.frames = self.size = 0
        if fins:
            self._fins = {}
        return writes

    def take_aborts(self) -> list[tuple[int, bool, bool, int]]:
        """Return (stream, reset?, stop?, code), and start afresh."""
        aborts, self._aborts = self._aborts, []
        return aborts
