"""What server and client both need to put the parts together: transports by scheme, who this process is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from echostream.config import Limits
from echostream.errors import ConfigurationError
from echostream.transport.base import Transport
from echostream.types import random_bytes

__all__ = ("AGENT", "EPOCH", "VERSION", "make_transport")


def _version() -> str:
    try:
        return version("echostream")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"


VERSION: Final = _version()
"""Of this package."""

AGENT: Final = f"echostream-python/{VERSION}"
"""Implementation and version, in the Hello."""

EPOCH: Final = int.from_bytes(random_bytes(8), "big")
"""Start id of this process: another one tells the peer that it was restarted."""


def make_transport(
    scheme: str, engine: str, limits: Limits, *, early_data: bool = False, patience: float = 0.0
) -> Transport[Any, Any]:
    """Return the transport of a URL's scheme; imported when it is first needed.

    Args:
        scheme: ``"quic"``, ``"memory"`` or ``"pipe"``.
        engine: of QUIC.
        limits: watermarks.
        early_data: whether data may travel before a handshake is done, where there is one.
        patience: seconds that a client gives a handshake, where that is more than usual.

    Raises:
        ConfigurationError: there is none, or the engine does not exist.
    """
    if scheme == "quic":
        from echostream.transport.quic import QuicTransport

        return QuicTransport(engine=engine, limits=limits, early_data=early_data, patience=patience)
    if scheme in ("memory", "pipe"):
        from echostream.transport.memory import MemoryTransport, PipeTransport

        return (MemoryTransport if scheme == "memory" else PipeTransport)(limits=limits)
    raise ConfigurationError("url", f"unknown scheme {scheme!r}, expected quic:// or memory://")
