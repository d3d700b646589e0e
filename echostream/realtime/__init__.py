"""Arithmetic of real time: one clock, jitter, playout. No I/O: `now` is an argument.

Names are imported when they are first used (PEP 562): a session that reads no clock pays for none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echostream.realtime.jitter import Fate, JitterBuffer, State
    from echostream.realtime.quality import QualityMeter, StreamQuality
    from echostream.realtime.sequence import Arrival, SequenceTracker
    from echostream.realtime.waiting import Gap, Played

__all__ = (
    "Arrival",
    "Fate",
    "Gap",
    "JitterBuffer",
    "Played",
    "QualityMeter",
    "SequenceTracker",
    "State",
    "StreamQuality",
)

_HOME = {
    "Arrival": "echostream.realtime.sequence",
    "Fate": "echostream.realtime.jitter",
    "Gap": "echostream.realtime.waiting",
    "JitterBuffer": "echostream.realtime.jitter",
    "Played": "echostream.realtime.waiting",
    "QualityMeter": "echostream.realtime.quality",
    "SequenceTracker": "echostream.realtime.sequence",
    "State": "echostream.realtime.jitter",
    "StreamQuality": "echostream.realtime.quality",
}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'echostream.realtime' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
