"""One connection over qh3's sans-IO `QuicConnection`; what qh3 does differently is told in engine_qh3.py.

Each private attribute of qh3 is touched in one named function at the end of the module, and each of these has a canary
test, so that a new qh3 that moves one fails in one obvious place.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

from qh3.quic import events
from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.quic.events import ConnectionTerminated
from qh3.quic.logger import QuicLoggerTrace
from qh3.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion
from qh3.quic.tls_bridge import QuicTlsBridge
from qh3.tls import Epoch

from echostream.config import QuicSettings
from echostream.transport.quic.diagnostics import QlogFile
from echostream.transport.quic.engine import ResetToken
from echostream.transport.quic.engine_common import CommonEngine, EndOfConnection
from echostream.transport.quic.paths import PathNames
from echostream.transport.sockets import SocketAddress

__all__ = ("CLOCK_START", "Qh3Engine", "Qh3Trace", "ServerWithoutEarlyData", "derive_reset_token")

logger = logging.getLogger("echostream.transport")

# qh3 warns about every close of a peer, an orderly one too; the connection above tells those that matter.
logging.getLogger("quic").addFilter(lambda record: not record.getMessage().startswith("Native "))

_BATCH_PACKETS = 44
"""Packets per `transmit`: one system call with UDP_SEGMENT at 1,452 bytes, and the receiver starts while we go on."""
_DATAGRAM_OVERHEAD_BYTES = 40
"""Short header, connection id, packet number, AEAD tag and frame header around a DATAGRAM payload; qh3 fills packets
to 29 bytes under their size."""
_DECODE_ERROR = 0x100 + 50
"""A TLS alert (RFC 8446 section 6.2)."""
_MAX_PROBE_DOUBLINGS = 3
"""Times that the wait before the next probe of a silent path doubles; then it begins anew. qh3 has no end, and so
sleeps through the moments in which a bad link is up, until the idle timeout ends the connection."""
_NO_VIABLE_PATH = 0x10
_MAX_MOVES = 3
"""qh3 has four paths in the life of a connection, the first among them."""
CLOCK_START = 1e6
"""Seconds added to every time: qh3 takes none before zero, which a simulated host's clock may well show."""


class Qh3Trace(QlogFile, QuicLoggerTrace):
    """qh3's words for its events, written to a file."""


