"""Adapter over qh3's sans-IO `QuicConnection` and its native packet core; the only module that imports qh3.

What qh3 does differently, and what becomes of it here:

- A server must see that a client's address is its own before it answers (`QuicEngines.needs_retry`): qh3 leaves the
  padding out when it counts what a client sent (RFC 9000 section 8.1), and once that budget is short it raises at every
  turn for the rest of the connection. A hello of one packet, such as aioquic's, is always too short for it; qh3's own
  fills two packets, until one of them is lost. So each first packet is answered by a Retry: one round trip more.
- The peer may have 100 bidirectional and 103 unidirectional streams open, whatever `QuicSettings.max_streams` says.
- A DATAGRAM that does not fit the path ends the connection, and none waits for the congestion window: both here.
- The path is not probed: `QuicSettings.max_datagram_bytes` is what is sent, as with aioquic; only a server keeps to the
  1,472 bytes that a qh3 client announces.

Each private attribute of qh3 is touched in one named function at the end of the module, and each of these has a canary
test, so that a new qh3 that moves one fails in one obvious place.
"""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Sequence

from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from qh3.quic.packet import QuicFrameType, QuicProtocolVersion, encode_quic_retry
from qh3.tls import Epoch, SignatureAlgorithm

from echostream.config import ALPN, QuicSettings
from echostream.errors import ConfigurationError
from echostream.transport.quic.engine import AcceptEngine, EngineSink, QuicEngine, QuicEngines
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ServerTls

__all__ = ("Qh3Engine", "Qh3Engines")

logger = logging.getLogger("echostream.transport")

# qh3 warns about every close of a peer, an orderly one too; the connection above tells those that matter.
logging.getLogger("quic").addFilter(lambda record: not record.getMessage().startswith("Native "))

_BATCH_PACKETS = 44
"""Packets per `transmit`: one system call with UDP_SEGMENT at 1,452 bytes, and the receiver starts while we go on."""
_DATAGRAM_OVERHEAD_BYTES = 40
"""Short header, connection id, packet number, AEAD tag and frame header around a DATAGRAM payload; qh3 fills packets
to 29 bytes under their size."""
_MAX_DATAGRAM_FRAME_BYTES = 65_535
"""Announced to the peer; the path is what limits."""
_DECODE_ERROR = 0x100 + 50
"""A TLS alert (RFC 8446 section 6.2)."""
_CONNECTION_IDS = 8
"""Own ids in use at a time, as with aioquic; a qh3 client would take two."""
_INITIAL_RTT = 0.1
"""Seconds, as with aioquic: a lost first packet is sent again after three of them."""
_CLOCK_START = 1e6
"""Seconds added to every time: qh3 takes none before zero, which a simulated host's clock may well show."""
_SIGNATURES = [
    int(item) for item in SignatureAlgorithm if item.name.startswith(("ECDSA_SECP", "ED25519", "RSA_PSS_RSAE_"))
]
"""What a server may sign with: Ed25519 too, and neither PKCS #1 nor SHA-1 (RFC 8446 section 4.4.3) as qh3 would."""


