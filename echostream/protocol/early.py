"""What arrives before the Hello exchange is over: the Hello itself is cut out, the rest waits within a limit."""

from __future__ import annotations

from typing import Final

from echostream.errors import CloseCode, RemoteProtocolError
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import HelloFrame
from echostream.protocol.link import LANE

__all__ = ("EarlyData",)

_LENGTH_BYTES: Final = 4
_PIECE_COST_BYTES: Final = 64
"""What a held piece costs besides its bytes: without it a flood of empty pieces would be free."""


class EarlyData:
    """Bytes of all transport streams: the lane's together, the others' in order of arrival."""

    __slots__ = ("_hello_bytes", "_lane", "_limit", "_others", "_total")

    def __init__(self, limit_bytes: int, hello_bytes: int) -> None:
        """Make one.

        Args:
            limit_bytes: what may be held back in all.
            hello_bytes: how long the Hello frame may be.
        """
        self._limit = limit_bytes
        self._hello_bytes = hello_bytes
        self._lane = bytearray()
        self._others: list[tuple[int, bytes, bool]] = []
        self._total = 0

    def add(self, stream_id: int, data: bytes, *, fin: bool) -> None:
        """Hold bytes back.

        Raises:
            RemoteProtocolError: over the limit, or the end of the lane.
        """
        self._total += len(data) if stream_id == LANE else len(data) + _PIECE_COST_BYTES
        if self._total > self._limit:
            raise RemoteProtocolError(
                f"more than {self._limit} bytes before the hello was accepted", close_code=CloseCode.LIMIT_EXCEEDED
            )
        if stream_id != LANE:
            self._others.append((stream_id, data, fin))
        elif fin:
            raise RemoteProtocolError("peer ended the lane")
        else:
            self._lane += data

    def cut_hello(self, codec: FrameCodec) -> HelloFrame | None:
        """Return the Hello once it is whole.

        Raises:
            RemoteProtocolError: the first frame is broken, too long, or no Hello.
        """
        lane = self._lane
        if len(lane) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(lane[:_LENGTH_BYTES], "big")
        if end > self._hello_bytes:
            raise RemoteProtocolError(
                f"hello of {end} bytes is over the limit of {self._hello_bytes}", close_code=CloseCode.LIMIT_EXCEEDED
            )
        if len(lane) < end:
            return None
        frame = codec.decode(bytes(lane[:end]), 0, end)
        if not isinstance(frame, HelloFrame):
            raise RemoteProtocolError("first frame was not a hello")
        del lane[:end]
        return frame

    def drop(self, stream_id: int) -> None:
        """Forget what came on a stream that the peer then abandoned."""
        self._others = [item for item in self._others if item[0] != stream_id]

    def take(self) -> list[tuple[int, bytes, bool]]:
        """Return (stream, bytes, fin) as held back, and forget it."""
        held = [(LANE, bytes(self._lane), False)] if self._lane else []
        held += self._others
        self._lane, self._others, self._total = bytearray(), [], 0
        return held
