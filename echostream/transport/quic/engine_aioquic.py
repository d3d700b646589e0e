"""Adapter over aioquic's sans-IO `QuicConnection`; the only module that imports aioquic.

Each private attribute of aioquic is touched in one named function at the end of the module, and each of these has a
canary test, so that a new aioquic that moves one fails in one obvious place.
"""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Sequence

from aioquic import tls as aioquic_tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicFrameType, QuicProtocolVersion, encode_quic_retry
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream

from echostream.config import ALPN, QuicSettings
from echostream.transport.quic.engine import AcceptEngine, EngineSink, QuicEngine, QuicEngines
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ServerTls

__all__ = ("AioquicEngine", "AioquicEngines")

# aioquic warns about every malformed peer; without a handler of the application that would go to stderr.
logging.getLogger("quic").addHandler(logging.NullHandler())

_BATCH_PACKETS = 44
"""Packets per `transmit`: one system call with UDP_SEGMENT at 1,452 bytes, and the receiver starts while we go on."""
_PACING_BURST = 0.002
"""Seconds of the pacing rate that may leave at once: event loops keep time to 1 ms, so shorter gaps become 1 ms."""
_DATAGRAM_OVERHEAD_BYTES = 40
"""Short header, connection id, packet number, AEAD tag and frame header around a DATAGRAM payload."""
_MAX_PROBE_DOUBLINGS = 3
"""Times that the wait before the next probe of a silent path doubles: about 3 s at a round trip of 100 ms. aioquic has
no end, and so sleeps through the moments in which a bad link is up, until the idle timeout ends the connection."""
_MAX_DATAGRAM_FRAME_BYTES = 65_535
"""Announced to the peer; the path is what limits."""


class AioquicEngine(QuicEngine):
    """One aioquic connection."""

    def __init__(self, quic: QuicConnection, settings: QuicSettings) -> None:
        self._quic = quic
        self._max_queued_datagrams = settings.max_queued_datagrams
        self._path_datagram_bytes = settings.max_datagram_bytes - _DATAGRAM_OVERHEAD_BYTES
        self._pacer = _install_pacer(quic, _BatchPacer(max_datagram_size=settings.max_datagram_bytes))
        self._starved = [False, False]  # whether open_stream failed: bidirectional, unidirectional
        self._closed = False
        _set_stream_limits(quic, settings.max_streams)

    @property
    def connection_id(self) -> bytes:
        return self._quic.host_cid

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
        receive = self._quic.receive_datagram
        for data in datagrams:
            receive(data, address, now)

    def deliver(self, sink: EngineSink) -> None:
        next_event = self._quic.next_event
        while (event := next_event()) is not None:
            match event:  # the most frequent first
                case StreamDataReceived():
                    sink.on_stream_data(event.stream_id, event.data, event.end_stream)
                case DatagramFrameReceived():
                    sink.on_datagram(event.data)
                case StreamReset():
                    sink.on_stream_reset(event.stream_id, event.error_code)
                case StopSendingReceived():
                    sink.on_stream_stopped(event.stream_id, event.error_code)
                case ConnectionIdIssued():
                    sink.on_connection_id(event.connection_id, issued=True)
                case ConnectionIdRetired():
                    sink.on_connection_id(event.connection_id, issued=False)
                case HandshakeCompleted():
                    sink.on_handshake(event.alpn_protocol)
                case _:
                    pass
        self._deliver_limits(sink)
        self._deliver_close(sink)

    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        pacer = self._pacer
        pacer.start_batch(_BATCH_PACKETS)
        datagrams = self._quic.datagrams_to_send(now)
        self.more = pacer.batch_is_full
        return datagrams

    def timer(self) -> float | None:
        return self._quic.get_timer()

    def handle_timer(self, now: float) -> None:
        self._quic.handle_timer(now)
        _cap_probe_backoff(self._quic)

    def open_stream(self, *, unidirectional: bool) -> int | None:
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        if stream_id // 4 >= _peer_stream_limit(self._quic, unidirectional=unidirectional):
            self._starved[unidirectional] = True
            return None
        self._quic.send_stream_data(stream_id, b"")  # takes the id: aioquic hands it out again until the first write
        return stream_id

    def send(self, stream_id: int, data: bytes, *, fin: bool) -> int:
        try:
            self._quic.send_stream_data(stream_id, data, fin)
        except (ValueError, RuntimeError):  # finished, reset, stopped by the peer, or long forgotten
            return 0
        return _unsent_bytes(self._quic, stream_id)

    def unsent_bytes(self, stream_id: int) -> int:
        return _unsent_bytes(self._quic, stream_id)

    def has_undelivered(self) -> bool:
        return _has_undelivered(self._quic)

    def reset(self, stream_id: int, code: int) -> None:
        try:
            self._quic.reset_stream(stream_id, code)
        except ValueError:
            return

    def stop(self, stream_id: int, code: int) -> None:
        try:
            self._quic.stop_stream(stream_id, code)
        except ValueError:
            return

    @property
    def max_datagram_payload_bytes(self) -> int:
        # A frame above the peer's limit, or one that fits no packet, would cost the connection or its datagrams.
        return max(0, min(self._path_datagram_bytes, _peer_datagram_limit(self._quic) - 3))

    def send_datagram(self, data: bytes) -> bool:
        if not len(data) <= self.max_datagram_payload_bytes or not self.max_datagram_payload_bytes:
            return False
        if len(_datagram_queue(self._quic)) >= self._max_queued_datagrams:
            return False
        self._quic.send_datagram_frame(data)
        return True

    def ping(self) -> None:
        self._quic.send_ping(0)

    def close(self, code: int, reason: str) -> None:
        self._closed = True
        self._quic.close(error_code=code, reason_phrase=reason)

    def fail(self, code: int, reason: str) -> None:
        self._closed = True
        self._quic.close(error_code=code, frame_type=QuicFrameType.PADDING, reason_phrase=reason)

    def _deliver_limits(self, sink: EngineSink) -> None:
        for unidirectional in (False, True):
            if self._starved[unidirectional]:
                following = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
                if following // 4 < _peer_stream_limit(self._quic, unidirectional=unidirectional):
                    self._starved[unidirectional] = False
                    sink.on_streams_available()

    def _deliver_close(self, sink: EngineSink) -> None:
        # At once, where aioquic reports it after three more probe timeouts.
        event = None if self._closed else _close_event(self._quic)
        if event is not None:
            self._closed = True
            sink.on_closed(
                application=event.frame_type is None,
                code=event.error_code,
                reason=event.reason_phrase,
                by_peer=_is_draining(self._quic),
            )