class Qh3Engine(QuicEngine):
    """One qh3 connection."""

    def __init__(self, quic: QuicConnection, settings: QuicSettings) -> None:
        self._quic = quic
        self._datagrams: deque[bytes] = deque()
        self._max_queued_datagrams = settings.max_queued_datagrams
        self._starved = [False, False]  # whether open_stream failed: bidirectional, unidirectional
        self._closed = False
        self._fresh = False  # whether something was queued since `transmit` ran dry
        self._finished_sent = False

    @property
    def connection_id(self) -> bytes:
        return self._quic.host_cid

    @property
    def peer_address(self) -> SocketAddress | None:
        return _peer_address(self._quic)

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        leaf = self._quic.get_peercert()
        return () if leaf is None else tuple(item.public_bytes() for item in (leaf, *self._quic.get_issuercerts()))

    @property
    def rtt(self) -> float | None:
        return _smoothed_rtt(self._quic)

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, now: float) -> None:
        try:
            self._quic.receive_many_datagrams(list(datagrams), address, now + _CLOCK_START)
        except Exception as error:
            if _handshake_complete(self._quic):
                raise
            # Whatever its TLS stumbles over in a malformed message comes out as it is.
            logger.debug("! unreadable handshake of %s: %r", address, error)
            self._go_back_to_shared_keys()
            self._quic.close(error_code=_DECODE_ERROR, frame_type=int(QuicFrameType.CRYPTO), reason_phrase="malformed")

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
        if self._datagrams:
            self._release_datagrams()
        packets = _take_packets(self._quic, now + _CLOCK_START, _BATCH_PACKETS)
        self.more = len(packets) == _BATCH_PACKETS
        if not self.more:
            self._fresh = False
            self._finished_sent = self._finished_sent or _handshake_complete(self._quic)
        return packets

    def timer(self) -> float | None:
        due = self._quic.get_timer()
        return None if due is None else due - _CLOCK_START

    def handle_timer(self, now: float) -> None:
        self._quic.handle_timer(now + _CLOCK_START)

    def open_stream(self, *, unidirectional: bool) -> int | None:
        stream_id = self._quic.get_next_available_stream_id(unidirectional)
        if stream_id // 4 >= _peer_stream_limit(self._quic, unidirectional=unidirectional):
            self._starved[unidirectional] = True
            return None
        self._quic.send_stream_data(stream_id, b"")  # takes the id: it is handed out again until the first write
        return stream_id

    def send(self, stream_id: int, data: bytes, *, fin: bool) -> int:
        try:
            self._quic.send_stream_data(stream_id, data, fin)
        except ValueError:  # finished, reset, stopped by the peer, or long forgotten
            return 0
        self._fresh = True
        return self._quic.get_send_buffer_size(stream_id)

    def unsent_bytes(self, stream_id: int) -> int:
        return self._quic.get_send_buffer_size(stream_id)

    def has_undelivered(self) -> bool:
        # Of an end without bytes only the packet that carries it can be seen, hence `_fresh`.
        return self._fresh or self._quic.get_send_buffer_size() > 0 or _bytes_in_flight(self._quic) > 0

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
        # A frame above the peer's limit, or one that fits no packet, would cost the connection.
        path = _path_datagram_bytes(self._quic) - _DATAGRAM_OVERHEAD_BYTES
        return max(0, min(path, _peer_datagram_limit(self._quic) - 3))

    def send_datagram(self, data: bytes) -> bool:
        if not len(data) <= self.max_datagram_payload_bytes or not self.max_datagram_payload_bytes:
            return False
        if len(self._datagrams) >= self._max_queued_datagrams:
            return False
        self._datagrams.append(data)
        return True

    def ping(self) -> None:
        self._quic.send_ping(0)

    def close(self, code: int, reason: str) -> None:
        self._closed = True
        self._quic.close(error_code=code, reason_phrase=reason)

    def fail(self, code: int, reason: str) -> None:
        self._closed = True
        self._go_back_to_shared_keys()
        self._quic.close(error_code=code, frame_type=int(QuicFrameType.PADDING), reason_phrase=reason)

    def _go_back_to_shared_keys(self) -> None:
        """Let the handshake's close be readable: qh3 says it with its newest keys, which the peer may not have yet."""
        if self._quic.configuration.is_client:
            if not self._finished_sent:
                _discard_keys(self._quic, Epoch.ONE_RTT)
        elif not _handshake_complete(self._quic):
            _discard_keys(self._quic, Epoch.ONE_RTT)
            _discard_keys(self._quic, Epoch.HANDSHAKE)

    def _release_datagrams(self) -> None:
        """Hand over what the congestion window has room for, which qh3 does not ask."""
        room = _congestion_window(self._quic) - _bytes_in_flight(self._quic)
        limit = self.max_datagram_payload_bytes  # a path that the peer moved to may carry less
        while self._datagrams and room > 0:
            data = self._datagrams.popleft()
            if len(data) <= limit:
                room -= len(data) + _DATAGRAM_OVERHEAD_BYTES
                self._quic.send_datagram_frame(data)

    def _deliver_limits(self, sink: EngineSink) -> None:
        for unidirectional in (False, True):
            if self._starved[unidirectional]:
                following = self._quic.get_next_available_stream_id(unidirectional)
                if following // 4 < _peer_stream_limit(self._quic, unidirectional=unidirectional):
                    self._starved[unidirectional] = False
                    sink.on_streams_available()

    def _deliver_close(self, sink: EngineSink) -> None:
        # At once, where qh3 reports it after three more probe timeouts.
        event = None if self._closed else _close_event(self._quic)
        if event is not None:
            self._closed = True
            by_peer = _is_draining(self._quic)
            sink.on_closed(
                application=by_peer and event.frame_type is None,  # qh3 names no frame where versions do not match
                code=event.error_code,
                reason=event.reason_phrase,
                by_peer=by_peer,
            )


