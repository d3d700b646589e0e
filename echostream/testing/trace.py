"""What a simulation remembers: the frames that arrived, and on demand the packets that were sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame
from echostream.testing.link import Arrival
from echostream.transport.sockets import SocketAddress

__all__ = ("FrameRecord", "PacketRecord", "record_frame")


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


@dataclass(frozen=True, slots=True)
class PacketRecord:
    """One UDP packet that was sent, and what became of it."""

    at: float
    """Virtual seconds at which it was sent."""
    sender: str
    """Host."""
    receiver: str
    """Host; empty where nobody has the destination (any more)."""
    source: SocketAddress
    destination: SocketAddress
    data: bytes
    """As it was sent."""
    arrivals: tuple[Arrival, ...]
    """When and how it arrived: nothing where it was lost, two where it was duplicated."""


def record_frame(at: float, host: str, frame: Frame, codec: FrameCodec) -> FrameRecord:
    """Return the record of a frame."""
    digest = hashlib.sha256(codec.encode(frame)).hexdigest()[:32]
    return FrameRecord(round(at, 9), host, type(frame).__name__.removesuffix("Frame"), frame.id, digest)
