"""The units on the wire as Python objects: one dataclass per frame kind. Their bytes are `codec.py`'s business.

Not frozen: freezing costs 0.3 us a frame, and a decoded frame belongs to whoever took it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from echostream.types import Metadata

__all__ = (
    "AckFrame",
    "CancelFrame",
    "CreditFrame",
    "DatagramItemFrame",
    "EndFrame",
    "EventFrame",
    "Flag",
    "Frame",
    "FrameKind",
    "GoAwayFrame",
    "HelloFrame",
    "ItemFrame",
    "LaneOpenFrame",
    "ProgressFrame",
    "RequestFrame",
    "ResponseFrame",
    "StreamEndFrame",
    "StreamItemFrame",
    "StreamOpenFrame",
    "StreamResetFrame",
    "TimeSyncFrame",
)


class FrameKind(enum.IntEnum):
    """The kind byte. Kinds from 0x80 on are optional: who does not know one skips it."""

    HELLO = 1
    REQUEST = 2
    RESPONSE = 3
    ITEM = 4
    END = 5
    CANCEL = 6
    PROGRESS = 7
    EVENT = 8
    ACK = 9
    STREAM_OPEN = 10
    STREAM_ITEM = 11
    STREAM_END = 12
    STREAM_RESET = 13
    CREDIT = 14
    TIME_SYNC = 15
    GO_AWAY = 16
    DATAGRAM_ITEM = 21
    LANE_OPEN = 22


class Flag(enum.IntFlag):
    """The flags byte. The two highest bits are optional: who does not know them ignores them."""

    METADATA = 0x01
    """A metadata section stands before the payload."""
    INITIAL = 0x02
    """A section of initial metadata stands before that (Item, Response)."""
    RAW = 0x04
    """The payload is bytes as they are, not msgpack."""
    ACK = 0x08
    """Event: an Ack is wanted. TimeSync: this is the answer."""
    SENDS_ITEMS = 0x10
    """Request: Item frames of the caller follow, then End."""
    ACCEPTS_ITEMS = 0x20
    """Request: the caller takes Item frames before the Response."""
    # What a bit means depends on the kind; these are other names for the two above.
    TIMED = 0x10
    """StreamOpen: items have timestamps. StreamItem, DatagramItem: one stands before the payload."""
    DATAGRAM = 0x20
    """StreamOpen: items may travel in datagrams."""


@dataclass(slots=True)
class Frame:
    """What all frames share."""

    id: int
    """Call, event or stream id: unsigned 64 bits, odd from the client, even from the server; 0 where unused."""


@dataclass(slots=True)
class HelloFrame(Frame):
    """First frame of each side, on the first stream."""

    payload: bytes
    """Packed map; see docs/reference/protocol.md."""


@dataclass(slots=True)
class RequestFrame(Frame):
    """A call begins."""

    method: str
    payload: bytes
    """Packed [positional, keyword]."""
    timeout_ns: int = 0
    """Nanoseconds left to the caller when this was encoded; 0 for no deadline."""
    metadata: Metadata | None = None
    sends_items: bool = False
    accepts_items: bool = False
    raw: bool = False


@dataclass(slots=True)
class ResponseFrame(Frame):
    """A call ends."""

    status: int
    payload: bytes
    """Packed result, or packed {"message", "details"} when the status is not OK."""
    metadata: Metadata | None = None
    """Trailing metadata."""
    initial: Metadata | None = None
    raw: bool = False


@dataclass(slots=True)
class ItemFrame(Frame):
    """One item of a streaming call, either way."""

    payload: bytes
    raw: bool = False
    initial: Metadata | None = None
    """Initial metadata, on the first item of the responder only."""


@dataclass(slots=True)
class EndFrame(Frame):
    """The caller sends no more items."""


@dataclass(slots=True)
class CancelFrame(Frame):
    """The caller no longer wants the answer."""

    status: int
    """CANCELLED or DEADLINE_EXCEEDED."""


@dataclass(slots=True)
class ProgressFrame(Frame):
    """How far a running call is."""

    payload: bytes
    """Packed [progress, total or nil, message or nil]."""


@dataclass(slots=True)
class EventFrame(Frame):
    """A one-way notice by the application."""

    name: str
    payload: bytes
    metadata: Metadata | None = None
    wants_ack: bool = False
    raw: bool = False


@dataclass(slots=True)
class AckFrame(Frame):
    """The listeners of an acknowledged event have run."""

    listeners: int
    failed: int


@dataclass(slots=True)
class StreamOpenFrame(Frame):
    """An application stream begins."""

    name: str
    metadata: Metadata | None = None
    timed: bool = False
    datagram: bool = False


@dataclass(slots=True)
class StreamItemFrame(Frame):
    """One item of an application stream, either way."""

    payload: bytes
    raw: bool = False
    timestamp_ns: int | None = None
    """Session time, on a timed stream."""


@dataclass(slots=True)
class DatagramItemFrame(Frame):
    """One item of an application stream, or a piece of one, in a datagram of its own: it may be lost, late or early."""

    sequence: int
    """Number of the item, from 0; unsigned 32 bits that wrap."""
    payload: bytes
    piece: int = 0
    """Which piece of the item this is."""
    pieces: int = 1
    """How many there are."""
    raw: bool = False
    timestamp_ns: int | None = None
    """As in StreamItem."""


@dataclass(slots=True)
class StreamEndFrame(Frame):
    """Half-close: this side sends no more items."""

    items: int | None = None
    """How many it sent in datagrams, where it may have: so that the other side knows what was lost."""


@dataclass(slots=True)
class StreamResetFrame(Frame):
    """The stream ends now in both directions, or was refused."""

    status: int
    payload: bytes
    """Packed {"message", "details"}."""


@dataclass(slots=True)
class CreditFrame(Frame):
    """How many bytes of items the other side may send in total on a call or stream."""

    total_bytes: int


@dataclass(slots=True)
class LaneOpenFrame(Frame):
    """First frame of a two-way transport stream that unary calls of its opener share; `id` is 0."""


@dataclass(slots=True)
class TimeSyncFrame(Frame):
    """One probe of the NTP exchange (RFC 5905 section 8) or its answer; `id` is its random nonce."""

    t1_ns: int
    t2_ns: int = 0
    t3_ns: int = 0
    is_answer: bool = False


@dataclass(slots=True)
class GoAwayFrame(Frame):
    """No new calls or streams please; `id` is the last id of the peer that was accepted."""

    code: int
    reason: str = field(default="")
