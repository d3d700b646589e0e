"""aioquic's congestion control and pacing, as far as they are ours: through its public ways to bring one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer

from echostream.transport.quic.paths import BASE_DATAGRAM_BYTES

__all__ = ("CONGESTION_CONTROL", "BatchPacer", "Congestion")

_PACING_BURST = 0.002
"""Seconds of the pacing rate that may leave at once: event loops keep time to 1 ms, so shorter gaps become 1 ms."""


class Congestion(RenoCongestionControl):
    """aioquic's congestion control, which also counts losses, and looks whether large packets pass."""

    lost_count = 0
    """Packets of the application's that were lost, or are sent again for want of an answer."""
    large_losses = 0
    """Times that any were lost since one arrived."""

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        if packet.sent_bytes > BASE_DATAGRAM_BYTES:
            self.large_losses = 0
        super().on_packet_acked(now=now, packet=packet)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        packets = tuple(packets)
        self._count(packets)
        super().on_packets_expired(packets=packets)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        packets = tuple(packets)
        self._count(packets)
        super().on_packets_lost(now=now, packets=packets)

    def _count(self, packets: tuple[QuicSentPacket, ...]) -> None:
        self.lost_count += sum(packet.packet_type is QuicPacketType.ONE_RTT for packet in packets)
        self.large_losses += any(packet.sent_bytes > BASE_DATAGRAM_BYTES for packet in packets)


CONGESTION_CONTROL = "echostream"
"""Name of it in a configuration."""
register_congestion_control(CONGESTION_CONTROL, Congestion)


class BatchPacer(QuicPacketPacer):
    """aioquic's pacer in steps that an event loop can keep, and with a limit per `transmit`.

    Args:
        max_datagram_size: as in aioquic.
        goes_on: asked after the first packet of a batch whether aioquic shall build another.
    """

    batch_is_full = False
    is_waiting = False
    """Whether the rest of the batch is to wait."""
    _room = _second = 0

    def __init__(self, *, max_datagram_size: int, goes_on: Callable[[], bool]) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._goes_on = goes_on

    def start_batch(self, packets: int) -> None:
        self._room = packets
        self._second = packets - 1
        self.batch_is_full = self.is_waiting = False

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # aioquic forgot the None
        if self._room <= 0:
            self.batch_is_full = True
            return now
        if self._room == self._second and not self._goes_on():
            return math.inf  # where the first packet took everything, aioquic would begin another to find that out
        due = cast("float | None", super().next_send_time(now))
        self.is_waiting = due is not None
        return due

    def take(self, packets: int, now: float) -> int:
        """Return how many packets of so many may leave now, and count them; what is left of the batch is aioquic's."""
        self._second = -1
        count = min(packets, self._room)
        if self.packet_time is not None:
            self.update_bucket(now)
            count = min(count, math.ceil(self.bucket_time / self.packet_time))
            self.bucket_time = max(0.0, self.bucket_time - count * self.packet_time)
        self._room -= count
        return count

    def update_after_send(self, now: float) -> None:
        self._room -= 1
        super().update_after_send(now)

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, _PACING_BURST)
