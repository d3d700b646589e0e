"""The test kit: virtual time, a seeded network, and servers and clients without sockets.

Names are imported when they are first used, because pytest imports this package wherever EchoStream is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echostream.testing.factories import ClientFactory, ServerFactory
    from echostream.testing.host import SimHost
    from echostream.testing.link import Arrival, Link, LinkState
    from echostream.testing.loop import SimClock, SimDeadlockError, SimLoop, SimTimeLimitError
    from echostream.testing.memory import connect_in_memory
    from echostream.testing.network import SimNetwork
    from echostream.testing.relay import ImpairmentRelay, Passage
    from echostream.testing.trace import FrameRecord, PacketRecord

__all__ = (
    "Arrival",
    "ClientFactory",
    "FrameRecord",
    "ImpairmentRelay",
    "Link",
    "LinkState",
    "PacketRecord",
    "Passage",
    "ServerFactory",
    "SimClock",
    "SimDeadlockError",
    "SimHost",
    "SimLoop",
    "SimNetwork",
    "SimTimeLimitError",
    "connect_in_memory",
)

_MODULES = {
    "factories": ("ClientFactory", "ServerFactory"),
    "host": ("SimHost",),
    "link": ("Arrival", "Link", "LinkState"),
    "loop": ("SimClock", "SimDeadlockError", "SimLoop", "SimTimeLimitError"),
    "memory": ("connect_in_memory",),
    "network": ("SimNetwork",),
    "relay": ("ImpairmentRelay", "Passage"),
    "trace": ("FrameRecord", "PacketRecord"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'echostream.testing' has no attribute {name!r}")
    value = getattr(import_module(f"echostream.testing.{module}"), name)
    globals()[name] = value
    return value
