"""An event loop on virtual time: it never waits, it jumps to the next thing that is due.

A backoff of thirty seconds takes as long as its code. Nothing outside the loop can wake it: what runs in threads runs
in place, sockets do not exist (`SimNetwork` brings its own), and a program in which everybody waits for nothing is
told so instead of hanging.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import selectors
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

from echostream.types import Clock

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ("SimClock", "SimDeadlockError", "SimLoop", "SimTimeLimitError", "describe_tasks")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MAX_TURNS_AT_ONE_MOMENT = 1_000_000
"""Turns of the loop without time going on: a scenario has a few thousand; what spins for ever is stopped here."""
_NO_SOCKETS = "a simulation has no sockets of the system: put something in their place, or use ImpairmentRelay"
_LIMIT_SLACK = 0.001
"""Seconds over the limit that are no matter: turns take time."""
_TIMERS_OF_TASKS = ("_set_result_unless_cancelled(", "Timeout._on_timeout(", "_release_waiter(")
"""What `sleep`, `timeout`, and `wait` or `wait_for` set."""
_MAX_TASKS_NAMED = 20
"""Tasks that an error lists."""


class SimSurroundings(Protocol):
    """What a simulated loop brings along for the layers below (found there by name)."""

    @property
    def udp_network(self) -> Any:
        """The network in place of the system's sockets."""

    def observe_frame(self, frame: Any, codec: Any) -> None:
        """Called for every frame that arrives."""


class SimDeadlockError(RuntimeError):
    """Every task waits, and nothing is scheduled that could wake one; the text lists them."""


class SimTimeLimitError(RuntimeError):
    """The scenario goes on after its limit of virtual time, or spins without time going on."""


class SimClock(Clock):
    """The clock of a simulation; the loop moves it."""

    def __init__(self, *, wall: float) -> None:
        """Start at zero.

        Args:
            wall: calendar time at the start, in Unix seconds.
        """
        self.now_ns = 0
        """Virtual nanoseconds since the start, whatever the clock of a host shows."""
        self._start = wall

    def monotonic(self) -> float:
        """Return virtual seconds since the start."""
        return self.monotonic_ns() / 1e9

    def monotonic_ns(self) -> int:
        """Return virtual nanoseconds since the start."""
        return self.now_ns

    def wall(self) -> float:
        """Return the calendar time that goes with it."""
        return self._start + self.now_ns / 1e9

    def when_ns(self, shown_ns: float) -> float:
        """Return the virtual nanoseconds at which `monotonic_ns` shows a value."""
        return shown_ns

    def advance(self, seconds: float) -> None:
        """Let time pass at once, as when a machine was asleep: what became due meanwhile runs late.

        Raises:
            ValueError: time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds} s")
        self.now_ns += int(seconds * 1e9)


class _Jump(selectors.BaseSelector):
    """A selector that watches nothing: waiting moves the clock."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        if timeout is None:
            raise SimDeadlockError(
                f"every task waits and nothing is scheduled: the simulation would wait for ever{describe_tasks(loop)}"
            )
        if timeout > 0:
            self._turns = 0
            loop.clock.now_ns += max(1, round(timeout * 1e9))
            if loop.limit is not None and loop.time() > loop.limit + _LIMIT_SLACK:
                raise SimTimeLimitError(
                    f"not over after {loop.limit:g} virtual seconds; raise limit= if it may take longer"
                    f"{describe_tasks(loop)}"
                )
            return []
        # A turn takes a nanosecond: what waits for a time that is a rounding error away would turn for ever.
        loop.clock.now_ns += 1
        self._turns += 1
        if self._turns > _MAX_TURNS_AT_ONE_MOMENT:
            self._turns = 0
            raise SimTimeLimitError(
                f"{_MAX_TURNS_AT_ONE_MOMENT} turns of the loop without time going on: something spins, await"
                f" asyncio.sleep() with more than 0 seconds there{describe_tasks(loop)}"
            )
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
    """An asyncio loop whose time is a `SimClock`, as the clock of the running host shows it.

    Attributes:
        clock: its clock.
        limit: the virtual second at which it stops with `SimTimeLimitError`, or None.
        surroundings: the network and the observer that it brings along, or None.
    """

    def __init__(self, clock: SimClock) -> None:
        super().__init__()
        self.clock = clock
        self.limit: float | None = None
        self.surroundings: SimSurroundings | None = None
        self._selector = _Jump(self)
        self._clock_resolution = 0.5e-9  # timers are due at whole nanoseconds

    def time(self) -> float:
        """Return seconds on the clock of the running host."""
        return self.clock.monotonic_ns() / 1e9

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a time on the clock of the running host."""
        # Up: a timer never fires before its time.
        return self.call_at_ns(math.ceil(self.clock.when_ns(when * 1e9)), callback, *args, context=context)

    def call_at_ns(
        self, when_ns: int, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a virtual time, whatever the host's clock shows."""
        return super().call_at(when_ns / 1e9, callback, *args, context=context)

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

    def describe_timers(self) -> list[str]:
        """Return what waits to be called at its time, in words; without asyncio's own timers: those are of tasks."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        waiting = sorted((timer for timer in scheduled if not timer.cancelled()), key=asyncio.TimerHandle.when)
        texts = (
            repr(timer).removesuffix(">").split(" ", 2)[2] for timer in waiting
        )  # <TimerHandle when=1.5 f() at ...>
        return [text for text in texts if not text.startswith(_TIMERS_OF_TASKS)]

    async def getaddrinfo(self, host: Any, port: Any, **_options: Any) -> list[Any]:
        """Ask the simulated network, which knows its hosts."""
        if self.surroundings is None:
            raise OSError(f"no network in this simulation: {host!r} cannot be resolved")
        found: list[Any] = self.surroundings.udp_network.resolve(str(host), int(port or 0))
        return found

    async def create_connection(self, *_args: Any, **_options: Any) -> Any:
        """Refuse: see the text."""
        raise NotImplementedError(_NO_SOCKETS)

    async def create_server(self, *_args: Any, **_options: Any) -> Any:
        """Refuse: see the text."""
        raise NotImplementedError(_NO_SOCKETS)

    async def create_datagram_endpoint(self, *_args: Any, **_options: Any) -> Any:
        """Refuse: see the text."""
        raise NotImplementedError(_NO_SOCKETS)

    def __del__(self) -> None:
        """Do nothing, unlike other loops: it holds nothing of the system."""

    # What BaseEventLoop leaves to its subclasses

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from the selector."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


def describe_tasks(loop: asyncio.AbstractEventLoop, *, leave_out: asyncio.Task[Any] | None = None) -> str:
    """Return the tasks of a loop and where each waits, one on a line, each after a line break."""
    tasks = sorted(asyncio.all_tasks(loop) - {leave_out}, key=lambda task: (len(task.get_name()), task.get_name()))
    lines = [f"\n  {task.get_name()}: {' > '.join(_frames(task.get_coro()))}" for task in tasks[:_MAX_TASKS_NAMED]]
    if len(tasks) > _MAX_TASKS_NAMED:
        lines.append(f"\n  and {len(tasks) - _MAX_TASKS_NAMED} more")
    return "".join(lines)


def _frames(awaited: Any) -> Iterator[str]:
    """Yield the functions that a suspended coroutine is in, outermost first."""
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                code = frame.f_code
                yield f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
                break
        else:
            return
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