class Qh3Engine(CommonEngine):
    """One qh3 connection."""

    _quic: QuicConnection
    _events: ClassVar[ModuleType] = events
    # The second also while the end is not told yet: what arrived together with the peer's close is answered first.
    _not_possible: ClassVar = (ValueError, QuicConnectionError)

    def __init__(self, quic: QuicConnection, settings: QuicSettings) -> None:
        super().__init__(quic, settings, _trace(quic))
        self._paths = PathNames(_MAX_MOVES)
        self._datagrams: deque[bytes] = deque()
        self._max_queued_datagrams = settings.max_queued_datagrams
        self._fresh = False  # whether something was queued since `transmit` ran dry
        self._finished_sent = False
        self._heard_at = 0.0
        self._idle_timeout = settings.idle_timeout
        self._is_forsaken = False  # whether nothing was heard for the idle timeout
        self._early = False

    def expect_early_data(self) -> None:
        """Make up for what qh3 does wrong about early data."""
        self._early = True

    @property
    def peer_address(self) -> SocketAddress | None:
        active = _peer_address(self._quic)
        return None if active is None else self._paths.address_of(active)

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        leaf = self._quic.get_peercert()
        return () if leaf is None else tuple(item.public_bytes() for item in (leaf, *self._quic.get_issuercerts()))

    @property
    def rtt(self) -> float | None:
        return _smoothed_rtt(self._quic)

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, now: float) -> None:
        active = _peer_address(self._quic)
        if active is not None and address != active and _handshake_complete(self._quic):
            self._receive_elsewhere(datagrams, address, active, now)
            return
        self._heard_at = now
        try:
            self._quic.receive_many_datagrams(list(datagrams), address, now + CLOCK_START)
        except Exception as error:
            if _handshake_complete(self._quic):
                raise
            # Whatever its TLS stumbles over in a malformed message comes out as it is.
            logger.debug("! unreadable handshake of %s: %r", address, error)
            self._go_back_to_shared_keys()
            self._quic.close(error_code=_DECODE_ERROR, frame_type=int(QuicFrameType.CRYPTO), reason_phrase="malformed")

    def receive_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        if _is_terminated(self._quic):
            return False
        self._quic.receive_many_datagrams([data], address, now + CLOCK_START)
        return _is_terminated(self._quic)

    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        if self._datagrams and _close_event(self._quic) is None:
            self._release_datagrams()
        try:
            packets = _take_packets(self._quic, now + CLOCK_START, _BATCH_PACKETS)
        except RuntimeError:
            if not self._early or _handshake_complete(self._quic):
                raise
            packets = []  # probing for the second time it asks for a key that comes later, and then goes on
        self.more = len(packets) == _BATCH_PACKETS
        self._count_protected(len(packets))
        if self._qlog is not None:
            _log_sent(self._quic, self._qlog, [data for data, _ in packets])
        if not self.more:
            self._fresh = False
            self._finished_sent = self._finished_sent or _handshake_complete(self._quic)
        if self._paths:
            return [(data, self._paths.address_of(path)) for data, path in packets]
        return packets

    def timer(self) -> float | None:
        due = self._quic.get_timer()
        return None if due is None else due - CLOCK_START

    def handle_timer(self, now: float) -> None:
        self._quic.handle_timer(now + CLOCK_START)
        if _probe_count(self._quic) > _MAX_PROBE_DOUBLINGS and _handshake_complete(self._quic):
            _begin_probes_again(self._quic)
            # Each probe restarts qh3's idle timer (RFC 9000 section 10.1: the first after a packet arrived), so that
            # one who is gone for good would be probed for ever.
            self._is_forsaken = now - self._heard_at >= self._idle_timeout

    def send(self, stream_id: int, data: bytes, *, fin: bool) -> int:
        try:
            self._quic.send_stream_data(stream_id, data, fin)
        except self._not_possible:
            return 0
        self._fresh = True
        return self._quic.get_send_buffer_size(stream_id)

    def unsent_bytes(self, stream_id: int) -> int:
        return self._quic.get_send_buffer_size(stream_id)

    def has_undelivered(self) -> bool:
        # Of an end without bytes only the packet that carries it can be seen, hence `_fresh`.
        return self._fresh or self._quic.get_send_buffer_size() > 0 or _bytes_in_flight(self._quic) > 0

    def acknowledged(self) -> object:
        # qh3 tells no packet number. While no probe is unanswered nothing is amiss; else the last sample stays.
        return _latest_rtt(self._quic) if _unanswered_probes(self._quic) else object()

    @property
    def max_datagram_payload_bytes(self) -> int:
        # A frame above the peer's limit, or one that fits no packet, would cost the connection.
        path = _path_datagram_bytes(self._quic) - _DATAGRAM_OVERHEAD_BYTES
        return max(0, min(path, _peer_datagram_limit(self._quic) - 3))

    def send_datagram(self, data: bytes) -> bool:
        if not len(data) <= self.max_datagram_payload_bytes or not self.max_datagram_payload_bytes:
            return False
        if len(self._datagrams) >= self._max_queued_datagrams or _close_event(self._quic) is not None:
            return False
        self._datagrams.append(data)
        return True

    def ping(self) -> None:
        with contextlib.suppress(*self._not_possible):
            self._quic.send_ping(0)

    def update_keys(self) -> bool:
        # qh3 derives the keys of version 2 with the label of version 1: only another qh3 would follow.
        return _version(self._quic) == QuicProtocolVersion.VERSION_1 and super().update_keys()

    def fail(self, code: int, reason: str) -> None:
        self._note_close(code, reason)
        self._go_back_to_shared_keys()
        self._quic.close(error_code=code, frame_type=int(QuicFrameType.PADDING), reason_phrase=reason)

    def _receive_elsewhere(
        self, datagrams: Sequence[bytes], address: SocketAddress, active: SocketAddress, now: float
    ) -> None:
        """Take packets from an address under which qh3 does not know the peer."""
        name = self._paths.name_of(address, active)
        authentic = _receive_authentic(self._quic, list(datagrams), name, now + CLOCK_START)
        active = _peer_address(self._quic) or active
        if name == active:
            self._heard_at = now
        quiet = now - self._heard_at
        if not self._paths.heard(address, active, authentic=authentic, quiet=quiet, rtt=self.rtt, now=now):
            reason = f"the peer moved again, and qh3 follows {_MAX_MOVES} times"
            self._quic.close(error_code=_NO_VIABLE_PATH, frame_type=int(QuicFrameType.PADDING), reason_phrase=reason)

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

    def _stream_limit(self, *, unidirectional: bool) -> int:
        return _peer_stream_limit(self._quic, unidirectional=unidirectional)

    def _end(self) -> EndOfConnection | None:
        event = _close_event(self._quic)
        if event is None and self._is_forsaken:
            event = ConnectionTerminated(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, "Idle timeout")
        return None if event is None else (event, _is_draining(self._quic))


