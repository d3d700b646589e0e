"""One connection over aioquic's sans-IO `QuicConnection`; `engine_aioquic.py` makes them.

Each private attribute of aioquic is touched in one named function at the end of the module, and each of these has a
canary test, so that a new aioquic that moves one fails in one obvious place.
"""

from __future__ import annotations

import hmac
import logging
import math
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar, cast

from aioquic import tls as aioquic_tls
from aioquic.quic import connection, events
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from echostream.config import QuicSettings
from echostream.transport.quic.diagnostics import QlogFile
from echostream.transport.quic.engine_aioquic_congestion import BatchPacer, Congestion
from echostream.transport.quic.engine_aioquic_runs import bulk_stream, has_more, receive_run, send_run
from echostream.transport.quic.engine_aioquic_tls import peer_payload_limit
from echostream.transport.quic.engine_common import MAX_PROBE_DOUBLINGS, CommonEngine, EndOfConnection
from echostream.transport.quic.paths import BASE_DATAGRAM_BYTES, MAX_LARGE_LOSSES, datagram_bytes
from echostream.transport.sockets import SocketAddress

__all__ = ("AioquicEngine", "AioquicTrace")

# aioquic warns about every malformed peer; without a handler of the application that would go to stderr.
logging.getLogger("quic").addHandler(logging.NullHandler())

_BATCH_PACKETS = 44
"""Packets per `transmit`: one system call with UDP_SEGMENT at 1,452 bytes, and the receiver starts while we go on."""
_DATAGRAM_OVERHEAD_BYTES = 40
"""Short header, connection id, packet number, AEAD tag and frame header around a DATAGRAM payload."""
_MAX_DATAGRAM_BYTES = 16_384
"""aioquic writes the length of what a packet holds in 14 bits, and says nothing when it has more."""
_ACKNOWLEDGE_WITHIN = 0.0005
"""Seconds: an acknowledgement due by then goes along with data instead; aioquic lets it wait 1 ms and leave alone."""
_ACK_DELAY = 0.001
"""aioquic's own."""
_MAX_ACK_DELAY = 0.002
"""Seconds that an acknowledgement waits while small packets go to and fro: each costs both sides 20 µs. The peer allows
for 25 ms; its copies of small flights (copies.py) for 2 ms."""
_MAX_UNACKNOWLEDGED_BYTES = 2400
"""Of small packets: two full ones are to be acknowledged without delay (RFC 9000 section 13.2.1)."""
_WIDEN_AFTER = 600.0
"""Seconds after which a path that large packets did not pass may have changed (RFC 8899 section 5.1.1)."""


class AioquicTrace(QlogFile, QuicLoggerTrace):
    """aioquic's words for its events, written to a file."""


