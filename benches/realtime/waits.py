"""What others wait for the items of a stream: NetEq's rule in our own words, and fixed delays.

NetEq (WebRTC's delay_manager and underrun_optimizer): relative delays are those above the least of the last two
seconds; the longest of each half second goes into a histogram of buckets of 20 ms; the target is its 0.95 quantile.
Here an item is late when it is slower than the target at its arrival: nothing is lost by time-stretching.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from benches.realtime.arrivals import FRAME_NS, LEAST_NS, Sent
from echostream.realtime import JitterBuffer, Played

__all__ = ("LATE_COST_MS", "Outcome", "drive", "fixed", "neteq", "ours")

LATE_COST_MS: Final = 200.0
"""What one late item in a hundred is worth: NetEq's way to weigh delay against loss, with the weight of ours."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the items of one stream."""

    target_ms: float
    """Mean of what an item waits that came as fast as any."""
    late_percent: float
    """Items that were not there in their turn."""

    @property
    def cost_ms(self) -> float:
        """Delay and lateness in one figure."""
        return self.target_ms + LATE_COST_MS * self.late_percent


def fixed(packets: list[Sent], delay_ms: float) -> Outcome:
    """Wait a fixed time above the least delay, which is known."""
    limit_ns = LEAST_NS + delay_ms * 1e6
    late = sum(packet.arrival_ns - packet.index * FRAME_NS > limit_ns for packet in packets)
    return Outcome(delay_ms, 100 * late / len(packets))


def neteq(packets: list[Sent]) -> Outcome:
    """Wait as NetEq does."""
    rule = _NetEq()
    late, targets_ms = 0, 0.0
    for packet in packets:
        late += rule.add(packet.arrival_ns - packet.index * FRAME_NS, packet.arrival_ns)
        targets_ms += rule.target_ms
    return Outcome(targets_ms / len(packets), 100 * late / len(packets))


class _NetEq:
    _BUCKET_MS: Final = 20
    _FORGET: Final = 0.983
    _QUANTILE: Final = 0.95
    _RESAMPLE_NS: Final = 500_000_000
    _HISTORY_NS: Final = 2_000_000_000

    def __init__(self) -> None:
        self.target_ms = 80.0
        self._shares = [0.0] * 100
        self._count = 0
        self._begun_ns: int | None = None
        self._longest_ms = 0.0
        self._least: deque[tuple[int, int]] = deque()

    def add(self, transit_ns: int, arrival_ns: int) -> bool:
        """Count an arrival; return whether it was late."""
        least = self._least
        while least and least[-1][1] >= transit_ns:
            least.pop()
        least.append((arrival_ns, transit_ns))
        while least[0][0] < arrival_ns - self._HISTORY_NS:
            least.popleft()
        relative_ms = (transit_ns - least[0][1]) / 1e6
        is_late = relative_ms > self.target_ms
        self._longest_ms = max(self._longest_ms, relative_ms)
        self._begun_ns = arrival_ns if self._begun_ns is None else self._begun_ns
        if arrival_ns - self._begun_ns > self._RESAMPLE_NS:
            self._resample()
            self._begun_ns, self._longest_ms = arrival_ns, 0.0
        return is_late

    def _resample(self) -> None:
        bucket = int(self._longest_ms // self._BUCKET_MS)
        if bucket >= len(self._shares):
            return
        self._count += 1
        kept = max(0.0, min(self._FORGET, 1 - 2 / (self._count + 1)))
        self._shares = [share * kept for share in self._shares]
        self._shares[bucket] += 1 - kept
        below = 0.0
        for at, share in enumerate(self._shares):
            below += share
            if below >= self._QUANTILE:
                self.target_ms = float((at + 1) * self._BUCKET_MS)
                return


def ours(packets: list[Sent]) -> Outcome:
    """Wait as the jitter buffer does; late is what it handed out after its turn, or not at all."""
    buffer = JitterBuffer(FRAME_NS)
    tardy, targets_ns = 0, 0
    for given in drive(buffer, packets):
        if given is None:
            targets_ns += buffer.target_delay_ns
        else:
            tardy += given.arrival_ns > given.play_at_ns
    stats = buffer.stats()
    late = stats.concealed + stats.skipped + tardy
    return Outcome(targets_ns / len(packets) / 1e6, 100 * late / len(packets))


def drive(buffer: JitterBuffer, packets: Iterable[Sent], payload: bytes = b"") -> Iterable[Played | None]:
    """Push packets as they arrive and pop whenever something has its turn; yield items, and None after each push."""
    now_ns = -(1 << 62)
    for packet in packets:
        while (turn_ns := buffer.next_ns(now_ns)) is not None and turn_ns < packet.arrival_ns:
            now_ns = turn_ns
            while (given := buffer.pop(now_ns)) is not None:
                if isinstance(given, Played):
                    yield given
        now_ns = packet.arrival_ns
        buffer.push(packet.index & 0xFFFF_FFFF, packet.index * FRAME_NS, now_ns, payload)
        yield None
