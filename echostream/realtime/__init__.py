"""Arithmetic of real time: one clock, jitter, playout. No I/O: `now` is an argument.

Names are imported when they are first used (PEP 562): a session that reads no clock pays for none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echostream.realtime.cadence import ProbeCadence
    from echostream.realtime.clock import ClockFilter, Verdict
    from echostream.realtime.device import DeviceClock, VirtualDevice
    from echostream.realtime.jitter import Fate, JitterBuffer, State
    from echostream.realtime.mapping import ClockMapping
    from echostream.realtime.media import MediaClock
    from echostream.realtime.playout import PlayoutController, PlayoutSettings, PlayoutState, PlayoutStats, PlayoutStep
    from echostream.realtime.quality import QualityMeter, StreamQuality
    from echostream.realtime.sequence import Arrival, SequenceTracker
    from echostream.realtime.waiting import Gap, Played

__all__ = (
    "Arrival",
    "ClockFilter",
    "ClockMapping",
    "DeviceClock",
    "Fate",
    "Gap",
    "JitterBuffer",
    "MediaClock",
    "Played",
    "PlayoutController",
    "PlayoutSettings",
    "PlayoutState",
    "PlayoutStats",
    "PlayoutStep",
    "ProbeCadence",
    "QualityMeter",
    "SequenceTracker",
    "State",
    "StreamQuality",
    "Verdict",
    "VirtualDevice",
)

_HOME = {
    "Arrival": "echostream.realtime.sequence",
    "ClockFilter": "echostream.realtime.clock",
    "ClockMapping": "echostream.realtime.mapping",
    "DeviceClock": "echostream.realtime.device",
    "Fate": "echostream.realtime.jitter",
    "Gap": "echostream.realtime.waiting",
    "JitterBuffer": "echostream.realtime.jitter",
    "MediaClock": "echostream.realtime.media",
    "Played": "echostream.realtime.waiting",
    "PlayoutController": "echostream.realtime.playout",
    "PlayoutSettings": "echostream.realtime.playout",
    "PlayoutState": "echostream.realtime.playout",
    "PlayoutStats": "echostream.realtime.playout",
    "PlayoutStep": "echostream.realtime.playout",
    "ProbeCadence": "echostream.realtime.cadence",
    "QualityMeter": "echostream.realtime.quality",
    "SequenceTracker": "echostream.realtime.sequence",
    "State": "echostream.realtime.jitter",
    "StreamQuality": "echostream.realtime.quality",
    "Verdict": "echostream.realtime.clock",
    "VirtualDevice": "echostream.realtime.device",
}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'echostream.realtime' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
