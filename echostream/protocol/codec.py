"""The byte layout of frames, and nothing else: frame to bytes, bytes to frame, stream of bytes to frames.

Layout (docs/reference/protocol.md is the specification; integers are big-endian)::

    u32 length of what follows | u8 kind | u8 flags | u64 id | fields of the kind | sections | payload

Every length that the peer states is checked against a limit before anything is allocated for it.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from echostream.config import Limits
from echostream.errors import CloseCode, EchoStreamError, RemoteProtocolError, ResourceError
from echostream.protocol import frames as f
from echostream.protocol.frames import Flag, Frame, FrameKind
from echostream.protocol.payload import MAX_NAME_BYTES, PayloadCodec, check_metadata, encode_name
from echostream.types import Metadata

__all__ = ("HEADER_BYTES", "FrameCodec")

_HEADER: Final = Struct(">IBBQ")
_REQUEST: Final = Struct(">IBBQQH")
_RESPONSE: Final = Struct(">IBBQB")
_NAMED: Final = Struct(">IBBQH")
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")
_ACK: Final = Struct(">II")
_TIMES: Final = Struct(">qqq")
_REQUEST_FIELDS: Final = Struct(">QH")

HEADER_BYTES: Final = _HEADER.size
"""Length field, kind, flags and id: the price of the smallest frame."""

_LENGTH_BYTES: Final = _U32.size
# What stands around a payload at the most: fixed fields, a name, the metadata sections' lengths.
_FRAME_OVERHEAD_BYTES: Final = HEADER_BYTES + MAX_NAME_BYTES + 64

_METADATA: Final = int(Flag.METADATA)
_INITIAL: Final = int(Flag.INITIAL)
_RAW: Final = int(Flag.RAW)
_ACK_FLAG: Final = int(Flag.ACK)
_SENDS: Final = int(Flag.SENDS_ITEMS)
_ACCEPTS: Final = int(Flag.ACCEPTS_ITEMS)
_OPTIONAL_FLAGS: Final = 0xC0
_OPTIONAL_KINDS: Final = 0x80


class FrameCodec:
    """Encodes and decodes frames. Holds no state of any connection, so one serves a whole server or client."""

    __slots__ = ("_max_metadata_bytes", "_max_payload_bytes", "_names", "_payload", "max_frame_bytes")

    def __init__(self, payload: PayloadCodec, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._payload = payload
        self._max_metadata_bytes = limits.max_metadata_bytes
        self._max_payload_bytes = limits.max_payload_bytes
        self.max_frame_bytes = limits.max_payload_bytes + 2 * limits.max_metadata_bytes + _FRAME_OVERHEAD_BYTES
        self._names: dict[bytes, str] = {}

    # Encoding. The hot kinds have functions of their own, so that no frame object is built to be sent.

    def request(
        self,
        frame_id: int,
        method: bytes,
        payload: bytes,
        *,
        timeout_ns: int = 0,
        metadata: Metadata | None = None,
        flags: int = 0,
    ) -> bytes:
        """Encode a Request; `method` is UTF-8."""
        if metadata:
            payload = self._section(metadata) + payload
            flags |= _METADATA
        size = _REQUEST.size - _LENGTH_BYTES + len(method) + len(payload)
        return _REQUEST.pack(size, 2, flags, frame_id, timeout_ns, len(method)) + method + payload

    def response(
        self,
        frame_id: int,
        status: int,
        payload: bytes,
        *,
        metadata: Metadata | None = None,
        initial: Metadata | None = None,
        flags: int = 0,
    ) -> bytes:
        """Encode a Response."""
        if metadata:
            payload = self._section(metadata) + payload
            flags |= _METADATA
        if initial:
            payload = self._section(initial) + payload
            flags |= _INITIAL
        return _RESPONSE.pack(_RESPONSE.size - _LENGTH_BYTES + len(payload), 3, flags, frame_id, status) + payload

    def plain(self, kind: int, frame_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
        """Encode a frame that is a header and a payload."""
        return _HEADER.pack(HEADER_BYTES - _LENGTH_BYTES + len(payload), kind, flags, frame_id) + payload

    def item(self, frame_id: int, payload: bytes, *, raw: bool = False, initial: Metadata | None = None) -> bytes:
        """Encode an Item."""
        flags = _RAW if raw else 0
        if initial:
            payload = self._section(initial) + payload
            flags |= _INITIAL
        return self.plain(FrameKind.ITEM, frame_id, payload, flags)

    def event(
        self,
        frame_id: int,
        name: bytes,
        payload: bytes,
        *,
        metadata: Metadata | None = None,
        wants_ack: bool = False,
        raw: bool = False,
    ) -> bytes:
        """Encode an Event."""
        flags = (_ACK_FLAG if wants_ack else 0) | (_RAW if raw else 0)
        return self._named(FrameKind.EVENT, flags, frame_id, name, payload, metadata)

    def encode(self, frame: Frame) -> bytes:
        """Encode any frame object."""
        return _ENCODERS[type(frame)](self, frame)

    def _named(
        self, kind: int, flags: int, frame_id: int, name: bytes, payload: bytes, metadata: Metadata | None
    ) -> bytes:
        if metadata:
            payload = self._section(metadata) + payload
            flags |= _METADATA
        size = _NAMED.size - _LENGTH_BYTES + len(name) + len(payload)
        return _NAMED.pack(size, kind, flags, frame_id, len(name)) + name + payload

    def _section(self, metadata: Metadata) -> bytes:
        """Encode one metadata map with its length.

        Raises:
            ResourceError: larger than `max_metadata_bytes`.
            InvalidArgumentError: a key or value of the wrong form.
        """
        check_metadata(metadata)
        packed = self._payload.encode(metadata)
        if len(packed) > self._max_metadata_bytes:
            raise ResourceError(
                f"metadata of {len(packed)} bytes is over the limit of {self._max_metadata_bytes} (max_metadata_bytes)",
                current=len(packed),
                limit=self._max_metadata_bytes,
            )
        return _U32.pack(len(packed)) + packed

    # Decoding

    def decode(self, data: bytes, start: int, end: int) -> Frame | None:
        """Decode the frame whose length field stands at `start` and whose last byte is right before `end`.

        Returns:
            The frame, or None for an optional kind that this version does not know.

        Raises:
            RemoteProtocolError: anything that docs/reference/protocol.md does not allow.
        """
        length = end - start - _LENGTH_BYTES
        if length < HEADER_BYTES - _LENGTH_BYTES:
            raise RemoteProtocolError(f"truncated frame of {length} bytes")
        _, kind, flags, frame_id = _HEADER.unpack_from(data, start)
        decoder = _BY_KIND.get(kind)
        if decoder is None:
            if kind >= _OPTIONAL_KINDS:
                return None
            raise RemoteProtocolError(f"unknown frame kind {kind}")
        wrong_flags, shortest, decode = decoder
        if length < shortest:
            raise RemoteProtocolError(f"truncated {FrameKind(kind).name} frame of {length} bytes")
        if flags & wrong_flags:
            raise RemoteProtocolError(f"{FrameKind(kind).name} frame has unknown flags 0x{flags:02x}")
        try:
            frame = decode(self, data, start + HEADER_BYTES, end, flags, frame_id)
        except UnicodeDecodeError:
            raise RemoteProtocolError("name in a frame is not UTF-8") from None
        if length > self._max_payload_bytes:
            self._check_payload(frame)
        return frame

    def _check_payload(self, frame: Frame) -> None:
        size = len(getattr(frame, "payload", b""))
        if size > self._max_payload_bytes:
            raise RemoteProtocolError(
                f"payload of {size} bytes is over the limit of {self._max_payload_bytes} (max_payload_bytes)",
                close_code=CloseCode.LIMIT_EXCEEDED,
            )

    def _name(self, data: bytes, at: int, length: int, end: int) -> str:
        """Return an interned name: the same few methods come again and again."""
        if at + length > end:
            raise RemoteProtocolError(f"truncated frame: a name of {length} bytes does not fit")
        raw = data[at : at + length]
        name = self._names.get(raw)
        if name is None:
            name = raw.decode()
            if len(self._names) < _MAX_INTERNED and length <= _MAX_INTERNED_BYTES:
                self._names[raw] = name
        return name

    def _read_section(self, data: bytes, at: int, end: int) -> tuple[Metadata, int]:
        if at + _U32.size > end:
            raise RemoteProtocolError("truncated frame: no room for metadata")
        (length,) = _U32.unpack_from(data, at)
        at += _U32.size
        if length > self._max_metadata_bytes:
            raise RemoteProtocolError(
                f"metadata of {length} bytes is over the limit of {self._max_metadata_bytes}",
                close_code=CloseCode.LIMIT_EXCEEDED,
            )
        if at + length > end:
            raise RemoteProtocolError(f"truncated frame: metadata of {length} bytes does not fit")
        try:
            metadata = self._payload.decode(data[at : at + length])
            check_metadata(metadata)
        except EchoStreamError as error:
            raise RemoteProtocolError(f"bad metadata: {error.message}") from None
        return metadata, at + length


_MAX_INTERNED: Final = 4096
_MAX_INTERNED_BYTES: Final = 256


def _decode_request(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    timeout_ns, length = _REQUEST_FIELDS.unpack_from(data, at)
    at += 10
    name = codec._name(data, at, length, end)
    at += length
    metadata = None
    if flags & _METADATA:
        metadata, at = codec._read_section(data, at, end)
    return f.RequestFrame(
        frame_id,
        name,
        data[at:end],
        timeout_ns,
        metadata,
        (flags & _SENDS) != 0,
        (flags & _ACCEPTS) != 0,
        (flags & _RAW) != 0,
    )


def _decode_response(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    status = data[at]
    at += 1
    initial = metadata = None
    if flags & _INITIAL:
        initial, at = codec._read_section(data, at, end)
    if flags & _METADATA:
        metadata, at = codec._read_section(data, at, end)
    return f.ResponseFrame(frame_id, status, data[at:end], metadata, initial, (flags & _RAW) != 0)


def _decode_item(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    initial = None
    if flags & _INITIAL:
        initial, at = codec._read_section(data, at, end)
    return f.ItemFrame(frame_id, data[at:end], (flags & _RAW) != 0, initial)


def _decode_event(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    name, metadata, at = _read_named(codec, data, at, end, flags)
    return f.EventFrame(frame_id, name, data[at:end], metadata, (flags & _ACK_FLAG) != 0, (flags & _RAW) != 0)


def _decode_stream_open(codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    name, metadata, _ = _read_named(codec, data, at, end, flags)
    return f.StreamOpenFrame(frame_id, name, metadata)


def _read_named(codec: FrameCodec, data: bytes, at: int, end: int, flags: int) -> tuple[str, Metadata | None, int]:
    (length,) = _U16.unpack_from(data, at)
    at += 2
    name = codec._name(data, at, length, end)
    if not flags & _METADATA:
        return name, None, at + length
    return name, *codec._read_section(data, at + length, end)


def _decode_stream_item(_codec: FrameCodec, data: bytes, at: int, end: int, flags: int, frame_id: int) -> Frame:
    return f.StreamItemFrame(frame_id, data[at:end], (flags & _RAW) != 0)


def _decode_stream_reset(_codec: FrameCodec, data: bytes, at: int, end: int, _flags: int, frame_id: int) -> Frame:
    return f.StreamResetFrame(frame_id, data[at], data[at + 1 : end])


def _decode_time_sync(_codec: FrameCodec, data: bytes, at: int, _end: int, flags: int, frame_id: int) -> Frame:
    t1, t2, t3 = _TIMES.unpack_from(data, at)
    return f.TimeSyncFrame(frame_id, t1, t2, t3, (flags & _ACK_FLAG) != 0)


def _decode_go_away(_codec: FrameCodec, data: bytes, at: int, end: int, _flags: int, frame_id: int) -> Frame:
    return f.GoAwayFrame(frame_id, _U16.unpack_from(data, at)[0], data[at + 2 : end].decode())


_Decoder = Callable[[FrameCodec, bytes, int, int, int, int], Frame]

# Kind: (flags it may have, shortest length field, decoder).
_DECODERS: Final[dict[int, tuple[int, int, _Decoder]]] = {
    FrameKind.HELLO: (0, 10, lambda _c, data, at, end, _f, number: f.HelloFrame(number, data[at:end])),
    FrameKind.REQUEST: (_METADATA | _RAW | _SENDS | _ACCEPTS, 20, _decode_request),
    FrameKind.RESPONSE: (_METADATA | _INITIAL | _RAW, 11, _decode_response),
    FrameKind.ITEM: (_INITIAL | _RAW, 10, _decode_item),
    FrameKind.END: (0, 10, lambda _c, _d, _a, _e, _f, number: f.EndFrame(number)),
    FrameKind.CANCEL: (0, 11, lambda _c, data, at, _e, _f, number: f.CancelFrame(number, data[at])),
    FrameKind.PROGRESS: (0, 10, lambda _c, data, at, end, _f, number: f.ProgressFrame(number, data[at:end])),
    FrameKind.EVENT: (_METADATA | _RAW | _ACK_FLAG, 12, _decode_event),
    FrameKind.ACK: (0, 18, lambda _c, data, at, _e, _f, number: f.AckFrame(number, *_ACK.unpack_from(data, at))),
    FrameKind.STREAM_OPEN: (_METADATA, 12, _decode_stream_open),
    FrameKind.STREAM_ITEM: (_RAW, 10, _decode_stream_item),
    FrameKind.STREAM_END: (0, 10, lambda _c, _d, _a, _e, _f, number: f.StreamEndFrame(number)),
    FrameKind.STREAM_RESET: (0, 11, _decode_stream_reset),
    FrameKind.CREDIT: (0, 18, lambda _c, data, at, _e, _f, number: f.CreditFrame(number, *_U64.unpack_from(data, at))),
    FrameKind.TIME_SYNC: (_ACK_FLAG, 34, _decode_time_sync),
    FrameKind.GO_AWAY: (0, 12, _decode_go_away),
    FrameKind.LANE_OPEN: (0, 10, lambda _c, _d, _a, _e, _f, number: f.LaneOpenFrame(number)),
}

# The same with the flags that a frame must not have.
_BY_KIND: Final = {kind: (~(flags | _OPTIONAL_FLAGS), size, read) for kind, (flags, size, read) in _DECODERS.items()}


def _encode_request(codec: FrameCodec, frame: f.RequestFrame) -> bytes:
    flags = (_SENDS if frame.sends_items else 0) | (_ACCEPTS if frame.accepts_items else 0)
    flags |= _RAW if frame.raw else 0
    name = encode_name(frame.method)
    return codec.request(
        frame.id, name, frame.payload, timeout_ns=frame.timeout_ns, metadata=frame.metadata, flags=flags
    )


def _encode_response(codec: FrameCodec, frame: f.ResponseFrame) -> bytes:
    return codec.response(
        frame.id,
        frame.status,
        frame.payload,
        metadata=frame.metadata,
        initial=frame.initial,
        flags=_RAW if frame.raw else 0,
    )


def _encode_event(codec: FrameCodec, frame: f.EventFrame) -> bytes:
    return codec.event(
        frame.id,
        encode_name(frame.name),
        frame.payload,
        metadata=frame.metadata,
        wants_ack=frame.wants_ack,
        raw=frame.raw,
    )


_ENCODERS: Final[dict[type[Frame], Callable[..., bytes]]] = {
    f.HelloFrame: lambda codec, frame: codec.plain(FrameKind.HELLO, frame.id, frame.payload),
    f.RequestFrame: _encode_request,
    f.ResponseFrame: _encode_response,
    f.ItemFrame: lambda codec, frame: codec.item(frame.id, frame.payload, raw=frame.raw, initial=frame.initial),
    f.EndFrame: lambda codec, frame: codec.plain(FrameKind.END, frame.id),
    f.CancelFrame: lambda codec, frame: codec.plain(FrameKind.CANCEL, frame.id, bytes((frame.status,))),
    f.ProgressFrame: lambda codec, frame: codec.plain(FrameKind.PROGRESS, frame.id, frame.payload),
    f.EventFrame: _encode_event,
    f.AckFrame: lambda codec, frame: codec.plain(FrameKind.ACK, frame.id, _ACK.pack(frame.listeners, frame.failed)),
    f.StreamOpenFrame: lambda codec, frame: codec._named(
        FrameKind.STREAM_OPEN, 0, frame.id, encode_name(frame.name), b"", frame.metadata
    ),
    f.StreamItemFrame: lambda codec, frame: codec.plain(
        FrameKind.STREAM_ITEM, frame.id, frame.payload, _RAW if frame.raw else 0
    ),
    f.StreamEndFrame: lambda codec, frame: codec.plain(FrameKind.STREAM_END, frame.id),
    f.StreamResetFrame: lambda codec, frame: codec.plain(
        FrameKind.STREAM_RESET, frame.id, bytes((frame.status,)) + frame.payload
    ),
    f.CreditFrame: lambda codec, frame: codec.plain(FrameKind.CREDIT, frame.id, _U64.pack(frame.total_bytes)),
    f.TimeSyncFrame: lambda codec, frame: codec.plain(
        FrameKind.TIME_SYNC,
        frame.id,
        _TIMES.pack(frame.t1_ns, frame.t2_ns, frame.t3_ns),
        _ACK_FLAG if frame.is_answer else 0,
    ),
    f.LaneOpenFrame: lambda codec, frame: codec.plain(FrameKind.LANE_OPEN, frame.id),
    f.GoAwayFrame: lambda codec, frame: codec.plain(
        FrameKind.GO_AWAY, frame.id, _U16.pack(frame.code) + frame.reason.encode()
    ),
}
