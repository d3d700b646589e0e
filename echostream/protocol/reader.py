"""Cutting the bytes of transport streams into frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from echostream.errors import CloseCode, RemoteProtocolError
from echostream.protocol.codec import FrameCodec
from echostream.protocol.layout import LENGTH_BYTES

if TYPE_CHECKING:
    from echostream.protocol.account import Share
    from echostream.protocol.frames import Frame

__all__ = ("FrameReader", "StreamReaders")


class StreamReaders:
    """The readers of one connection, by transport stream, and what their unfinished frames hold together."""

    __slots__ = ("_codec", "_held", "_limit", "_readers", "buffered_bytes")

    def __init__(self, codec: FrameCodec, limit_bytes: int, held: Share | None = None) -> None:
        self._codec = codec
        self._limit = limit_bytes
        self._held = held
        self._readers: dict[int, FrameReader] = {}
        self.buffered_bytes = 0

    def __len__(self) -> int:
        return len(self._readers)

    def feed(self, stream_id: int, data: bytes, take: Callable[[bytes], int] | None = None) -> list[Frame]:
        """Return the frames that `data` completes on a stream.

        Args:
            stream_id: the stream.
            data: what came.
            take: sees to frames that data begins with, and returns where the rest begins.

        Raises:
            RemoteProtocolError: a frame is broken, or it or all unfinished ones together are over the limit.
        """
        reader = self._readers.get(stream_id)
        if reader is None:
            reader = self._readers[stream_id] = FrameReader(self._codec)
        before = reader.buffered_bytes
        frames = reader.feed(data, take)
        if more := reader.buffered_bytes - before:
            self._add(more)
        return frames

    def end(self, stream_id: int) -> None:
        """No more bytes of a stream come.

        Raises:
            RemoteProtocolError: it ended inside a frame.
        """
        if self._readers[stream_id].buffered_bytes:
            raise RemoteProtocolError(f"stream {stream_id} ended inside a frame")
        self.drop(stream_id)

    def drop(self, stream_id: int) -> None:
        """Forget a stream and what it left unfinished."""
        reader = self._readers.pop(stream_id, None)
        if reader is not None:
            self._add(-reader.buffered_bytes)

    def clear(self) -> None:
        """Forget all streams."""
        self._readers.clear()
        self._add(-self.buffered_bytes)

    def _add(self, size: int) -> None:
        self.buffered_bytes += size
        held = self._held
        if held is not None:
            held.add(size)
        if size <= 0:
            return
        if self.buffered_bytes > self._limit:
            self._refuse(f"limit {self._limit}")
        if held is not None and held.crowded(self.buffered_bytes):
            self._refuse("and all connections together too many (max_total_held_bytes)")

    def _refuse(self, why: str) -> None:
        raise RemoteProtocolError(
            f"unfinished frames hold {self.buffered_bytes} bytes, {why}", close_code=CloseCode.LIMIT_EXCEEDED
        )


class FrameReader:
    """Cuts the bytes of one stream into frames. Keeps the unfinished rest, up to the codec's frame limit.

    After `feed` returned a list, everything whole in it was taken; `buffered_bytes` says what is held back.
    """

    __slots__ = ("_codec", "_needed", "_rest", "buffered_bytes")

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
        self._rest = bytearray()  # not a list of pieces: a million pieces of one byte would cost many times their bytes
        self._needed = LENGTH_BYTES
        self.buffered_bytes = 0

    def feed(self, data: bytes, take: Callable[[bytes], int] | None = None) -> list[Frame]:
        """Return the frames that `data` completes, but for those that `take` sees to, see `StreamReaders.feed`.

        Raises:
            RemoteProtocolError: a frame is broken or over the limit; the reader is not to be used again.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._needed:
                self.buffered_bytes = len(rest)
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        position = self._codec.cut(data, frames, 0 if take is None else take(data))
        left = self.buffered_bytes = len(data) - position
        if left:
            rest += data[position:]
        self._needed = LENGTH_BYTES if left < LENGTH_BYTES else LENGTH_BYTES + int.from_bytes(rest[:LENGTH_BYTES])
        return frames