def _peer_stream_limit(quic: QuicConnection, *, unidirectional: bool) -> int:
    """Return how many streams the peer allows since the beginning, not at a time, as the public names suggest."""
    return quic.max_concurrent_uni_streams if unidirectional else quic.max_concurrent_bidi_streams


class ServerWithoutEarlyData(QuicConnection):
    """qh3's server invites everybody who gets a ticket to send early data with it."""

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        _withhold_early_data(bridge)
        return bridge


# The private attributes of qh3, one function each.
# pyright: reportPrivateUsage=false


def _withhold_early_data(bridge: QuicTlsBridge) -> None:
    bridge.tls._max_early_data = None


def _trace(quic: QuicConnection) -> QlogFile | None:
    """Return what the connection's events go to."""
    return quic._quic_logger  # type: ignore[return-value]  # made by `QlogDirectory.start_trace`


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


def _log_sent(quic: QuicConnection, qlog: QlogFile, packets: list[bytes]) -> None:
    """Do what `datagrams_to_send` would, with what else can be seen of numbers and congestion."""
    if quic._core is None:
        return
    outstanding = iter(quic._core.outstanding_application_packets[-len(packets) :] if packets else ())
    number, size, *_ = next(outstanding, (0, 0))
    for data in packets:
        quic._log_datagram("datagrams_sent", data)
        if data[0] & 0x80:
            quic._log_packets("packet_sent", data)
            continue
        header: dict[str, object] = {"packet_type": "1RTT"}
        if size == len(data):  # an acknowledgement alone is not outstanding
            header["packet_number"] = number
            number, size, *_ = next(outstanding, (0, 0))
        data_sent = {"header": header, "raw": {"length": len(data)}, "frames": []}
        qlog.log_event(category="transport", event="packet_sent", data=data_sent)
    metrics: dict[str, float] = {
        "bytes_in_flight": quic._core.bytes_in_flight,
        "cwnd": quic._core.congestion_window,
        "pto_count": quic._core.pto_count,
    }
    if quic._core.smoothed_rtt is not None and quic._core.latest_rtt is not None:
        metrics |= {"smoothed_rtt": quic._core.smoothed_rtt * 1000, "latest_rtt": quic._core.latest_rtt * 1000}
    qlog.log_event(category="recovery", event="metrics_updated", data=metrics)


def _receive_authentic(quic: QuicConnection, datagrams: list[bytes], path: SocketAddress, now: float) -> bool:
    """Take packets after the handshake; returns whether any was the peer's, which the public method keeps back."""
    if quic._core is None:
        return False
    report = quic._core.receive_many_datagrams(datagrams, path, now)
    quic._drain_core()
    return report[2] > 0


def _probe_count(quic: QuicConnection) -> int:
    """Return how many probes in a row had no answer."""
    return 0 if quic._core is None else quic._core.pto_count


def _begin_probes_again(quic: QuicConnection) -> None:
    """Set that count to zero, which comes with a discard of keys (RFC 9002 section 6.2.2); these went long ago."""
    _discard_keys(quic, Epoch.INITIAL)


def _version(quic: QuicConnection) -> int:
    return 0 if quic._core is None else quic._core.version


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


def _unanswered_probes(quic: QuicConnection) -> int:
    """Return the probes since the last acknowledgement (RFC 9002 section 6.2.1)."""
    return 0 if quic._core is None else quic._core.pto_count


def _latest_rtt(quic: QuicConnection) -> float | None:
    return None if quic._core is None else quic._core.latest_rtt


def _smoothed_rtt(quic: QuicConnection) -> float | None:
    return None if quic._core is None else quic._core.smoothed_rtt


def _close_event(quic: QuicConnection) -> ConnectionTerminated | None:
    return quic._close_event


def _is_draining(quic: QuicConnection) -> bool:
    """Whether the peer closed: qh3 enters this state for nothing else."""
    return quic._core is not None and quic._core.state == "draining"


def _is_terminated(quic: QuicConnection) -> bool:
    """Whether nothing more is sent or expected; packets of unknown ids lead there by a stateless reset only."""
    return quic._core is not None and quic._core.state == "terminated"


def derive_reset_token(quic: QuicConnection, reset_token: ResetToken) -> None:
    """Give the id of a server's handshake a token of ours; qh3 draws it at random."""
    create = quic._create_tls

    def create_with_token(remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = create(remote_source_cid)
        bridge.stateless_reset_token = reset_token(quic.host_cid)
        extensions = bridge.tls.handshake_extensions  # already made, with the one that was drawn
        bridge.tls.handshake_extensions = [(kind, bridge.serialize_transport_parameters()) for kind, _ in extensions]
        return bridge

    quic._create_tls = create_with_token  # type: ignore[method-assign]