class AioquicEngine(CommonEngine):
    """One aioquic connection."""

    _quic: QuicConnection
    _events: ClassVar[ModuleType] = events
    _not_possible: ClassVar = (ValueError, RuntimeError)

    def __init__(self, quic: QuicConnection, settings: QuicSettings) -> None:
        super().__init__(quic, settings, _trace(quic))
        self._max_queued_datagrams = settings.max_queued_datagrams
        self._widen_at = math.inf
        self._congestion = _congestion(quic)
        pacer = BatchPacer(max_datagram_size=settings.max_datagram_bytes, goes_on=self._goes_on)
        self._pacer = _install_pacer(quic, pacer)
        _set_stream_limits(quic, settings.max_streams)
        _set_datagram_bytes(quic, BASE_DATAGRAM_BYTES)  # else none on a path that carries less than the settings
        self._fresh = False  # whether something was queued since the last `transmit`
        self._bulk: QuicStream | None = None  # whose data fills the rest of this batch
        self._ack_by = 0.0  # when the first packet must be acknowledged that is not
        self._unacknowledged_bytes = 0  # since the last acknowledgement of this side
        self._early: QuicPacketSpace | None = None  # what early data was sent in, until the server took it or not

    def expect_early_data(self) -> None:
        """Make up for what aioquic leaves out about early data; only after its `connect`."""
        self._early = _application_space(self._quic)

    @property
    def peer_address(self) -> SocketAddress | None:
        address: SocketAddress | None = self._quic.get_peer_address()
        return address

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        return _peer_chain(self._quic)

    @property
    def rtt(self) -> float | None:
        return _smoothed_rtt(self._quic)

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, now: float) -> None:
        quic, index = self._quic, 0
        while (index := receive_run(quic, datagrams, index, address, now)) < len(datagrams):
            quic.receive_datagram(datagrams[index], address, now)
            index += 1
        if not self._unacknowledged_bytes:
            self._ack_by = now + _MAX_ACK_DELAY
        self._unacknowledged_bytes += sum(map(len, datagrams))
        space = _application_space(self._quic)
        if space.ack_at is not None and space.ack_at > now + _ACK_DELAY:
            space.ack_at = now + _ACK_DELAY
        if self._early is not None and self._early is not _application_space(self._quic):
            # After a Retry aioquic begins anew, and forgets that it had sent anything.
            _send_again(self._quic, self._early)
            self._early = _application_space(self._quic)

    def receive_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        return any(hmac.compare_digest(token, data[-len(token) :]) for token in _peer_reset_tokens(self._quic))

    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        if self._congestion.lost_count != self.lost_count:
            self.lost_count = self._congestion.lost_count
            if self._congestion.large_losses >= MAX_LARGE_LOSSES:
                self._narrow(now)
        elif now >= self._widen_at:
            self._widen()
        space = _application_space(self._quic)
        if self._fresh and space.ack_at is not None:
            self._time_acknowledgement(space, now)
        self._fresh = False
        pacer = self._pacer
        pacer.start_batch(_BATCH_PACKETS)
        datagrams = self._quic.datagrams_to_send(now)
        if self._bulk is not None:
            datagrams += self._send_run(self._bulk, now)
        if space.ack_at is None:
            self._unacknowledged_bytes = 0
        self.more, self.paced = pacer.batch_is_full, pacer.is_waiting
        self._count_protected(len(datagrams))
        return datagrams

    def timer(self) -> float | None:
        return self._quic.get_timer()

    def handle_timer(self, now: float) -> None:
        self._quic.handle_timer(now)
        _begin_probes_again(self._quic)

    def send(self, stream_id: int, data: bytes, *, fin: bool) -> int:
        try:
            self._quic.send_stream_data(stream_id, data, fin)
        except self._not_possible:
            return 0
        self._fresh = True
        return _unsent_bytes(self._quic, stream_id)

    def unsent_bytes(self, stream_id: int) -> int:
        return _unsent_bytes(self._quic, stream_id)

    def has_unsent(self) -> bool:
        return _has_unsent(self._quic)

    def has_undelivered(self) -> bool:
        return _has_undelivered(self._quic)

    def acknowledged(self) -> object:
        return _largest_acknowledged(self._quic)

    def unacknowledged(self) -> list[int]:
        return _unacknowledged(self._quic)

    def window_room(self) -> int:
        return self._congestion.congestion_window - self._congestion.bytes_in_flight

    @property
    def has_news(self) -> bool:
        return _has_events(self._quic)

    @property
    def max_datagram_payload_bytes(self) -> int:
        # A frame above the peer's limit, or one that fits no packet, would cost the connection or its datagrams.
        return max(0, min(_datagram_bytes(self._quic) - _DATAGRAM_OVERHEAD_BYTES, _peer_datagram_limit(self._quic) - 3))

    def datagram_room(self) -> int:
        return self.window_room() - sum(map(len, _datagram_queue(self._quic)))

    def send_datagram(self, data: bytes) -> bool:
        if not len(data) <= self.max_datagram_payload_bytes or not self.max_datagram_payload_bytes:
            return False
        if len(_datagram_queue(self._quic)) >= self._max_queued_datagrams:
            return False
        self._quic.send_datagram_frame(data)
        return True

    def ping(self) -> None:
        self._quic.send_ping(0)

    def fail(self, code: int, reason: str) -> None:
        self._note_close(code, reason)
        self._quic.close(error_code=code, frame_type=QuicFrameType.PADDING, reason_phrase=reason)

    def _goes_on(self) -> bool:
        """After the first packet of a batch: whether aioquic is to build another."""
        if not has_more(self._quic):
            return False
        self._bulk = bulk_stream(self._quic)
        return self._bulk is None

    def _send_run(self, stream: QuicStream, now: float) -> list[tuple[bytes, SocketAddress]]:
        """Return the rest of a batch."""
        self._bulk = None
        datagrams = send_run(self._quic, stream, self._pacer, now)
        datagrams += self._quic.datagrams_to_send(now)  # what fills no packet, and when what is left may leave
        return datagrams

    def _time_acknowledgement(self, space: QuicPacketSpace, now: float) -> None:
        """Let it leave along with data, and not with each."""
        if min(self._ack_by, space.ack_at or now) <= now + _ACKNOWLEDGE_WITHIN:
            space.ack_at = now
        elif self._unacknowledged_bytes <= _MAX_UNACKNOWLEDGED_BYTES:
            space.ack_at = self._ack_by

    def _widen(self) -> None:
        self._widen_at = math.inf
        wanted = datagram_bytes(self._settings, self.peer_address)
        _set_datagram_bytes(self._quic, min(wanted, _MAX_DATAGRAM_BYTES, peer_payload_limit(self._quic)))

    def _narrow(self, now: float) -> None:
        """Send packets that every path carries for a while."""
        self._congestion.large_losses = 0
        self._widen_at = now + _WIDEN_AFTER
        _set_datagram_bytes(self._quic, BASE_DATAGRAM_BYTES)
        queue, limit = _datagram_queue(self._quic), self.max_datagram_payload_bytes
        fitting = [data for data in queue if len(data) <= limit]  # the others would stand in front of all later ones
        queue.clear()
        queue.extend(fitting)

    def _stream_limit(self, *, unidirectional: bool) -> int:
        return _peer_stream_limit(self._quic, unidirectional=unidirectional)

    def _settle_early_data(self, *, accepted: bool) -> None:
        if self._early is not None and not accepted:
            _send_again(self._quic, self._early)  # which aioquic would do after another round trip
        self._early = None

    def _end(self) -> EndOfConnection | None:
        event = _close_event(self._quic)
        return None if event is None else (event, _is_draining(self._quic))


