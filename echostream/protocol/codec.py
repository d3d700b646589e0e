"""The byte layout of frames, and nothing else: frame to bytes, bytes to frame, stream of bytes to frames.

Layout (docs/reference/protocol.md is the specification; integers are big-endian)::

    u32 length of what follows | u8 kind | u8 flags | u64 id | fields of the kind | sections | payload

Every length that the peer states is checked against a limit before anything is allocated for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from echostream.config import Limits
from echostream.errors import CloseCode, EchoStreamError, RemoteProtocolError, ResourceError
from echostream.protocol import frames as f
from echostream.protocol.decoders import BY_KIND, UNKNOWN
from echostream.protocol.frames import Frame, FrameKind
from echostream.protocol.layout import (
    ACCEPTS,
    ACK,
    ACK_FIELDS,
    DATAGRAM,
    DATAGRAM_ITEM,
    HEADER,
    HEADER_BYTES,
    I64,
    INITIAL,
    LENGTH_BYTES,
    METADATA,
    NAMED,
    RAW,
    REQUEST,
    REQUEST_BYTES,
    RESPONSE,
    RESPONSE_BYTES,
    SENDS,
    SHORTEST,
    TIMED,
    TIMES,
    U16,
    U32,
    U64,
)
from echostream.protocol.payload import MAX_NAME_BYTES, PayloadCodec, check_metadata, encode_name
from echostream.types import Metadata

__all__ = ("HEADER_BYTES", "FrameCodec")

# What stands around a payload at the most: fixed fields, a name, the metadata sections' lengths.
_FRAME_OVERHEAD_BYTES: Final = HEADER_BYTES + MAX_NAME_BYTES + 64

_MAX_INTERNED: Final = 4096
_MAX_INTERNED_BYTES: Final = 256


class FrameCodec:
    """Encodes and decodes frames. Holds no state of any connection, so one serves a whole server or client."""

    __slots__ = ("_max_metadata_bytes", "_payload", "max_frame_bytes", "max_payload_bytes", "names")

    def __init__(self, payload: PayloadCodec, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._payload = payload
        self._max_metadata_bytes = limits.max_metadata_bytes
        self.max_payload_bytes = limits.max_payload_bytes
        self.max_frame_bytes = limits.max_payload_bytes + 2 * limits.max_metadata_bytes + _FRAME_OVERHEAD_BYTES
        self.names: dict[bytes, str] = {}
        """Names of methods and events that came, by their bytes; for the decoders."""

    # Encoding. The hot kinds have functions of their own, so that no frame object is built to be sent.

    def request(
        self,
        frame_id: int,
        method: bytes,
        payload: bytes,
        timeout_ns: int = 0,
        metadata: Metadata | None = None,
        flags: int = 0,
    ) -> bytes:
        """Encode a Request; `method` is UTF-8."""
        if metadata:
            payload = self._section(metadata) + payload
            flags |= METADATA
        size = REQUEST_BYTES + len(method) + len(payload)
        return REQUEST.pack(size, 2, flags, frame_id, timeout_ns, len(method)) + method + payload

    def response(
        self,
        frame_id: int,
        status: int,
        payload: bytes,
        metadata: Metadata | None = None,
        initial: Metadata | None = None,
        flags: int = 0,
    ) -> bytes:
        """Encode a Response."""
        if metadata:
            payload = self._section(metadata) + payload
            flags |= METADATA
        if initial:
            payload = self._section(initial) + payload
            flags |= INITIAL
        return RESPONSE.pack(RESPONSE_BYTES + len(payload), 3, flags, frame_id, status) + payload

    def plain(self, kind: int, frame_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
        """Encode a frame that is a header and a payload."""
        return HEADER.pack(HEADER_BYTES - LENGTH_BYTES + len(payload), kind, flags, frame_id) + payload

    def item(self, frame_id: int, payload: bytes, *, raw: bool = False, initial: Metadata | None = None) -> bytes:
        """Encode an Item."""
        flags = RAW if raw else 0
        if initial:
            payload = self._section(initial) + payload
            flags |= INITIAL
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
        flags = (ACK if wants_ack else 0) | (RAW if raw else 0)
        return self._named(FrameKind.EVENT, flags, frame_id, name, payload, metadata)

    def stream_item(
        self, stream_id: int, payload: bytes, *, raw: bool = False, timestamp_ns: int | None = None
    ) -> bytes:
        """Encode a StreamItem."""
        flags = RAW if raw else 0
        if timestamp_ns is None:
            return self.plain(FrameKind.STREAM_ITEM, stream_id, payload, flags)
        return self.plain(FrameKind.STREAM_ITEM, stream_id, I64.pack(timestamp_ns) + payload, flags | TIMED)

    def datagram_item(self, frame: f.DatagramItemFrame) -> bytes:
        """Encode a DatagramItem."""
        payload, flags = frame.payload, RAW if frame.raw else 0
        if frame.timestamp_ns is not None:
            payload, flags = I64.pack(frame.timestamp_ns) + payload, flags | TIMED
        size, kind = DATAGRAM_ITEM.size - LENGTH_BYTES + len(payload), FrameKind.DATAGRAM_ITEM
        return DATAGRAM_ITEM.pack(size, kind, flags, frame.id, frame.sequence, frame.piece, frame.pieces - 1) + payload

    def encode(self, frame: Frame) -> bytes:
        """Encode any frame object."""
        return _ENCODERS[type(frame)](self, frame)

    def _named(
        self, kind: int, flags: int, frame_id: int, name: bytes, payload: bytes, metadata: Metadata | None
    ) -> bytes:
        if metadata:
            payload = self._section(metadata) + payload
            flags |= METADATA
        size = NAMED.size - LENGTH_BYTES + len(name) + len(payload)
        return NAMED.pack(size, kind, flags, frame_id, len(name)) + name + payload

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
        return U32.pack(len(packed)) + packed

    # Decoding

    def cut(self, data: bytes, frames: list[Frame], position: int = 0) -> int:
        """Add the whole frames from `position` on to `frames`; return where what is left begins.

        Optional kinds that this version does not know are left out.

        Raises:
            RemoteProtocolError: anything that docs/reference/protocol.md does not allow.
        """
        size, by_kind = len(data), BY_KIND
        header, longest = HEADER.unpack_from, self.max_frame_bytes
        while size - position >= HEADER_BYTES:
            length, kind, flags, frame_id = header(data, position)
            end = position + LENGTH_BYTES + length
            if end > size or length < SHORTEST:
                break
            wrong_flags, shortest, decode = by_kind.get(kind, UNKNOWN)
            if length < shortest or length > longest or flags & wrong_flags:
                self._refuse(kind, length, flags, shortest)
            try:
                frame = decode(self, data, position + HEADER_BYTES, end, flags, frame_id)
            except UnicodeDecodeError:
                raise RemoteProtocolError("name in a frame is not UTF-8") from None
            if length > self.max_payload_bytes:
                self._check_payload(frame)
            if frame is not None:
                frames.append(frame)
            position = end
        if size - position >= LENGTH_BYTES:
            self._check_length(U32.unpack_from(data, position)[0])
        return position

    def decode(self, data: bytes, start: int, end: int) -> Frame | None:
        """Decode the one frame in ``data[start:end]``; None for an optional kind that this version does not know.

        Raises:
            RemoteProtocolError: as `cut`.
        """
        frames: list[Frame] = []
        self.cut(data[start:end], frames)
        return frames[0] if frames else None

    def single(self, data: bytes) -> Frame | None:
        """Decode what must be one whole frame of a known kind; None for anything else."""
        frames: list[Frame] = []
        try:
            end = self.cut(data, frames)
        except RemoteProtocolError:
            return None
        return frames[0] if end == len(data) and len(frames) == 1 else None

    def _check_length(self, length: int) -> None:
        if length > self.max_frame_bytes:
            raise RemoteProtocolError(
                f"frame of {length} bytes is over the limit of {self.max_frame_bytes}",
                close_code=CloseCode.LIMIT_EXCEEDED,
            )
        if length < SHORTEST:
            raise RemoteProtocolError(f"truncated frame of {length} bytes")

    def _refuse(self, kind: int, length: int, flags: int, shortest: int) -> NoReturn:
        """Say what is wrong with the header of a frame."""
        self._check_length(length)
        if length < shortest:
            raise RemoteProtocolError(f"truncated {FrameKind(kind).name} frame of {length} bytes")
        raise RemoteProtocolError(f"{FrameKind(kind).name} frame has unknown flags 0x{flags:02x}")

    def _check_payload(self, frame: Frame | None) -> None:
        size = len(getattr(frame, "payload", b""))
        if size > self.max_payload_bytes:
            raise RemoteProtocolError(
                f"payload of {size} bytes is over the limit of {self.max_payload_bytes} (max_payload_bytes)",
                close_code=CloseCode.LIMIT_EXCEEDED,
            )

    def name(self, data: bytes, at: int, length: int, end: int) -> str:
        """Return the name that stands there; it is interned, because the same few come again and again."""
        if at + length > end:
            raise RemoteProtocolError(f"truncated frame: a name of {length} bytes does not fit")
        raw = data[at : at + length]
        name = self.names.get(raw)
        if name is None:
            name = raw.decode()
            if len(self.names) < _MAX_INTERNED and length <= _MAX_INTERNED_BYTES:
                self.names[raw] = name
        return name

    def read_section(self, data: bytes, at: int, end: int) -> tuple[Metadata, int]:
        if at + U32.size > end:
            raise RemoteProtocolError("truncated frame: no room for metadata")
        (length,) = U32.unpack_from(data, at)
        at += U32.size
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


def _encode_request(codec: FrameCodec, frame: f.RequestFrame) -> bytes:
    flags = (SENDS if frame.sends_items else 0) | (ACCEPTS if frame.accepts_items else 0)
    flags |= RAW if frame.raw else 0
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
        flags=RAW if frame.raw else 0,
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
    f.AckFrame: lambda codec, frame: codec.plain(
        FrameKind.ACK, frame.id, ACK_FIELDS.pack(frame.listeners, frame.failed)
    ),
    f.StreamOpenFrame: lambda codec, frame: codec._named(
        FrameKind.STREAM_OPEN,
        (TIMED if frame.timed else 0) | (DATAGRAM if frame.datagram else 0),
        frame.id,
        encode_name(frame.name),
        b"",
        frame.metadata,
    ),
    f.StreamItemFrame: lambda codec, frame: codec.stream_item(
        frame.id, frame.payload, raw=frame.raw, timestamp_ns=frame.timestamp_ns
    ),
    f.StreamEndFrame: lambda codec, frame: codec.plain(
        FrameKind.STREAM_END, frame.id, b"" if frame.items is None else U64.pack(frame.items)
    ),
    f.DatagramItemFrame: lambda codec, frame: codec.datagram_item(frame),
    f.StreamResetFrame: lambda codec, frame: codec.plain(
        FrameKind.STREAM_RESET, frame.id, bytes((frame.status,)) + frame.payload
    ),
    f.CreditFrame: lambda codec, frame: codec.plain(FrameKind.CREDIT, frame.id, U64.pack(frame.total_bytes)),
    f.TimeSyncFrame: lambda codec, frame: codec.plain(
        FrameKind.TIME_SYNC,
        frame.id,
        TIMES.pack(frame.t1_ns, frame.t2_ns, frame.t3_ns),
        ACK if frame.is_answer else 0,
    ),
    f.LaneOpenFrame: lambda codec, frame: codec.plain(FrameKind.LANE_OPEN, frame.id),
    f.GoAwayFrame: lambda codec, frame: codec.plain(
        FrameKind.GO_AWAY, frame.id, U16.pack(frame.code) + frame.reason.encode()
    ),
}
