"""An event loop on virtual time: it never waits, it jumps to the next thing that is due.

A backoff of thirty seconds takes as long as its code. Nothing outside the loop can wake it: what runs in threads runs
in place, sockets do not exist (`SimNetwork` brings its own), and a program in which everybody waits for nothing is
told so instead of hanging.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

from echostream.types import Clock

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ("SimClock", "SimDeadlockError", "SimLoop")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SimSurroundings(Protocol):
    """What a simulated loop brings along for the layers below (found there by name)."""

    @property
    def udp_network(self) -> Any:
        """The network in place of the system's sockets."""

    def observe_frame(self, frame: Any, codec: Any) -> None:
        """Called for every frame that arrives."""


class SimDeadlockError(RuntimeError):
    """Every task waits, and nothing is scheduled that could wake one."""


class SimClock(Clock):
    """The clock of a simulation; the loop moves it."""

    def __init__(self, *, wall: float) -> None:
        """Start at zero.

        Args:
            wall: calendar time at the start, in Unix seconds.
        """
        self.now_ns = 0
        self._wall = wall

    def monotonic(self) -> float:
        """Return virtual seconds since the start."""
        return self.now_ns / 1e9

    def monotonic_ns(self) -> int:
        """Return virtual nanoseconds since the start."""
        return self.now_ns

    def wall(self) -> float:
        """Return the calendar time that goes with it."""
        return self._wall + self.now_ns / 1e9


class _Jump(selectors.BaseSelector):
    """A selector that watches nothing: waiting moves the clock."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise SimDeadlockError("every task waits and nothing is scheduled: the simulation would wait for ever")
        if timeout > 0:
            # Up, so that what is due at this very moment is due.
            self._clock.now_ns += max(1, int(timeout * 1e9 + 0.5))
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        raise NotImplementedError("a simulation has no files and sockets of the system")

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return {}

    def close(self) -> None:
        """Nothing to close."""


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio loop whose time is a `SimClock`.

    Attributes:
        clock: its clock.
        surroundings: the network and the observer that it brings along, or None.
    """

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self.clock = clock
        self.surroundings: SimSurroundings | None = None
        self._selector = _Jump(clock)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return virtual seconds."""
        return self.clock.now_ns / 1e9

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run in place, so that the order of things does not depend on threads."""
        del executor
        done: asyncio.Future[T] = self.create_future()
        try:
            result = contextvars.copy_context().run(func, *args)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits
            done.set_exception(error)
        else:
            done.set_result(result)
        return done

    async def getaddrinfo(self, host: Any, port: Any, **_options: Any) -> list[Any]:
        """Ask the simulated network, which knows its hosts."""
        if self.surroundings is None:
            raise OSError(f"no network in this simulation: {host!r} cannot be resolved")
        found: list[Any] = self.surroundings.udp_network.resolve(str(host), int(port or 0))
        return found

    # What BaseEventLoop leaves to its subclasses

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from the selector."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""
