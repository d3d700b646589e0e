"""Reads QUIC packets that a simulation recorded, with their keys, as wireshark would.

RFC 9000 sections 17 and 19, RFC 9001 section 5. Private parts of aioquic do the cryptography; what they read came from
either engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoContext, CryptoPair, apply_key_phase, next_key_phase
from aioquic.quic.packet import QuicFrameType, QuicHeader, QuicPacketType, pull_quic_header
from aioquic.tls import CipherSuite

from echostream.testing import PacketRecord
from echostream.transport.quic.demux import CONNECTION_ID_BYTES

__all__ = ("Dissector", "Frame", "Packet")

Kind = QuicPacketType

_LABELS = {
    "CLIENT_EARLY_TRAFFIC_SECRET": (False, Kind.ZERO_RTT),
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET": (False, Kind.HANDSHAKE),
    "CLIENT_TRAFFIC_SECRET_0": (False, Kind.ONE_RTT),
    "SERVER_HANDSHAKE_TRAFFIC_SECRET": (True, Kind.HANDSHAKE),
    "SERVER_TRAFFIC_SECRET_0": (True, Kind.ONE_RTT),
}
"""Whether the server sends with it, and which packets."""
_SUITES = {
    32: (CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256),
    48: (CipherSuite.AES_256_GCM_SHA384,),
}
"""By the length of a secret."""
_VERSIONS = (1, 0x6B3343CF)

# How the frames are built: v is a number, d are bytes after their length, other digits are that many bytes.
_LAYOUTS = {
    0x01: "", 0x04: "vvv", 0x05: "vv", 0x06: "vd", 0x07: "d", 0x10: "v", 0x11: "vv", 0x12: "v", 0x13: "v", 0x14: "v",
    0x15: "vv", 0x16: "v", 0x17: "v", 0x19: "v", 0x1A: "8", 0x1B: "8", 0x1C: "vvd", 0x1D: "vd", 0x1E: "", 0x31: "d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame: its numbers in order, and its bytes."""

    type: int
    values: tuple[int, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Packet:
    """A QUIC packet, of which a UDP packet may carry several."""

    record: PacketRecord
    data: bytes
    """As it was sent, encrypted."""
    header: QuicHeader
    from_server: bool
    key_phase: int
    """Of 1-RTT packets."""
    number: int
    """-1 where it could not be decrypted, as Retry and Version Negotiation."""
    frames: tuple[Frame, ...]

    @property
    def type(self) -> QuicPacketType:
        """Which."""
        return self.header.packet_type

    def of(self, kind: QuicFrameType) -> list[Frame]:
        """Its frames of a type."""
        return [frame for frame in self.frames if frame.type == kind]


class Dissector:
    """Reads packets in the order in which they were sent.

    Args:
        key_log: in the NSS format, of one side or both, complete.
        server: name of the host that the server is on.
    """

    def __init__(self, key_log: str, *, server: str = "server") -> None:
        self._server = server
        self._keys: dict[tuple[bool, QuicPacketType], list[_Keys]] = {}
        lines = (line.split() for line in key_log.splitlines())
        for label, secret in dict.fromkeys((label, secret) for label, _, secret in lines):  # both sides may log
            if label in _LABELS:
                keys = self._keys.setdefault(_LABELS[label], [])
                keys += _keys_of(bytes.fromhex(secret))

    def read(self, records: Iterable[PacketRecord]) -> Iterator[Packet]:
        """Yield the QUIC packets in UDP packets."""
        for record in records:
            buffer = Buffer(data=record.data)
            while not buffer.eof():
                start = buffer.tell()
                with suppress(ValueError):  # padding of a UDP packet, after the last
                    header = pull_quic_header(buffer, CONNECTION_ID_BYTES)
                    end = start + header.packet_length
                    yield self._open(record, header, record.data[start:end], buffer.tell() - start)
                    buffer.seek(end)
                    continue
                break

    def _open(self, record: PacketRecord, header: QuicHeader, data: bytes, offset: int) -> Packet:
        from_server = record.sender == self._server
        key = (from_server, header.packet_type)
        if header.packet_type is Kind.INITIAL and not from_server:
            self._learn(header)
        tried = self._keys.get(key, [])
        for keys in tried:
            opened = keys.open(data, offset)
            if opened is not None:
                tried.remove(keys)
                tried.insert(0, keys)  # the next one is likely of the same connection
                phase, number, payload = opened
                return Packet(record, data, header, from_server, phase, number, tuple(_frames(payload)))
        return Packet(record, data, header, from_server, 0, -1, ())

    def _learn(self, header: QuicHeader) -> None:
        """Derive the keys of Initial packets, which follow from an id that is in the clear."""
        for is_client in (True, False):
            known = self._keys.setdefault((not is_client, Kind.INITIAL), [])
            for version in _VERSIONS:
                name = header.destination_cid + bytes([version & 0xFF])
                if name not in {keys.name for keys in known}:
                    pair = CryptoPair()
                    pair.setup_initial(header.destination_cid, is_client, version)
                    known.append(_Keys(pair.send, name))


class _Keys:
    """What one direction of one connection is encrypted with; follows key updates."""

    def __init__(self, context: CryptoContext, name: bytes = b"") -> None:
        self.name = name
        self._context = context
        self._largest = 0

    def open(self, data: bytes, offset: int) -> tuple[int, int, bytes] | None:
        """Return key phase, packet number and payload, or None where the keys are others'."""
        try:
            header, payload, number, _ = self._context.decrypt_packet(data, offset, self._largest)
        except CryptoError:
            return None
        is_short = not header[0] & 0x80
        phase = (header[0] & 4) >> 2 if is_short else 0
        if is_short and phase != self._context.key_phase:
            apply_key_phase(self._context, next_key_phase(self._context), "seen")
        self._largest = max(self._largest, number)
        return phase, number, payload


def _keys_of(secret: bytes) -> list[_Keys]:
    made = []
    for suite in _SUITES[len(secret)]:
        for version in _VERSIONS:
            context = CryptoContext()
            context.setup(cipher_suite=suite, secret=secret, version=version)
            made.append(_Keys(context))
    return made


def _frames(payload: bytes) -> Iterator[Frame]:
    buffer = Buffer(data=payload)
    while not buffer.eof():
        kind = buffer.pull_uint_var()
        if kind:
            yield _frame(kind, buffer)


def _frame(kind: int, buffer: Buffer) -> Frame:
    number = buffer.pull_uint_var
    if kind in {0x02, 0x03}:
        values = [number(), number(), number(), number()]
        values += [number() for _ in range(2 * values[2] + 3 * (kind == 0x03))]
        return Frame(kind, tuple(values))
    if 0x08 <= kind <= 0x0F:
        stream_id, offset = number(), number() if kind & 4 else 0
        size = number() if kind & 2 else buffer.capacity - buffer.tell()
        return Frame(kind, (stream_id, offset), buffer.pull_bytes(size))
    if kind == 0x18:
        values = [number(), number()]
        connection_id = buffer.pull_bytes(buffer.pull_uint8())
        buffer.pull_bytes(16)
        return Frame(kind, tuple(values), connection_id)
    if kind == 0x30:
        return Frame(kind, (), buffer.pull_bytes(buffer.capacity - buffer.tell()))
    values, data = [], b""
    for part in _LAYOUTS[kind]:
        if part == "v":
            values.append(number())
        else:
            data = buffer.pull_bytes(number() if part == "d" else int(part))
    return Frame(kind, tuple(values), data)