# The private attributes of aioquic, one function each.
# pyright: reportPrivateUsage=false


def _trace(quic: QuicConnection) -> QlogFile | None:
    """Return what the connection's events go to."""
    return quic._quic_logger  # type: ignore[return-value]  # made by `QlogDirectory.start_trace`


def _install_pacer(quic: QuicConnection, pacer: BatchPacer) -> BatchPacer:
    quic._loss._pacer = pacer
    return pacer


def _hash_by_identity() -> None:
    """Spare aioquic a function in Python wherever it looks up an epoch or a state: 25 of them for a packet."""
    for kind in (aioquic_tls.Epoch, QuicConnectionState):
        kind.__hash__ = object.__hash__  # type: ignore[method-assign]
    connection.END_STATES = frozenset([*connection.END_STATES])  # a set keeps the hashes that it was made with


_hash_by_identity()


def _give_streams_an_order() -> None:
    """Let streams that take turns do so by their ids: aioquic puts them in a set, whose order follows addresses."""

    def by_id(stream: QuicStream) -> int:
        return stream.stream_id or 0

    QuicStream.__hash__ = by_id  # type: ignore[method-assign, assignment]


_give_streams_an_order()


def _set_stream_limits(quic: QuicConnection, count: int) -> None:
    """Announce `count` streams of each kind instead of 128; only before the handshake begins."""
    for limit in (quic._local_max_streams_bidi, quic._local_max_streams_uni):
        limit.value = limit.sent = count


def _peer_stream_limit(quic: QuicConnection, *, unidirectional: bool) -> int:
    return quic._remote_max_streams_uni if unidirectional else quic._remote_max_streams_bidi


