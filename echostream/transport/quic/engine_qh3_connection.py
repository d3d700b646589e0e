"""One connection over qh3's sans-IO `QuicConnection`; what qh3 does differently is told in engine_qh3.py.

What it touches of qh3's private parts is in engine_qh3_inside.py and engine_qh3_path.py.
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
from qh3.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion
from qh3.tls import Epoch

from echostream.config import QuicSettings
from echostream.transport.quic.engine_common import MAX_PROBE_DOUBLINGS, CommonEngine, EndOfConnection
from echostream.transport.quic.engine_qh3_inside import (
    begin_probes_again,
    bytes_in_flight,
    close_event,
    congestion_window,
    discard_keys,
    handshake_complete,
    has_events,
    is_draining,
    is_terminated,
    latest_rtt,
    peer_address,
    peer_datagram_limit,
    queue_data,
    receive_authentic,
    smoothed_rtt,
    take_packets,
    unanswered_probes,
    version,
)
from echostream.transport.quic.engine_qh3_path import cap_path, fit_path, lost_count, outstanding, path_bytes
from echostream.transport.quic.engine_qh3_qlog import log_sent, trace
from echostream.transport.quic.paths import BASE_DATAGRAM_BYTES, LargePackets, PathNames, datagram_bytes
from echostream.transport.sockets import SocketAddress

__all__ = ("CLOCK_START", "Qh3Engine")

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
_NO_VIABLE_PATH = 0x10
_MAX_MOVES = 3
"""qh3 has four paths in the life of a connection, the first among them."""
_PATIENCE = 16
"""Errors of qh3's in the life of a connection that pass by themselves: more of them do not."""
CLOCK_START = 1e6
"""Seconds added to every time: qh3 takes none before zero, which a simulated host's clock may well show."""


