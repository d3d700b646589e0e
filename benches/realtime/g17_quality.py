"""G17, the stream's part: what quality reports of jitter, latency, buffer and counts, beside what is true.

The network's own log is the truth. The receiver's clock is wrong by an offset that wanders within 100 us, and what is
late is late by that clock; one packet in a hundred is lost, one in a hundred comes twice.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from benches.realtime.arrivals import FRAME_NS, NETWORKS, TAILS, Sent, arrivals
from benches.realtime.table import Figure, Plan, percentile
from echostream.realtime import JitterBuffer, Played, StreamQuality

__all__ = ("ID", "measure")

ID: Final = "G17"
_PACKETS: Final = 6_000
_SECOND_NS: Final = 1_000_000_000
_WINDOW_SECONDS: Final = 10
_REPORT_NS: Final = 1_370_000_000
_LATENCY_NS: Final = 120_000_000
_FIGURES: Final = {
    "mean_jitter_ns": "mean jitter", "latency_ns": "one-way latency", "buffered_ns": "buffer",
}  # fmt: skip


def measure(plan: Plan) -> Iterator[Figure]:
    errors: dict[str, list[float]] = {name: [] for name in _FIGURES}
    wrong = 0
    for network in NETWORKS:
        for tail in TAILS:
            for seed in range(plan.seeds):
                plan.tell(f"{network}, {tail}, seed {seed}")
                wrong += _compare(network, tail, seed, errors)
    for name, title in _FIGURES.items():
        yield Figure(
            ID, f"{title}: reported against true, p99 of the error", percentile(errors[name], 0.99), "%",
            goal=20.0, details={"median_percent": percentile(errors[name], 0.5), "worst_percent": max(errors[name])},
        )  # fmt: skip
    yield Figure(ID, "received, lost, duplicated, reordered, late: streams with a wrong count", wrong, "", goal=0)


@dataclass
class _Truth:
    """What happened, by the network's log and a list of frames."""

    arrived: deque[Sent] = field(default_factory=deque)
    """Of the last ten whole seconds and the one that has begun, in the order of their arrival."""
    waiting: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    duplicated: int = 0
    reordered: int = 0
    late: int = 0
    newest: int = -1

    def arrive(self, packet: Sent, local_ns: int) -> None:
        if packet.index in self.seen:
            self.duplicated += 1
            return
        self.seen.add(packet.index)
        self.reordered += packet.index < self.newest
        self.newest = max(self.newest, packet.index)
        self.arrived.append(packet)
        if local_ns > packet.index * FRAME_NS + _LATENCY_NS:
            self.late += 1
        else:
            self.waiting.add(packet.index)

    def figures(self, now_ns: int) -> dict[str, float]:
        """Return the true values of what is reported."""
        begin_ns = (now_ns // _SECOND_NS - _WINDOW_SECONDS) * _SECOND_NS
        while self.arrived[0].arrival_ns < begin_ns:
            self.arrived.popleft()
        transits = [packet.arrival_ns - packet.index * FRAME_NS for packet in self.arrived]
        pairs = [abs(after - before) for before, after in zip(transits, list(transits)[1:], strict=False)]
        depth = (max(self.waiting) - min(self.waiting) + 1) * FRAME_NS if self.waiting else 0
        return {
            "mean_jitter_ns": sum(pairs) / len(pairs), "latency_ns": sum(transits) / len(transits),
            "buffered_ns": depth,
        }  # fmt: skip

    def counts(self) -> tuple[int, ...]:
        span = max(self.seen) - min(self.seen) + 1
        return len(self.seen), span - len(self.seen), self.duplicated, self.reordered, self.late


def _compare(network: str, tail: str, seed: int, errors: dict[str, list[float]]) -> bool:
    """Run a stream, note how wrong each second's report is, and return whether a count was wrong at the end."""
    source = random.Random(seed)
    packets = arrivals(NETWORKS[network], seed, _PACKETS, tail=tail, loss=0.01)
    packets += [Sent(each.arrival_ns + 3_000_000, each.index) for each in packets if source.random() < 0.01]
    packets.sort()
    truth, buffer = _Truth(), JitterBuffer(FRAME_NS, latency_ns=_LATENCY_NS)
    buffer.meter.synchronised = True
    next_report_ns, now_ns = 2 * _SECOND_NS, 0
    for packet in packets:
        local_ns = packet.arrival_ns + round(100_000 * math.sin(packet.arrival_ns / (7 * _SECOND_NS)))
        while (turn_ns := buffer.next_ns(now_ns)) is not None and turn_ns < local_ns:
            now_ns = turn_ns
            if isinstance(given := buffer.pop(now_ns), Played):
                truth.waiting = {index for index in truth.waiting if index > given.index}
        while next_report_ns <= packet.arrival_ns:
            _note(errors, buffer.stats(), truth.figures(now_ns))
            next_report_ns += _REPORT_NS
        now_ns = local_ns
        truth.arrive(packet, local_ns)
        buffer.push(packet.index, packet.index * FRAME_NS, local_ns, b"")
    stats = buffer.stats()
    return (stats.received, stats.lost, stats.duplicated, stats.reordered, stats.late) != truth.counts()


def _note(errors: dict[str, list[float]], told: StreamQuality, true: dict[str, float]) -> None:
    for name, value in true.items():
        reported = getattr(told, name)
        errors[name].append(100 * abs(reported - value) / value if value else 100.0 * bool(reported))
