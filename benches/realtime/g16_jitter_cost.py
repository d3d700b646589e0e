"""G16, the jitter buffer's part: what an item costs this process, and what an hour of them holds of its memory."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final

from benches.realtime.arrivals import FRAME_NS, NETWORKS, Sent, arrivals
from benches.realtime.table import Figure, Plan
from benches.realtime.waits import drive
from echostream.realtime import JitterBuffer

__all__ = ("ID", "measure")

ID: Final = "G16"
_PACKETS: Final = 20_000
_MINUTE: Final = 6_000
_HOUR: Final = 60 * _MINUTE
_PAYLOAD: Final = bytes(160)


def measure(plan: Plan) -> Iterator[Figure]:
    plan.tell(f"{_PACKETS} items")
    packets = arrivals(NETWORKS["Wi-Fi"], 0, _PACKETS, loss=0.01)
    spent_us = min(_spent_us(packets) for _ in range(max(3, plan.seeds // 2)))
    yield Figure(ID, "jitter buffer: an item pushed, and popped when it has its turn", spent_us, goal=50.0)
    plan.tell("an hour")
    minute, hour = _held_bytes()
    yield Figure(
        ID, "jitter buffer: most memory in an hour at 100 items/s, above a minute's", (hour - minute) / 1024, "KiB",
        goal=16.0, details={"after_a_minute_bytes": minute, "most_in_an_hour_bytes": hour},
    )  # fmt: skip


def _spent_us(packets: list[Sent]) -> float:
    buffer = JitterBuffer(FRAME_NS)
    begun = time.process_time_ns()
    for _ in drive(buffer, packets, _PAYLOAD):
        pass
    return (time.process_time_ns() - begun) / len(packets) / 1e3


def _held_bytes() -> tuple[int, int]:
    """Return what the buffer holds after a minute and after an hour."""
    held = []
    buffer = JitterBuffer(FRAME_NS)
    for minute in range(_HOUR // _MINUTE):
        begin = minute * _MINUTE
        packets = arrivals(NETWORKS["Wi-Fi"], minute, _MINUTE, loss=0.01)
        moved = (Sent(packet.arrival_ns + begin * FRAME_NS, packet.index + begin) for packet in packets)
        for _ in drive(buffer, moved, _PAYLOAD):
            pass
        held.append(_size_bytes(buffer))
    return held[0], max(held)


def _size_bytes(root: object) -> int:
    """Return the size of an object and of all that it refers to, but for code."""
    seen: dict[int, object] = {}
    found = [root]
    while found:
        each = found.pop()
        if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType | BuiltinFunctionType):
            seen[id(each)] = each
            found += gc.get_referents(each)
    return sum(sys.getsizeof(each) for each in seen.values())
