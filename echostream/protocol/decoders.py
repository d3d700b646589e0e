"""Bytes to frames: one function for each kind, given what stands behind the header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from echostream.errors import RemoteProtocolError
from echostream.protocol import frames as f
from echostream.protocol.frames import FrameKind
from echostream.protocol.layout import (
    ACCEPTS,
    ACK,
    ACK_FIELDS,
    DATAGRAM,
    DATAGRAM_ITEM,
    HEADER_BYTES,
    I64,
    INITIAL,
    LENGTH_BYTES,
    METADATA,
    RAW,
    REQUEST_FIELDS,
    SENDS,
    SHORTEST,
    TIMED,
    TIMES,
    U16,
    U64,
)

if TYPE_CHECKING:
    from echostream.protocol.codec import FrameCodec
    from echostream.protocol.frames import Frame
    from echostream.types import Metadata

__all__ = ("BY_KIND", "DECODERS", "UNKNOWN")

_OPTIONAL_FLAGS: Final = 0xC0
_OPTIONAL_KINDS: Final = 0x80


def _decode_request(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    timeout_ns, length = REQUEST_FIELDS.unpack_from(data, at)
    at += 10 + length
    name = codec.names.get(data[at - length : at]) if at <= end else None
    if name is None:
        name = codec.name(data, at - length, length, end)
    if not flags:
        return f.RequestFrame(frame_id, name, data[at:end], timeout_ns)
    metadata = None
    if flags & METADATA:
        metadata, at = codec.read_section(data, at, end)
    return f.RequestFrame(
        frame_id,
        name,
        data[at:end],
        timeout_ns,
        metadata,
        (flags & SENDS) != 0,
        (flags & ACCEPTS) != 0,
        (flags & RAW) != 0,
    )


def _decode_response(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    status = data[at]
    at += 1
    if not flags:
        return f.ResponseFrame(frame_id, status, data[at:end])
    initial = metadata = None
    if flags & INITIAL:
        initial, at = codec.read_section(data, at, end)
    if flags & METADATA:
        metadata, at = codec.read_section(data, at, end)
    return f.ResponseFrame(frame_id, status, data[at:end], metadata, initial, (flags & RAW) != 0)


def _decode_item(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    initial = None
    if flags & INITIAL:
        initial, at = codec.read_section(data, at, end)
    return f.ItemFrame(frame_id, data[at:end], (flags & RAW) != 0, initial)


def _decode_event(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    name, metadata, at = _read_named(codec, data, at, end, flags)
    return f.EventFrame(frame_id, name, data[at:end], metadata, (flags & ACK) != 0, (flags & RAW) != 0)


def _decode_stream_open(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    name, metadata, _ = _read_named(codec, data, at, end, flags)
    return f.StreamOpenFrame(frame_id, name, metadata, (flags & TIMED) != 0, (flags & DATAGRAM) != 0)


def _read_named(codec: FrameCodec, data: bytes, at: int, end: int, flags: int) -> tuple[str, Metadata | None, int]:
    (length,) = U16.unpack_from(data, at)
    at += 2
    name = codec.name(data, at, length, end)
    if not flags & METADATA:
        return name, None, at + length
    return name, *codec.read_section(data, at + length, end)


def _decode_stream_item(_codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    if not flags & TIMED:
        return f.StreamItemFrame(frame_id, data[at:end], (flags & RAW) != 0)
    timestamp_ns, at = _read_timestamp(data, at, end)
    return f.StreamItemFrame(frame_id, data[at:end], (flags & RAW) != 0, timestamp_ns)


def _decode_datagram_item(_codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    _, _, _, _, sequence, piece, last = DATAGRAM_ITEM.unpack_from(data, at - HEADER_BYTES)
    if piece > last:
        raise RemoteProtocolError(f"piece {piece} of an item whose last piece is {last}")
    at, timestamp_ns = at - HEADER_BYTES + DATAGRAM_ITEM.size, None
    if flags & TIMED:
        timestamp_ns, at = _read_timestamp(data, at, end)
    return f.DatagramItemFrame(frame_id, sequence, data[at:end], piece, last + 1, (flags & RAW) != 0, timestamp_ns)


def _read_timestamp(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + I64.size > end:
        raise RemoteProtocolError("truncated frame: no room for a timestamp")
    return I64.unpack_from(data, at)[0], at + I64.size


def _decode_stream_end(_codec: FrameCodec, data: bytes, at: int, end: int, _flags: int, frame_id: int) -> Frame:
    return f.StreamEndFrame(frame_id, U64.unpack_from(data, at)[0] if at + U64.size <= end else None)


def _decode_stream_reset(_codec: FrameCodec, data: bytes, at: int, end: int, _flags: int, frame_id: int) -> Frame:
    return f.StreamResetFrame(frame_id, data[at], data[at + 1 : end])


def _decode_time_sync(_codec: FrameCodec, data: bytes, at: int, _end: int, flags: int, frame_id: int) -> Frame:
    t1, t2, t3 = TIMES.unpack_from(data, at)
    return f.TimeSyncFrame(frame_id, t1, t2, t3, (flags & ACK) != 0)


def _decode_go_away(_codec: FrameCodec, data: bytes, at: int, end: int, _flags: int, frame_id: int) -> Frame:
    return f.GoAwayFrame(frame_id, U16.unpack_from(data, at)[0], data[at + 2 : end].decode())


def _decode_unknown(_codec: FrameCodec, data: bytes, at: int, _end: int, _flags: int, _frame_id: int) -> None:
    kind = data[at - HEADER_BYTES + LENGTH_BYTES]
    if kind < _OPTIONAL_KINDS:
        raise RemoteProtocolError(f"unknown frame kind {kind}")


_Decoder = Callable[["FrameCodec", bytes, int, int, int, int], "Frame | None"]

# Kind: (flags it may have, shortest length field, decoder).
DECODERS: Final[dict[int, tuple[int, int, _Decoder]]] = {
    FrameKind.HELLO: (0, 10, lambda _c, data, at, end, _f, number: f.HelloFrame(number, data[at:end])),
    FrameKind.REQUEST: (METADATA | RAW | SENDS | ACCEPTS, 20, _decode_request),
    FrameKind.RESPONSE: (METADATA | INITIAL | RAW, 11, _decode_response),
    FrameKind.ITEM: (INITIAL | RAW, 10, _decode_item),
    FrameKind.END: (0, 10, lambda _c, _d, _a, _e, _f, number: f.EndFrame(number)),
    FrameKind.CANCEL: (0, 11, lambda _c, data, at, _e, _f, number: f.CancelFrame(number, data[at])),
    FrameKind.PROGRESS: (0, 10, lambda _c, data, at, end, _f, number: f.ProgressFrame(number, data[at:end])),
    FrameKind.EVENT: (METADATA | RAW | ACK, 12, _decode_event),
    FrameKind.ACK: (0, 18, lambda _c, data, at, _e, _f, number: f.AckFrame(number, *ACK_FIELDS.unpack_from(data, at))),
    FrameKind.STREAM_OPEN: (METADATA | TIMED | DATAGRAM, 12, _decode_stream_open),
    FrameKind.STREAM_ITEM: (RAW | TIMED, 10, _decode_stream_item),
    FrameKind.STREAM_END: (0, 10, _decode_stream_end),
    FrameKind.STREAM_RESET: (0, 11, _decode_stream_reset),
    FrameKind.CREDIT: (0, 18, lambda _c, data, at, _e, _f, number: f.CreditFrame(number, *U64.unpack_from(data, at))),
    FrameKind.TIME_SYNC: (ACK, 34, _decode_time_sync),
    FrameKind.GO_AWAY: (0, 12, _decode_go_away),
    FrameKind.DATAGRAM_ITEM: (RAW | TIMED, 18, _decode_datagram_item),
    FrameKind.LANE_OPEN: (0, 10, lambda _c, _d, _a, _e, _f, number: f.LaneOpenFrame(number)),
}

# The same with the flags that a frame must not have.
BY_KIND: Final[Mapping[int, tuple[int, int, _Decoder]]] = {
    kind: (~(flags | _OPTIONAL_FLAGS), size, read) for kind, (flags, size, read) in DECODERS.items()
}

UNKNOWN: Final[tuple[int, int, _Decoder]] = (0, SHORTEST, _decode_unknown)
"""The same for a kind that is none of them."""
