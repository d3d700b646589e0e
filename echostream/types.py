"""Small shared vocabulary: roles, ids, time, randomness and the injection marker.

This is the only module that reads a clock or asks the operating system for randomness. Everything
above takes them from here (ruff bans them elsewhere), so that a simulator can put virtual ones in place.
"""

from __future__ import annotations

import enum
import os
import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, Literal

__all__ = (
    "INJECTED",
    "Clock",
    "Json",
    "Metadata",
    "Overflow",
    "Role",
    "SystemClock",
    "WireValue",
    "clock",
    "random_bytes",
    "random_source",
    "seeded_random",
    "shown_by",
    "simulated",
)

Metadata = dict[str, str | bytes]
"""Per-frame map of short values: keys are lower-case ASCII; a key that ends in ``-bin`` has a bytes value."""

WireValue = Any
"""What a payload holds: None, bool, int, float, str, bytes, datetime, lists and string-keyed dicts of these."""

Json = Any
"""A JSON document as Python objects."""

Overflow = Literal["block", "drop_oldest", "drop_newest", "disconnect"]
"""What a full queue of items does: its sender waits, the oldest goes, the new one goes, or the stream is ended."""

INJECTED: Any = type("Injected", (), {"__repr__": lambda self: "INJECTED", "__echostream_role__": "injected"})()
"""Default of a parameter that the framework fills in (``ctx: Context = INJECTED``); callers leave it out."""


class Role(enum.StrEnum):
    """Which side of a connection this program is."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Role:
        """The role of the peer."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class Clock:
    """The source of time: a monotonic clock that never goes back, and the calendar.

    Subclass it to run on virtual time.
    """

    def monotonic(self) -> float:
        """Return seconds on the monotonic clock (origin unspecified)."""
        raise NotImplementedError

    def monotonic_ns(self) -> int:
        """Return integer nanoseconds on the same monotonic clock."""
        raise NotImplementedError

    def wall(self) -> float:
        """Return seconds since the Unix epoch; for certificates and logs, never for durations."""
        raise NotImplementedError


class SystemClock(Clock):
    """The operating system's clocks."""

    # Staticmethods bound to the C functions: `loop.time()` is cached to 1 ms under uvloop.
    monotonic = staticmethod(time.monotonic)  # pyright: ignore[reportAssignmentType]
    monotonic_ns = staticmethod(time.monotonic_ns)  # pyright: ignore[reportAssignmentType]
    wall = staticmethod(time.time)  # pyright: ignore[reportAssignmentType]


clock: Final[Clock] = SystemClock()
"""The process-wide system clock."""

random_source: Final[random.Random] = random.Random()
"""Pseudo-random numbers for jitter and choice; never for secrets."""

_entropy: Callable[[int], bytes] = os.urandom


def random_bytes(count: int) -> bytes:
    """Return cryptographically strong random bytes: ids, nonces, keys."""
    return _entropy(count)


def seeded_random(seed: str | int) -> random.Random:
    """Return a generator of its own whose numbers follow from the seed; never for secrets."""
    return random.Random(seed)


@contextmanager
def shown_by(time_source: Clock) -> Generator[None, None, None]:
    """Let `clock` show the time of another one, as if it were another machine's; for simulators and demonstrations.

    `clock` keeps its identity, because everybody has it by name: its methods are shadowed. The timers of the event loop
    stay with the system's clock.
    """
    shadowed = ("monotonic", "monotonic_ns", "wall")
    for name in shadowed:
        setattr(clock, name, getattr(time_source, name))
    try:
        yield
    finally:
        for name in shadowed:
            delattr(clock, name)


@contextmanager
def simulated(time_source: Clock, seed: int) -> Generator[None, None, None]:
    """Replace time and randomness of this process by virtual ones; for the simulator only."""
    global _entropy  # noqa: PLW0603
    state, entropy = random_source.getstate(), _entropy
    generator = seeded_random(seed)
    random_source.seed(seed)
    _entropy = generator.randbytes
    try:
        with shown_by(time_source):
            yield
    finally:
        random_source.setstate(state)
        _entropy = entropy
