"""Chooses the QUIC implementation by name: ``"auto"``, ``"aioquic"`` or ``"qh3"``.

``"auto"`` is qh3 where the extra ``fast`` installed it, on either side: it does what aioquic does, two to three times
as fast (what differs is in `engine_qh3.py`). A server with a kind of key that qh3 lacks (Ed448) gets aioquic, and so
does everybody whose qh3 is of another version than the adapter was tested with.
"""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version

from echostream.config import QuicSettings
from echostream.errors import ConfigurationError
from echostream.transport.quic.engine import QuicEngines

__all__ = ("check_engine", "load_engines")

_ENGINES = ("auto", "aioquic", "qh3")
_QH3_VERSION = "2.1."
"""As in the extra ``fast``: the adapter touches private attributes."""


def check_engine(name: str) -> None:
    """Look whether an engine is there, without importing it.

    Raises:
        ConfigurationError: there is none of that name, or it is not installed; says how to.
    """
    if name not in _ENGINES:
        raise ConfigurationError("engine", f"{name!r} is unknown, choose auto, aioquic or qh3")
    if name == "qh3" and (wrong := _missing_qh3()):
        raise ConfigurationError("engine", f'{wrong}: pip install "echostream[fast]"')


def load_engines(name: str, settings: QuicSettings) -> QuicEngines:
    """Import an engine that `check_engine` let pass."""
    if name == "qh3" or (name == "auto" and not _missing_qh3()):
        from echostream.transport.quic.engine_qh3 import Qh3Engines

        return Qh3Engines(settings)
    from echostream.transport.quic.engine_aioquic import AioquicEngines

    return AioquicEngines(settings)


@functools.cache  # 0.3 ms that every client would pay
def _missing_qh3() -> str:
    """Say what is wrong with the qh3 of this machine; empty when nothing is."""
    try:
        found = version("qh3")
    except PackageNotFoundError:
        return "qh3 is not installed"
    return "" if found.startswith(_QH3_VERSION) else f"qh3 {found} is installed, {_QH3_VERSION}x is needed"
