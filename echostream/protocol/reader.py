"""Cutting the bytes of one stream into frames."""

from __future__ import annotations

from struct import Struct
from typing import Final

from echostream.errors import CloseCode, RemoteProtocolError
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame

__all__ = ("FrameReader",)

_LENGTH: Final = Struct(">I")
_LENGTH_BYTES: Final = _LENGTH.size


class FrameReader:
    """Cuts the bytes of one stream into frames. Keeps the unfinished rest, up to the codec's frame limit.

    After `feed` returned a list, everything whole in it was taken; `buffered_bytes` says what is held back.
    """

    __slots__ = ("_chunks", "_codec", "_needed", "buffered_bytes")

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
        self._chunks: list[bytes] = []
        self._needed = _LENGTH_BYTES
        self.buffered_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes.

        Raises:
            RemoteProtocolError: a frame is broken or over the limit; the reader is not to be used again.
        """
        if self._chunks:
            self._chunks.append(data)
            self.buffered_bytes += len(data)
            if self.buffered_bytes < self._needed:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
            self.buffered_bytes = 0
        frames: list[Frame] = []
        position, size = 0, len(data)
        while size - position >= _LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(data, position)
            if length > self._codec.max_frame_bytes:
                raise RemoteProtocolError(
                    f"frame of {length} bytes is over the limit of {self._codec.max_frame_bytes}",
                    close_code=CloseCode.LIMIT_EXCEEDED,
                )
            end = position + _LENGTH_BYTES + length
            if end > size:
                self._needed = end - position
                break
            frame = self._codec.decode(data, position, end)
            if frame is not None:
                frames.append(frame)
            position = end
        else:
            self._needed = _LENGTH_BYTES
        if position < size:
            rest = data[position:] if position else data
            self._chunks.append(rest)
            self.buffered_bytes = len(rest)
        return frames
