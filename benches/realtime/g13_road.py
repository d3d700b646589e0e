"""G13, the whole road: capture to ear in a time that all receivers share, through network, jitter buffer and device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean
from typing import Final

from benches.realtime.arrivals import FRAME_NS, NETWORKS, TAILS, arrivals
from benches.realtime.delays import PATHS
from benches.realtime.studio import Listener, play_together
from benches.realtime.table import Figure, Plan

__all__ = ("ID", "measure")

ID: Final = "G13"
_SECONDS: Final = 60
_LOSS: Final = 0.0005
_GOALS: Final = {"ethernet": (60, 0.1), "Wi-Fi": (120, 0.3)}
"""Milliseconds, and percent that may be silent."""


class _Recorded:
    """Frames that arrive as recordings say; each leaves when it is full."""

    def __init__(self, name: str, seed: int, tail: str) -> None:
        count = _SECONDS * 1_000_000_000 // FRAME_NS
        self._sent = iter(arrivals(NETWORKS[name], seed, count, tail=tail, loss=_LOSS))
        self._next = next(self._sent, None)

    def arrived(self, now_ns: int, take: Callable[[int, int, int], None]) -> None:
        while self._next is not None and self._next.arrival_ns + FRAME_NS <= now_ns:
            take(self._next.index, self._next.index * FRAME_NS, self._next.arrival_ns + FRAME_NS)
            self._next = next(self._sent, None)


def measure(plan: Plan) -> Iterator[Figure]:
    """The device takes two blocks of 10 ms ahead; what is lost, late or not there in its turn is silent."""
    for name, (latency_ms, goal) in _GOALS.items():
        silent, off = [], []
        for seed in range(plan.seeds):
            for tail in TAILS:
                plan.tell(f"{name}, {tail}, seed {seed}")
                share, off_us = _run(name, seed, tail, latency_ms * 1_000_000)
                silent.append(share * 100)
                off.append(off_us)
        title = f"{name}, {latency_ms} ms from capture to ear: silent, mean"
        details = {"worst_percent": max(silent), "latency_off_us": max(off)}
        yield Figure(ID, title, mean(silent), "%", goal=goal, details=details)


def _run(name: str, seed: int, tail: str, latency_ns: int) -> tuple[float, float]:
    """Return the share that was silent, and how far the time from capture to ear was off in the end."""
    frames = _Recorded(name, seed, tail)
    own = f"{name} {seed} {tail}"
    listener = Listener(own, PATHS[name], frames, frame_ns=FRAME_NS, latency_ns=latency_ns)
    play_together([listener], _SECONDS - 1, lambda _: None)
    return listener.silent_ns / listener.played_ns, abs(listener.error_ns) / 1e3
