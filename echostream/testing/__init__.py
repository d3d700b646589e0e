"""The test kit: virtual time, a seeded network, and servers and clients without sockets."""

from __future__ import annotations

from echostream.testing.host import SimHost
from echostream.testing.link import Arrival, Link, LinkState
from echostream.testing.loop import SimClock, SimDeadlockError, SimLoop
from echostream.testing.network import FrameRecord, SimNetwork

__all__ = (
    "Arrival",
    "FrameRecord",
    "Link",
    "LinkState",
    "SimClock",
    "SimDeadlockError",
    "SimHost",
    "SimLoop",
    "SimNetwork",
)
