"""What a simulation remembers of the frames that arrived."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame

__all__ = ("FrameRecord", "record_frame")


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame that arrived. Two runs with one seed have equal records in equal order."""

    at: float
    """Virtual seconds."""
    host: str
    """Where it arrived; empty on no host."""
    kind: str
    """Which frame, such as ``"Request"``."""
    id: int
    """Of its call, stream or event: odd where the client began it, even where the server did."""
    digest: str
    """First half of the SHA-256 of its bytes, in hexadecimal."""

    def __str__(self) -> str:
        return f"{self.at:14.6f}  {self.host:<12} {self.kind:<12} {self.id:>6}  {self.digest}"


def record_frame(at: float, host: str, frame: Frame, codec: FrameCodec) -> FrameRecord:
    """Return the record of a frame."""
    digest = hashlib.sha256(codec.encode(frame)).hexdigest()[:32]
    return FrameRecord(round(at, 9), host, type(frame).__name__.removesuffix("Frame"), frame.id, digest)