class Qh3Engine(CommonEngine):
    """One qh3 connection."""

    _quic: QuicConnection
    _events: ClassVar[ModuleType] = events
    # The last also while the end is not told yet: what arrived together with the peer's close is answered first.
    _not_possible: ClassVar = (ValueError, RuntimeError, QuicConnectionError)

    def __init__(self, quic: QuicConnection, settings: QuicSettings) -> None:
        super().__init__(quic, settings, trace(quic))
        self._paths = PathNames(_MAX_MOVES)
        self._large = LargePackets()
        self._is_doubtful = False  # whether the path may carry less than is sent
        self._is_narrow = False
        self._datagrams: deque[bytes] = deque()
        self._max_queued_datagrams = settings.max_queued_datagrams
        self._fresh = False  # whether something was queued since `transmit` ran dry
        self._finished_sent = False
        self._heard_at = 0.0
        self._patience = _PATIENCE
        self._has_initial_keys = quic.configuration.is_client  # of a server qh3 knows better when they are over
        self._probed_at = -1  # packets that had been sent when probes were begun again
        self._idle_timeout = settings.idle_timeout
        self._rtt_before_silence: float | None = -1.0
        self._is_forsaken = False  # whether nothing was heard for the idle timeout
        self._early = False

    def expect_early_data(self) -> None:
        """Make up for what qh3 does wrong about early data."""
        self._early = True

    @property
    def peer_address(self) -> SocketAddress | None:
        active = peer_address(self._quic)
        return None if active is None else self._paths.address_of(active)

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        leaf = self._quic.get_peercert()
        return () if leaf is None else tuple(item.public_bytes() for item in (leaf, *self._quic.get_issuercerts()))

    @property
    def rtt(self) -> float | None:
        return smoothed_rtt(self._quic)

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, now: float) -> None:
        active = peer_address(self._quic)
        if active is None:
            fit_path(self._quic, datagram_bytes(self._settings, address))
        elif address != active and handshake_complete(self._quic):
            self._receive_elsewhere(datagrams, address, active, now)
            return
        self._heard_at = now
        if self._qlog is None and handshake_complete(self._quic):
            receive_authentic(self._quic, list(datagrams), address, now + CLOCK_START)
            return
        try:
            self._quic.receive_many_datagrams(list(datagrams), address, now + CLOCK_START)
        except Exception as error:
            if handshake_complete(self._quic):
                raise
            # Whatever its TLS stumbles over in a malformed message comes out as it is.
            logger.debug("! unreadable handshake of %s: %r", address, error)
            self._go_back_to_shared_keys()
            self._quic.close(error_code=_DECODE_ERROR, frame_type=int(QuicFrameType.CRYPTO), reason_phrase="malformed")

    def receive_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        if is_terminated(self._quic):
            return False
        self._quic.receive_many_datagrams([data], address, now + CLOCK_START)
        return is_terminated(self._quic)

    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        if self._datagrams and close_event(self._quic) is None:
            self._release_datagrams()
        if self._large.is_suspicious or lost_count(self._quic) != self._large.lost_count:
            self.lost_count = lost_count(self._quic)
            self._large.look(outstanding(self._quic), self.lost_count)
            self._is_doubtful = self._is_doubtful or self._large.are_lost
        try:
            packets = take_packets(self._quic, now + CLOCK_START, _BATCH_PACKETS)
        except RuntimeError as error:
            # Probing early data for the second time it asks for a key that comes later, and then goes on; and about the
            # time of a move it may have no room for a frame, once.
            is_passing = self._early if not handshake_complete(self._quic) else "capacity exhausted" in str(error)
            self._patience -= is_passing
            if not is_passing or not self._patience:
                raise
            packets = []
        if not packets and self._has_initial_keys and handshake_complete(self._quic):
            # Padded bare acknowledgements fill a small window, for ever: they end with the first Handshake packet.
            self._has_initial_keys = False
            discard_keys(self._quic, Epoch.INITIAL)
            packets = take_packets(self._quic, now + CLOCK_START, _BATCH_PACKETS)
        self.more = len(packets) == _BATCH_PACKETS
        if self._is_doubtful and not self.more:
            packets += self._doubt_path(now)
        self._count_protected(len(packets))
        if self._qlog is not None:
            log_sent(self._quic, self._qlog, [data for data, _ in packets])
        if not self.more:
            self._fresh = False
            self._finished_sent = self._finished_sent or handshake_complete(self._quic)
        if self._paths:
            return [(data, self._paths.address_of(path)) for data, path in packets]
        return packets

    def timer(self) -> float | None:
        due = self._quic.get_timer()
        return None if due is None else due - CLOCK_START

    def handle_timer(self, now: float) -> None:
        self._quic.handle_timer(now + CLOCK_START)
        count = unanswered_probes(self._quic)
        if count == MAX_PROBE_DOUBLINGS:
            self._is_doubtful = True
        elif (
            count > MAX_PROBE_DOUBLINGS and self._probed_at != self._protected_count and handshake_complete(self._quic)
        ):
            # Where no probe left, the window has no room for any: it would spin.
            self._probed_at = self._protected_count
            begin_probes_again(self._quic)
            self._rtt_before_silence = latest_rtt(self._quic)
            # Each probe restarts qh3's idle timer (RFC 9000 section 10.1: the first after a packet arrived), so that
            # one who is gone for good would be probed for ever.
            self._is_forsaken = now - self._heard_at >= self._idle_timeout

    def send(self, stream_id: int, data: bytes, *, fin: bool) -> int:
        try:
            unsent = queue_data(self._quic, stream_id, data, fin=fin)
        except self._not_possible:
            return 0
        self._fresh = True
        return unsent

    def unsent_bytes(self, stream_id: int) -> int:
        return self._quic.get_send_buffer_size(stream_id)

    def has_unsent(self) -> bool:
        return self._quic.get_send_buffer_size() > 0

    def has_undelivered(self) -> bool:
        # Of an end without bytes only the packet that carries it can be seen, hence `_fresh`.
        return self._fresh or self._quic.get_send_buffer_size() > 0 or bytes_in_flight(self._quic) > 0

    def acknowledged(self) -> object:
        # qh3 tells no packet number. While no probe is unanswered nothing is amiss; else the last sample stays.
        rtt = latest_rtt(self._quic)
        return rtt if unanswered_probes(self._quic) or rtt == self._rtt_before_silence else object()

    def unacknowledged(self) -> list[int]:
        return [number for number, _, _ in outstanding(self._quic)]

    def window_room(self) -> int:
        return congestion_window(self._quic) - bytes_in_flight(self._quic)

    @property
    def has_news(self) -> bool:
        return has_events(self._quic) or self._is_forsaken

    @property
    def max_datagram_payload_bytes(self) -> int:
        # A frame above the peer's limit, or one that fits no packet, would cost the connection.
        path = path_bytes(self._quic) - _DATAGRAM_OVERHEAD_BYTES
        return max(0, min(path, peer_datagram_limit(self._quic) - 3))

    def datagram_room(self) -> int:
        return self.window_room() - sum(map(len, self._datagrams))

    def send_datagram(self, data: bytes) -> bool:
        if not len(data) <= self.max_datagram_payload_bytes or not self.max_datagram_payload_bytes:
            return False
        if len(self._datagrams) >= self._max_queued_datagrams or close_event(self._quic) is not None:
            return False
        self._datagrams.append(data)
        return True

    def ping(self) -> None:
        with contextlib.suppress(*self._not_possible):
            self._quic.send_ping(0)

    def update_keys(self) -> bool:
        # qh3 derives the keys of version 2 with the label of version 1: only another qh3 would follow.
        return version(self._quic) == QuicProtocolVersion.VERSION_1 and super().update_keys()

    def fail(self, code: int, reason: str) -> None:
        self._note_close(code, reason)
        self._go_back_to_shared_keys()
        self._quic.close(error_code=code, frame_type=int(QuicFrameType.PADDING), reason_phrase=reason)

    def _receive_elsewhere(
        self, datagrams: Sequence[bytes], address: SocketAddress, active: SocketAddress, now: float
    ) -> None:
        """Take packets from an address under which qh3 does not know the peer."""
        if self._is_narrow:  # qh3 can make no other path, and would raise
            if receive_authentic(self._quic, list(datagrams), active, now + CLOCK_START):
                self._give_up("the peer moved, and qh3 follows none to whom the path carried less than usual")
            return
        name = self._paths.name_of(address, active)
        authentic = receive_authentic(self._quic, list(datagrams), name, now + CLOCK_START)
        before, active = active, peer_address(self._quic) or active
        if active != before:
            self.ping()  # qh3 sets no timer for what is out on the former path: an answer shows what was lost there
        elif authentic:  # what is lost meanwhile was sent to where the peer is no longer, and says nothing of sizes
            self._large, self._is_doubtful = LargePackets(), False
        if name == active:
            self._heard_at = now
        quiet = now - self._heard_at
        if not self._paths.heard(address, active, authentic=authentic, quiet=quiet, rtt=self.rtt, now=now):
            self._give_up(f"the peer moved again, and qh3 follows {_MAX_MOVES} times")

    def _give_up(self, reason: str) -> None:
        """Leave a peer that this side can send to no longer."""
        self._quic.close(error_code=_NO_VIABLE_PATH, frame_type=int(QuicFrameType.PADDING), reason_phrase=reason)

    def _go_back_to_shared_keys(self) -> None:
        """Let the handshake's close be readable: qh3 says it with its newest keys, which the peer may not have yet."""
        if self._quic.configuration.is_client:
            if not self._finished_sent:
                discard_keys(self._quic, Epoch.ONE_RTT)
        elif not handshake_complete(self._quic):
            discard_keys(self._quic, Epoch.ONE_RTT)
            discard_keys(self._quic, Epoch.HANDSHAKE)

    def _widen(self) -> None:
        # A client whose first packets were lost sends small ones, and probes for larger ones: no further than this.
        if self._quic.configuration.is_client:
            cap_path(self._quic, datagram_bytes(self._settings, self.peer_address))

    def _doubt_path(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """Find out whether the path carries large packets, and send no more if it does not; returns what to send now.

        A PING goes alone: if it arrives, and nothing large does, the path carries less. And it goes behind the frames
        that qh3 made for large packets, and that wait for the congestion window: in smaller ones they would never fit,
        and it would raise for ever. So the size may change only when a PING leaves.
        """
        self._is_doubtful = False
        if self._is_narrow or path_bytes(self._quic) <= BASE_DATAGRAM_BYTES:
            return []
        self.ping()
        packets = take_packets(self._quic, now + CLOCK_START, 1)
        if packets and self._large.are_lost:
            cap_path(self._quic, BASE_DATAGRAM_BYTES)
            self._is_narrow, self._large.is_suspicious = True, False
        else:
            self._large.suspect(outstanding(self._quic))
        return packets

    def _release_datagrams(self) -> None:
        """Hand over what the congestion window has room for, which qh3 does not ask."""
        room = self.window_room()
        limit = self.max_datagram_payload_bytes  # a path that the peer moved to may carry less
        while self._datagrams and room > 0:
            data = self._datagrams.popleft()
            if len(data) <= limit:
                room -= len(data) + _DATAGRAM_OVERHEAD_BYTES
                self._quic.send_datagram_frame(data)

    def _stream_limit(self, *, unidirectional: bool) -> int:
        return _peer_stream_limit(self._quic, unidirectional=unidirectional)

    def _end(self) -> EndOfConnection | None:
        event = close_event(self._quic)
        if event is None and self._is_forsaken:
            event = ConnectionTerminated(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, "Idle timeout")
        return None if event is None else (event, is_draining(self._quic))


def _peer_stream_limit(quic: QuicConnection, *, unidirectional: bool) -> int:
    """Return how many streams the peer allows since the beginning, not at a time, as the public names suggest."""
    return quic.max_concurrent_uni_streams if unidirectional else quic.max_concurrent_bidi_streams
