"""Runs of packets with aioquic: what it does anew for each packet of an open connection, done once for many.

Of a bulk transfer nearly all packets are alike: a short header, the ids and the path in use, one STREAM frame. aioquic
enters some 90 functions for each, on either side, to find that out. Here it is found out for a run of them; what is
different in any way goes aioquic's own way.

All that this module touches of aioquic is private. Its canary is a test that lets both ways do the same and compares
all that they leave behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from aioquic import tls
from aioquic._crypto import AEAD, CryptoError, HeaderProtection
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var  # type: ignore[attr-defined]
from aioquic.quic import connection
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.crypto import CryptoContext
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicPacketType, decode_packet_number
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import QuicStream

from echostream.transport.quic.engine_aioquic_congestion import BatchPacer
from echostream.transport.sockets import SocketAddress

__all__ = ("bulk_stream", "has_more", "receive_run", "send_run")

_SHORT_FORM, _FORM_BITS = 0x40, 0xC0
"""Of the first byte (RFC 9000 section 17.3.1): no long header, and the fixed bit."""
_SPIN_BIT, _RESERVED_BITS, _PHASE_BIT, _LENGTH_BITS = 0x20, 0x18, 0x04, 0x03
_NUMBER_BYTES, _TAG_BYTES = 2, 16
"""Of packets that are sent, as with aioquic."""
_STREAM, _STREAM_BITS, _OFFSET, _LENGTH, _FIN = 0x08, 0xF8, 4, 2, 1
"""Of a frame's type (RFC 9000 section 19.8)."""
_LEAST_PACKETS = 3
"""Of a run: fewer are built by aioquic in the time in which it begins."""

# pyright: reportPrivateUsage=false


def receive_run(
    quic: QuicConnection, datagrams: Sequence[bytes], index: int, address: SocketAddress, now: float
) -> int:
    """Take packets from the one at `index` on, and return the index of the one that aioquic has to take itself."""
    if not _is_settled(quic, address):
        return index
    run = _Received(quic, now)
    while index < len(datagrams) and run.take(datagrams[index]):
        index += 1
    run.end()
    return index


def _is_settled(quic: QuicConnection, address: SocketAddress) -> bool:
    """Return whether packets from an address find a connection about which nothing is open."""
    path = quic._network_paths[0] if quic._network_paths else None
    return (
        path is not None
        and path.addr == address
        and path.is_validated
        and quic._handshake_confirmed
        and quic._state not in connection.END_STATES
        and not quic._close_pending
        and quic._quic_logger is None
        and not quic._cryptos[tls.Epoch.ZERO_RTT].recv.is_valid()
    )


