"""The machines of a simulated network: names, addresses, ports, and clocks that are set apart and drift."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

from echostream.testing.loop import SimClock

__all__ = ("HostClock", "SimHost", "here")

_FIRST_EPHEMERAL_PORT: Final = 49_152

here: ContextVar[SimHost | None] = ContextVar("echostream_sim_host", default=None)
"""The machine that the running code is on."""


class SimHost:
    """One machine of the simulation. Use it as a block to run code there.

    Attributes:
        name: its host name.
        address: its IPv4 address; its IPv6 address has the same number.
        offset: seconds that its clock is ahead.
        drift_ppm: how much faster its clock runs, in parts per million.
    """

    def __init__(self, name: str, number: int, *, rebound: Callable[[SimHost], None]) -> None:
        self.name = name
        self.offset = 0.0
        self.drift_ppm = 0.0
        self._rebound = rebound
        self._number = number
        self._generation = 0
        self._next_port = _FIRST_EPHEMERAL_PORT
        self._tokens: list[Token[SimHost | None]] = []

    def __repr__(self) -> str:
        return f"<SimHost {self.name} {self.address}>"

    def __enter__(self) -> Self:
        self._tokens.append(here.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        here.reset(self._tokens.pop())

    @property
    def address(self) -> str:
        """Its IPv4 address now."""
        return f"10.{self._generation}.0.{self._number}"

    def address_of(self, family: int) -> str:
        """Its address of a family now."""
        return self.address if family == socket.AF_INET else f"fd00:{self._generation:x}::{self._number:x}"

    def move(self) -> None:
        """Get another address, as a phone does that leaves the Wi-Fi; what is sent to the old one is lost."""
        self._generation += 1

    def rebind(self) -> None:
        """Get other ports, as behind a NAT that forgot; what is sent to the old ones is lost."""
        self._rebound(self)

    def take_port(self) -> int:
        """Return a fresh port."""
        self._next_port += 1
        return self._next_port - 1


class HostClock(SimClock):
    """Virtual time as the running host's clock shows it."""

    def monotonic(self) -> float:
        return self.monotonic_ns() / 1e9

    def monotonic_ns(self) -> int:
        host = here.get()
        if host is None:
            return self.now_ns
        return int(self.now_ns * (1 + host.drift_ppm * 1e-6) + host.offset * 1e9)
