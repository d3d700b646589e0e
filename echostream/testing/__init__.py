"""The test kit: virtual time, a seeded network, and servers and clients without sockets."""

from __future__ import annotations

from echostream.testing.host import SimHost
from echostream.testing.link import Arrival, Link, LinkState
from echostream.testing.loop import SimClock, SimDeadlockError, SimLoop, SimTimeLimitError
from echostream.testing.memory import connect_in_memory
from echostream.testing.network import SimNetwork
from echostream.testing.relay import ImpairmentRelay, Passage
from echostream.testing.trace import FrameRecord

__all__ = (
    "Arrival",
    "FrameRecord",
    "ImpairmentRelay",
    "Link",
    "LinkState",
    "Passage",
    "SimClock",
    "SimDeadlockError",
    "SimHost",
    "SimLoop",
    "SimNetwork",
    "SimTimeLimitError",
    "connect_in_memory",
)