class AioquicEngines(QuicEngines):
    """Makes `AioquicEngine`s."""

    versions = (int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2))

    def __init__(self, settings: QuicSettings) -> None:
        self._settings = settings

    def connect(self, address: SocketAddress, *, server_name: str, now: float) -> AioquicEngine:
        configuration = self._configuration(is_client=True)
        configuration.server_name = server_name
        configuration.verify_mode = ssl.CERT_NONE  # the chain only: that the peer owns the key is always checked
        quic = QuicConnection(configuration=configuration)
        engine = AioquicEngine(quic, self._settings)
        quic.connect(address, now)
        return engine

    def acceptor(self, tls: ServerTls) -> AcceptEngine:
        configuration = self._configuration(is_client=False)
        configuration.certificate = tls.chain[0]
        configuration.certificate_chain = list(tls.chain[1:])
        configuration.private_key = tls.private_key

        def accept(original_destination: bytes, retry_source: bytes | None) -> AioquicEngine:
            quic = QuicConnection(
                configuration=configuration,
                original_destination_connection_id=original_destination,
                retry_source_connection_id=retry_source,
            )
            return AioquicEngine(quic, self._settings)

        return accept

    def retry_packet(
        self, *, version: int, source: bytes, destination: bytes, original_destination: bytes, token: bytes
    ) -> bytes:
        return encode_quic_retry(
            version=version,
            source_cid=source,
            destination_cid=destination,
            original_destination_cid=original_destination,
            retry_token=token,
        )

    def _configuration(self, *, is_client: bool) -> QuicConfiguration:
        settings = self._settings
        return QuicConfiguration(
            is_client=is_client,
            alpn_protocols=[ALPN],
            idle_timeout=settings.idle_timeout,
            max_data=settings.connection_window_bytes,
            max_stream_data=settings.stream_window_bytes,
            max_datagram_size=settings.max_datagram_bytes,
            max_datagram_frame_size=_MAX_DATAGRAM_FRAME_BYTES,
            supported_versions=list(self.versions),
        )


class _BatchPacer(QuicPacketPacer):
    """aioquic's pacer in steps that an event loop can keep, and with a limit per `transmit`."""

    batch_is_full = False
    _room = 0

    def start_batch(self, packets: int) -> None:
        self._room = packets
        self.batch_is_full = False

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # aioquic forgot the None
        if self._room <= 0:
            self.batch_is_full = True
            return now
        return super().next_send_time(now)

    def update_after_send(self, now: float) -> None:
        self._room -= 1
        super().update_after_send(now)

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, _PACING_BURST)


# The private attributes of aioquic, one function each.
# pyright: reportPrivateUsage=false


def _install_pacer(quic: QuicConnection, pacer: _BatchPacer) -> _BatchPacer:
    quic._loss._pacer = pacer
    return pacer


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


def _stream(quic: QuicConnection, stream_id: int) -> QuicStream | None:
    return quic._streams.get(stream_id)


def _unsent_bytes(quic: QuicConnection, stream_id: int) -> int:
    stream = _stream(quic, stream_id)
    if stream is None or stream.sender._reset_error_code is not None:
        return 0
    return stream.sender._buffer_stop - stream.sender.highest_offset


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


def _is_draining(quic: QuicConnection) -> bool:
    """Whether the peer closed: aioquic enters this state for nothing else."""
    return quic._state is QuicConnectionState.DRAINING


def _cap_probe_backoff(quic: QuicConnection) -> None:
    quic._loss._pto_count = min(quic._loss._pto_count, _MAX_PROBE_DOUBLINGS)


def _smoothed_rtt(quic: QuicConnection) -> float | None:
    return quic._loss._rtt_smoothed if quic._loss._rtt_initialized else None


def _peer_chain(quic: QuicConnection) -> tuple[bytes, ...]:
    leaf = quic.tls._peer_certificate
    if leaf is None:
        return ()
    der = aioquic_tls.Encoding.DER  # type: ignore[attr-defined]  # cryptography's, by way of aioquic
    return tuple(item.public_bytes(der) for item in (leaf, *quic.tls._peer_certificate_chain))