class _Received:
    """A run of packets that arrived: `QuicConnection.receive_datagram`, as far as they need it."""

    def __init__(self, quic: QuicConnection, now: float) -> None:
        self._quic = quic
        self._now = now
        self._space = quic._spaces[tls.Epoch.ONE_RTT]
        crypto = quic._cryptos[tls.Epoch.ONE_RTT].recv
        self._phase = crypto.key_phase << 2
        self._uncover, self._decrypt = _header_protection(crypto).remove, _aead(crypto).decrypt
        self._number_at = 1 + len(quic.host_cid)
        self._context = QuicReceiveContext(
            epoch=tls.Epoch.ONE_RTT,
            host_cid=quic.host_cid,
            network_path=quic._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        self._is_over = False  # whether the connection was closed meanwhile
        self._stream: QuicStream | None = None
        self._pieces: list[bytes] = []  # of the stream's data, not told yet
        self._first, self._next = 0, 0  # numbers of packets that came in a row, not noted yet

    def take(self, data: bytes) -> bool:
        """Take a packet; False when it is another one's, and nothing was done about it."""
        space, quic, at = self._space, self._quic, self._number_at
        if self._is_over or data[1:at] != self._context.host_cid or data[0] & _FORM_BITS != _SHORT_FORM:
            return False
        try:
            header, number = self._uncover(data, at)
            first = header[0]
            if first & (_RESERVED_BITS | _PHASE_BIT) != self._phase:
                return False
            number = decode_packet_number(number, ((first & _LENGTH_BITS) + 1) * 8, space.expected_packet_number)
            plain = self._decrypt(data[len(header) :], header, number)
        except CryptoError:
            return False
        if number <= space.largest_received_packet and number in space.received_packets:
            return True
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > quic._spin_highest_pn:
            quic._spin_bit = bool(first & _SPIN_BIT) is not quic._is_client
            quic._spin_highest_pn = number
        is_eliciting = self._take_piece(plain) or self._take_frames(plain)
        if quic._close_pending or quic._state in connection.END_STATES:
            self._is_over = True
            return True
        self._note(number)
        if is_eliciting and space.ack_at is None:
            space.ack_at = self._now + quic._ack_delay
        return True

    def end(self) -> None:
        """Leave the connection as if aioquic had taken the packets."""
        self._tell()
        if self._next:
            self._note_row()
            self._quic._ack_eliciting_sent_since_receipt = False
            if self._quic._state not in connection.END_STATES:  # which have set another time
                self._quic._close_at = self._now + self._quic._idle_timeout()

    def _take_piece(self, plain: bytes) -> bool:
        """Take what has the next bytes of a stream, and nothing else; False when it is something else."""
        if not plain or plain[0] & (_STREAM_BITS | _FIN) != _STREAM:
            return False
        kind, buffer = plain[0], Buffer(data=plain)
        try:
            buffer.seek(1)
            stream_id = buffer.pull_uint_var()
            offset = buffer.pull_uint_var() if kind & _OFFSET else 0
            size = buffer.pull_uint_var() if kind & _LENGTH else len(plain) - buffer.tell()
        except BufferReadError:
            return False
        at = buffer.tell()
        stream = self._quic._streams.get(stream_id)
        if stream is None or not size or at + size != len(plain) or not self._fits(stream, offset, offset + size):
            return False
        if stream is not self._stream:
            self._tell()
            self._stream = stream
        self._pieces.append(plain[at:])
        return True

    def _fits(self, stream: QuicStream, start: int, stop: int) -> bool:
        """Count the next bytes of a stream, if they are that, and within the limits."""
        receiver, limit = stream.receiver, self._quic._local_max_data
        if start != receiver._buffer_start or receiver._buffer or receiver.is_finished:
            return False
        if receiver._final_size is not None or receiver.highest_offset != start:
            return False
        if stop > stream.max_stream_data_local or limit.used + stop - start > limit.value:
            return False
        receiver._buffer_start = receiver.highest_offset = stop
        limit.used += stop - start
        return True

    def _take_frames(self, plain: bytes) -> bool:
        """Let aioquic take what is in a packet; returns whether it is to be acknowledged."""
        self._tell()
        try:
            is_eliciting: bool = self._quic._payload_received(self._context, plain)[0]
        except QuicConnectionError as error:
            self._quic._logger.warning(error)
            self._quic.close(
                error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase
            )
            return False
        return is_eliciting

    def _tell(self) -> None:
        """Report the pieces that came of a stream, as one."""
        if self._stream is not None and self._pieces:
            data = b"".join(self._pieces)
            self._quic._events.append(
                StreamDataReceived(data=data, end_stream=False, stream_id=self._stream.stream_id or 0)
            )
            self._pieces.clear()

    def _note(self, number: int) -> None:
        """Note that a packet came."""
        space = self._space
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = self._now
        space.received_packets.add(number)
        if number != self._next:
            if self._next:
                self._note_row()
            self._first = number
        self._next = number + 1

    def _note_row(self) -> None:
        queue = self._space.ack_queue
        queue.add(self._first, self._next)
        if len(queue) > MAX_ACK_RANGES:
            queue.shift()


def _aead(context: CryptoContext) -> AEAD:
    return cast("AEAD", context.aead)  # there from the handshake on


def _header_protection(context: CryptoContext) -> HeaderProtection:
    return cast("HeaderProtection", context.hp)


def has_more(quic: QuicConnection) -> bool:
    """Return whether a packet that had room for all else left out stream data, datagrams or higher limits."""
    if quic._datagrams_pending:
        return True
    for limit in (quic._local_max_streams_bidi, quic._local_max_streams_uni):
        if limit.value != limit.sent:
            return True
    for stream in quic._streams_queue:
        sender = stream.sender
        if not sender.buffer_is_empty and (len(sender._pending) or sender._pending_eof):
            return True
    return False


def bulk_stream(quic: QuicConnection) -> QuicStream | None:
    """Return the stream that alone has data to send, and much, once the first packet took what goes before it."""
    if not quic._handshake_confirmed or not quic._network_paths[0].is_validated:
        return None
    if quic._datagrams_pending or quic._quic_logger is not None:
        return None
    sending = [stream for stream in quic._streams_queue if not stream.sender.buffer_is_empty]
    if len(sending) != 1 or sending[0].is_blocked or sending[0].sender.reset_pending:
        return None
    pending = sending[0].sender._pending
    is_much = len(pending) and pending[0].stop - pending[0].start > _LEAST_PACKETS * quic._max_datagram_size
    return sending[0] if is_much else None


def send_run(
    quic: QuicConnection, stream: QuicStream, pacer: BatchPacer, now: float
) -> list[tuple[bytes, SocketAddress]]:
    """Return full packets with the next data of a stream, as many as may leave now with the rest of the batch.

    What fills no packet, and the stream's end, is left to aioquic.
    """
    sender, pending = stream.sender, stream.sender._pending[0]
    frames = _Frames(quic, stream, pending.start, pending.stop)
    window = max(0, quic._loss.congestion_window - quic._loss.bytes_in_flight)
    count = pacer.take(min(frames.count, window // quic._max_datagram_size), now)
    if not count:
        return []
    crypto, space, path = quic._cryptos[tls.Epoch.ONE_RTT], quic._spaces[tls.Epoch.ONE_RTT], quic._network_paths[0]
    encrypt, protect, loss = _aead(crypto.send).encrypt, _header_protection(crypto.send).apply, quic._loss
    first = _SHORT_FORM | quic._spin_bit << 5 | crypto.key_phase << 2 | (_NUMBER_BYTES - 1)
    head = bytes((first,)) + quic._peer_cid.cid
    packets: list[tuple[bytes, SocketAddress]] = []
    for number in range(quic._packet_number, quic._packet_number + count):
        start, frame = frames.next()
        header = head + (number & 0xFFFF).to_bytes(_NUMBER_BYTES)
        data = protect(header, encrypt(frame, header, number))
        packet = QuicSentPacket(
            epoch=tls.Epoch.ONE_RTT,
            in_flight=True,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=len(data),
            delivery_handlers=[(sender.on_data_delivery, (start, start + frames.piece, False))],
        )
        loss.on_packet_sent(packet=packet, space=space)
        packets.append((data, path.addr))
    quic._packet_number += count
    path.bytes_sent += count * quic._max_datagram_size
    sender._pending.subtract(pending.start, frames.position)
    used = max(0, frames.position - sender.highest_offset)
    sender.highest_offset += used
    quic._remote_max_data_used += used
    if not quic._ack_eliciting_sent_since_receipt:
        quic._close_at = now + quic._idle_timeout()
        quic._ack_eliciting_sent_since_receipt = True
    return packets


class _Frames:
    """STREAM frames that fill a packet each, with the data of one range."""

    def __init__(self, quic: QuicConnection, stream: QuicStream, start: int, stop: int) -> None:
        sender = stream.sender
        allowed = sender.highest_offset + quic._remote_max_data - quic._remote_max_data_used
        stop = min(stop, stream.max_stream_data_remote, allowed)
        self._width, self._mark = (4, 2 << 30) if stop < 1 << 30 else (8, 3 << 62)  # of the offset
        self._kind = bytes((_STREAM | _OFFSET | _LENGTH,)) + encode_uint_var(stream.stream_id or 0)
        around = 1 + len(quic._peer_cid.cid) + _NUMBER_BYTES + len(self._kind) + self._width + 2 + _TAG_BYTES
        self.piece = quic._max_datagram_size - around
        """Bytes of data in each."""
        self.count = max(0, (stop - start - (sender._buffer_fin is not None)) // self.piece)
        """How many there are, without the stream's end."""
        self.position = start
        """Of the stream, behind the last frame."""
        self._length = (self.piece | 0x4000).to_bytes(2)
        self._buffer, self._buffer_start = sender._buffer, sender._buffer_start

    def next(self) -> tuple[int, bytes]:
        """Return position and content of the next one."""
        start = self.position
        self.position = start + self.piece
        at = start - self._buffer_start
        offset = (start | self._mark).to_bytes(self._width)
        return start, self._kind + offset + self._length + self._buffer[at : at + self.piece]
