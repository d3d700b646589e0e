"""G13, the network's part: from capture to playout in a time that all receivers share, and how much is concealed.

Of that time a frame passes until it is full, and a margin is kept for the decoder and the device; the jitter buffer has
what is left. One packet in a thousand is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Final

from benches.realtime.arrivals import FRAME_NS, NETWORKS, TAILS, Sent, arrivals
from benches.realtime.table import Figure, Plan
from benches.realtime.waits import drive
from echostream.realtime import JitterBuffer

__all__ = ("ID", "measure")

ID: Final = "G13"
_PACKETS: Final = 12_000
_MARGIN_NS: Final = 20_000_000
_LOSS: Final = 0.0005
_GOALS: Final[dict[str, tuple[int, float | None]]] = {
    "ethernet": (60, 0.1), "Wi-Fi": (120, 0.3), "bad Wi-Fi": (150, None),
}  # fmt: skip


def measure(plan: Plan) -> Iterator[Figure]:
    for name, (latency_ms, goal) in _GOALS.items():
        runs = [(tail, seed) for tail in TAILS for seed in range(plan.seeds)]
        concealed = []
        for tail, seed in runs:
            plan.tell(f"{name}, {tail}, seed {seed}")
            concealed.append(
                _concealed_percent(arrivals(NETWORKS[name], seed, _PACKETS, tail=tail, loss=_LOSS), latency_ms)
            )
        yield Figure(
            ID, f"{name}, {latency_ms} ms from capture to playout: concealed, mean", mean(concealed), "%", goal=goal,
            details={"worst_percent": max(concealed)},
        )  # fmt: skip


def _concealed_percent(packets: list[Sent], latency_ms: int) -> float:
    """Return the share of the frames that are not played; a packet leaves a frame after its timestamp."""
    buffer = JitterBuffer(FRAME_NS, latency_ns=latency_ms * 1_000_000, margin_ns=_MARGIN_NS)
    for _ in drive(buffer, (Sent(packet.arrival_ns + FRAME_NS, packet.index) for packet in packets)):
        pass
    stats = buffer.stats()
    missing = stats.concealed + stats.skipped
    return 100 * missing / (stats.played + missing)
