"""What arrives before the Hello exchange is over: the Hello itself is cut out, the rest waits within a limit."""

from __future__ import annotations

from typing import Final

from echostream.errors import CloseCode, RemoteProtocolError
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import HelloFrame
from echostream.protocol.link import LANE

__all__ = ("EarlyData",)

_LENGTH_BYTES: Final = 4


class EarlyData:
    """Bytes of all transport streams, in order of arrival."""

    __slots__ = ("_held", "_limit", "_total")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held: list[tuple[int, bytes, bool]] = []
        self._total = 0

    def add(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        """Hold bytes back.

        Raises:
            RemoteProtocolError: over the limit, or the end of the lane.
        """
        self._total += len(data)
        if self._total > self._limit:
            raise RemoteProtocolError(
                f"more than {self._limit} bytes before the hello was accepted", close_code=CloseCode.LIMIT_EXCEEDED
            )
        if fin and stream_id == LANE:
            raise RemoteProtocolError("peer ended the lane")
        self._held.append((stream_id, data, fin))

    def cut_hello(self, codec: FrameCodec) -> HelloFrame | None:
        """Return the Hello once it is whole.

        Raises:
            RemoteProtocolError: the first frame is broken, too long, or no Hello.
        """
        lane = b"".join(data for number, data, _ in self._held if number == LANE)
        if len(lane) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(lane[:_LENGTH_BYTES], "big")
        if end > self._limit:
            raise RemoteProtocolError(f"hello of {end} bytes is over the limit", close_code=CloseCode.LIMIT_EXCEEDED)
        if len(lane) < end:
            return None
        frame = codec.decode(lane, 0, end)
        if not isinstance(frame, HelloFrame):
            raise RemoteProtocolError("first frame was not a hello")
        others = [item for item in self._held if item[0] != LANE]
        self._held = [(LANE, lane[end:], False), *others] if len(lane) > end else others
        return frame

    def take(self) -> list[tuple[int, bytes, bool]]:
        """Return what was held back, and forget it."""
        held, self._held, self._total = self._held, [], 0
        return held
