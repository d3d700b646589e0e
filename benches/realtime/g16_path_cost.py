"""G16, the whole receiving side: what clock, jitter buffer and playout cost for each packet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from benches.realtime.delays import PATHS
from benches.realtime.studio import Listener, Network, play_together
from benches.realtime.table import Figure, Plan

__all__ = ("ID", "measure")

ID: Final = "G16"
_SECONDS: Final = 60
_PACKETS: Final = 100
"""Per second."""
_FRAME_NS: Final = 1_000_000_000 // _PACKETS
_RECEIVERS: Final = 4
_PARTS: Final = ("session", "buffer", "reports", "controller")
"""Of a listener: what a real receiver has, too."""


_Call = tuple[str, str, tuple[Any, ...], dict[str, Any]]
"""Part, method, arguments."""


class _Taped:
    """Something whose calls are written down."""

    def __init__(self, inner: Any, part: str, calls: list[_Call]) -> None:
        self._inner = inner
        self._part = part
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._calls.append((self._part, name, arguments, named))
            return found(*arguments, **named)

        return call


def measure(plan: Plan) -> Iterator[Figure]:
    calls: list[_Call] = []
    listener = _listener()
    for part in _PARTS:
        setattr(listener, part, _Taped(getattr(listener, part), part, calls))
    play_together([listener], _SECONDS, lambda _: None)
    spent = []
    for number in range(max(3, plan.seeds // 2)):
        plan.tell(f"{len(calls)} calls, round {number}")
        spent.append(_replayed(calls))
    per_packet_us = min(spent) / (_SECONDS * _PACKETS) / 1e3
    details = {"calls_per_packet": len(calls) / (_SECONDS * _PACKETS)}
    title = "clock, jitter buffer and playout together: a packet"
    yield Figure(ID, title, per_packet_us, goal=50.0, details=details)
    share = per_packet_us * _PACKETS * _RECEIVERS / 1e6 * 100
    yield Figure(ID, "the same: of a core, 4 receivers of 100 packets a second", share, "%", goal=25.0)


def _listener() -> Listener:
    random = Random(0)
    path = PATHS["Wi-Fi"]
    frames = Network(random, path.delays(random)[0], _FRAME_NS)
    return Listener("0", path, frames, frame_ns=_FRAME_NS, latency_ns=150_000_000)


def _replayed(calls: list[_Call]) -> int:
    """Make the same calls on what is new; return nanoseconds of processor time."""
    fresh = _listener()
    bound: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]
    bound = [(getattr(getattr(fresh, part), name), arguments, named) for part, name, arguments, named in calls]
    begun = time.process_time_ns()
    for call, arguments, named in bound:
        call(*arguments, **named)
    return time.process_time_ns() - begun
