"""The machines of a simulated network: names, addresses, ports, and clocks that are set apart and drift."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

from echostream.errors import ConfigurationError
from echostream.testing.loop import SimClock

__all__ = ("HostClock", "SimHost", "here")

_FIRST_EPHEMERAL_PORT: Final = 49_152
_MAX_DRIFT_PPM: Final = 100_000.0
"""A tenth: far beyond real clocks, and far from standing still."""

here: ContextVar[SimHost | None] = ContextVar("echostream_sim_host", default=None)
"""The machine that the running code is on."""


class SimHost:
    """One machine of the simulation. Use it as a block to run code there.

    Its clock is what `loop.time()` and everything above it show to code that runs on it. Where it is set apart, use
    what lives on a host inside a block of that host only.

    Attributes:
        name: its host name.
        wall_offset: seconds that its calendar is ahead; what certificates are judged by.
    """

    def __init__(self, name: str, number: int, clock: HostClock, *, rebound: Callable[[SimHost], None]) -> None:
        self.name = name
        self.wall_offset = 0.0
        self._clock = clock
        self._rebound = rebound
        self._number = number
        self._moves = 0
        self._next_port = _FIRST_EPHEMERAL_PORT
        self._tokens: list[Token[SimHost | None]] = []
        # The clock shows shown_ns at virtual time since_ns and runs at rate from there on.
        self._since_ns = 0
        self._shown_ns = 0.0
        self._rate = 1.0
        self._offset = 0.0

    def __repr__(self) -> str:
        return f"<SimHost {self.name} {self.address}>"

    def __enter__(self) -> Self:
        self._tokens.append(here.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ValueError):  # a scenario that was given up is collected elsewhere
            here.reset(self._tokens.pop())

    # Where it is

    @property
    def address(self) -> str:
        """Its IPv4 address now."""
        return self.address_of(socket.AF_INET)

    @property
    def address6(self) -> str:
        """Its IPv6 address now."""
        return self.address_of(socket.AF_INET6)

    def address_of(self, family: int) -> str:
        """Its address of a family now."""
        if family == socket.AF_INET:
            return f"10.{self._moves % 256}.0.{self._number}"
        return str(ipaddress.IPv6Address(f"fd00:{self._moves % 65_536:x}::{self._number:x}"))

    def move(self) -> None:
        """Get another address, as a phone does that leaves the Wi-Fi; what is sent to the old one is lost."""
        self._moves += 1

    def rebind(self) -> None:
        """Get other ports, as behind a NAT that forgot; what is sent to the old ones is lost."""
        self._rebound(self)

    def take_port(self) -> int:
        """Return a fresh port."""
        self._next_port += 1
        return self._next_port - 1

    # Its clock

    @property
    def offset(self) -> float:
        """Seconds that were added to its clock; a change is a step, as after a suspended virtual machine."""
        return self._offset

    @offset.setter
    def offset(self, seconds: float) -> None:
        self._rebase()
        self._shown_ns += (seconds - self._offset) * 1e9
        self._offset = seconds

    @property
    def drift_ppm(self) -> float:
        """How much faster its clock runs, in parts per million; at most a tenth (100,000)."""
        return (self._rate - 1) * 1e6

    @drift_ppm.setter
    def drift_ppm(self, ppm: float) -> None:
        if abs(ppm) > _MAX_DRIFT_PPM:
            raise ConfigurationError("drift_ppm", f"{ppm:g} is out of range, expected -100000 to 100000")
        self._rebase()
        self._rate = 1 + ppm * 1e-6

    def shown_ns(self, now_ns: float) -> float:
        """Return what its clock shows at a virtual time."""
        return self._shown_ns + (now_ns - self._since_ns) * self._rate

    def when_ns(self, shown_ns: float) -> float:
        """Return the virtual time at which its clock shows a value."""
        return self._since_ns + (shown_ns - self._shown_ns) / self._rate

    def _rebase(self) -> None:
        now_ns = self._clock.now_ns
        self._shown_ns = self.shown_ns(now_ns)
        self._since_ns = now_ns


class HostClock(SimClock):
    """Virtual time as the running host's clock shows it."""

    def monotonic_ns(self) -> int:
        host = here.get()
        return self.now_ns if host is None else int(host.shown_ns(self.now_ns))

    def wall(self) -> float:
        host = here.get()
        return super().wall() + (0.0 if host is None else host.wall_offset)

    def when_ns(self, shown_ns: float) -> float:
        host = here.get()
        return shown_ns if host is None else host.when_ns(shown_ns)