class Qh3Engines(QuicEngines):
    """Makes `Qh3Engine`s."""

    versions = (int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2))
    needs_retry = True

    def __init__(self, settings: QuicSettings) -> None:
        self._settings = settings

    def connect(self, address: SocketAddress, *, server_name: str, now: float) -> Qh3Engine:
        configuration = self._configuration(is_client=True)
        configuration.server_name = server_name
        configuration.verify_mode = ssl.CERT_NONE  # the chain only: that the peer owns the key is always checked
        configuration.signature_algorithms = _SIGNATURES
        quic = QuicConnection(configuration=configuration)
        engine = Qh3Engine(quic, self._settings)
        quic.connect(address, now + _CLOCK_START)
        return engine

    def can_serve(self, tls: ServerTls) -> bool:
        return self._server_configuration(tls) is not None

    def acceptor(self, tls: ServerTls) -> AcceptEngine:
        configuration = self._server_configuration(tls)
        if configuration is None:
            raise ConfigurationError("engine", "qh3 cannot sign with this kind of key, choose aioquic or another key")

        def accept(original_destination: bytes, retry_source: bytes | None) -> Qh3Engine:
            quic = QuicConnection(
                configuration=configuration,
                original_destination_connection_id=original_destination,
                retry_source_connection_id=retry_source,
            )
            return Qh3Engine(quic, self._settings)

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

    def warm_up(self, tls: ServerTls) -> None:
        # The first key exchange of a process takes 25 ms and holds the interpreter meanwhile.
        hello = self.connect(("127.0.0.1", 1), server_name="localhost", now=0.0).transmit(0.0)
        first = hello[0][0]
        server = self.acceptor(tls)(first[6 : 6 + first[5]], None)
        server.receive([data for data, _ in hello], ("127.0.0.1", 2), 0.0)

    def _server_configuration(self, tls: ServerTls) -> QuicConfiguration | None:
        configuration = self._configuration(is_client=False)
        try:
            configuration.load_cert_chain(*tls.to_pem())
        except Exception:  # noqa: BLE001  # its own kinds, of the native part
            return None
        return configuration

    def _configuration(self, *, is_client: bool) -> QuicConfiguration:
        settings = self._settings
        return QuicConfiguration(
            is_client=is_client,
            active_connection_id_limit=_CONNECTION_IDS,
            alpn_protocols=[ALPN],
            idle_timeout=settings.idle_timeout,
            initial_rtt=_INITIAL_RTT,
            max_data=settings.connection_window_bytes,
            max_stream_data=settings.stream_window_bytes,
            max_datagram_size=settings.max_datagram_bytes,
            max_datagram_frame_size=_MAX_DATAGRAM_FRAME_BYTES,
            probe_datagram_size=False,
            supported_versions=list(self.versions),
        )


def _peer_stream_limit(quic: QuicConnection, *, unidirectional: bool) -> int:
    """Return how many streams the peer allows since the beginning, not at a time, as the public names suggest."""
    return quic.max_concurrent_uni_streams if unidirectional else quic.max_concurrent_bidi_streams


# The private attributes of qh3, one function each.
# pyright: reportPrivateUsage=false


def _take_packets(quic: QuicConnection, now: float, most: int) -> list[tuple[bytes, SocketAddress]]:
    """Return packets up to a number: `datagrams_to_send` has no limit, and loses what it had when it raises."""
    packets: list[tuple[bytes, SocketAddress]] = []
    if quic._core is None:  # a server before its first packet
        return packets
    poll = quic._core.poll_transmit
    try:
        while len(packets) < most and (packet := poll(now)) is not None:
            packets.append(packet[:2])
    except RuntimeError:
        if not packets:  # else it raises again when they are sent
            raise
    return packets


def _handshake_complete(quic: QuicConnection) -> bool:
    return quic._handshake_complete


def _discard_keys(quic: QuicConnection, epoch: Epoch) -> None:
    if quic._core is not None:
        quic._core.discard_keys(int(epoch))


def _peer_address(quic: QuicConnection) -> SocketAddress | None:
    return None if quic._core is None else quic._core.active_path[2]


def _path_datagram_bytes(quic: QuicConnection) -> int:
    """Return what the setting, the peer and the path carry in a packet."""
    return 0 if quic._core is None else quic._core.active_path[5]


def _peer_datagram_limit(quic: QuicConnection) -> int:
    return quic._remote_max_datagram_frame_size or 0


def _bytes_in_flight(quic: QuicConnection) -> int:
    return 0 if quic._core is None else quic._core.bytes_in_flight


def _congestion_window(quic: QuicConnection) -> int:
    return 0 if quic._core is None else quic._core.congestion_window


def _smoothed_rtt(quic: QuicConnection) -> float | None:
    return None if quic._core is None else quic._core.smoothed_rtt


def _close_event(quic: QuicConnection) -> ConnectionTerminated | None:
    return quic._close_event


def _is_draining(quic: QuicConnection) -> bool:
    """Whether the peer closed: qh3 enters this state for nothing else."""
    return quic._core is not None and quic._core.state == "draining"