def _application_space(quic: QuicConnection) -> QuicPacketSpace:
    return quic._spaces[aioquic_tls.Epoch.ONE_RTT]


def _send_again(quic: QuicConnection, space: QuicPacketSpace) -> None:
    """Count all that is on its way in a packet number space as lost, and not as a sign of congestion."""
    quic._loss._on_packets_lost(
        congestion_event=False, now=0.0, packets=tuple(space.sent_packets.values()), space=space
    )


def _stream(quic: QuicConnection, stream_id: int) -> QuicStream | None:
    return quic._streams.get(stream_id)


def _unsent_bytes(quic: QuicConnection, stream_id: int) -> int:
    stream = _stream(quic, stream_id)
    if stream is None or stream.sender._reset_error_code is not None:
        return 0
    return stream.sender._buffer_stop - stream.sender.highest_offset


def _has_unsent(quic: QuicConnection) -> bool:
    return any(_unsent_bytes(quic, stream_id) for stream_id in quic._streams)


def _has_undelivered(quic: QuicConnection) -> bool:
    for stream in quic._streams.values():
        sender = stream.sender
        if sender.is_finished or sender._reset_error_code is not None:
            continue
        if sender._buffer_start < sender._buffer_stop or (sender._buffer_fin is not None and not sender._acked_fin):
            return True
    return False


def _peer_datagram_limit(quic: QuicConnection) -> int:
    return quic._remote_max_datagram_frame_size or 0


def _datagram_queue(quic: QuicConnection) -> deque[bytes]:
    return quic._datagrams_pending


def _close_event(quic: QuicConnection) -> ConnectionTerminated | None:
    return quic._close_event


def _has_events(quic: QuicConnection) -> bool:
    """Return whether it would tell something, or has ended, which it tells later."""
    return bool(quic._events) or quic._close_event is not None


def _is_draining(quic: QuicConnection) -> bool:
    """Whether the peer closed: aioquic enters this state for nothing else."""
    return quic._state is QuicConnectionState.DRAINING


def _begin_probes_again(quic: QuicConnection) -> None:
    """Let the wait before the next probe grow no further: it begins again, or stays as it is during the handshake."""
    loss = quic._loss
    if loss._pto_count > MAX_PROBE_DOUBLINGS:
        loss._pto_count = 0 if loss.handshake_confirmed else MAX_PROBE_DOUBLINGS


def _congestion(quic: QuicConnection) -> Congestion:
    return cast("Congestion", quic._loss._cc)


def _datagram_bytes(quic: QuicConnection) -> int:
    return quic._max_datagram_size


def _set_datagram_bytes(quic: QuicConnection, size: int) -> None:
    quic._max_datagram_size = size


def _largest_acknowledged(quic: QuicConnection) -> int:
    return quic._spaces[aioquic_tls.Epoch.ONE_RTT].largest_acked_packet


def _unacknowledged(quic: QuicConnection) -> list[int]:
    sent = quic._spaces[aioquic_tls.Epoch.ONE_RTT].sent_packets
    return [packet.packet_number for packet in sent.values() if packet.is_ack_eliciting]


def _smoothed_rtt(quic: QuicConnection) -> float | None:
    return quic._loss._rtt_smoothed if quic._loss._rtt_initialized else None


def _peer_chain(quic: QuicConnection) -> tuple[bytes, ...]:
    leaf = quic.tls._peer_certificate
    if leaf is None:
        return ()
    der = aioquic_tls.Encoding.DER  # type: ignore[attr-defined]  # cryptography's, by way of aioquic
    return tuple(item.public_bytes(der) for item in (leaf, *quic.tls._peer_certificate_chain))


def _peer_reset_tokens(quic: QuicConnection) -> list[bytes]:
    """Return the tokens of the peer's ids in use: aioquic keeps them and never looks at them."""
    ids = [quic._peer_cid, *(path.peer_cid for path in quic._network_paths if path.peer_cid is not None)]
    return [item.stateless_reset_token for item in ids if item.stateless_reset_token]
