"""Groups of receivers that play one source in virtual time, by our clock and by those of others.

Each receiver has a clock that is set apart, drifts and wanders, a path of `delays` to the server, and a device with a
drift of its own whose reports are wrong by 150 us. All clocks of a receiver get the same probes and reports, and each
steers a `PlayoutController`: what differs is the clock alone. One that is never wrong shows what the reports alone do.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import combinations
from random import Random
from typing import Final

from benches.realtime.anchors import ANCHORS, Anchor
from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import Path
from benches.realtime.trials import OURS
from echostream.realtime import (
    ClockFilter,
    ClockMapping,
    DeviceClock,
    PlayoutController,
    PlayoutState,
    PlayoutStats,
    Verdict,
    VirtualDevice,
)

__all__ = ("DELAY_NS", "PERFECT", "RATE_HZ", "SECOND", "Receiver", "Run", "SessionClock", "run")

PERFECT: Final = "a perfect clock"
"""No anchor: nobody has one."""

SECOND: Final = 1_000_000_000
RATE_HZ: Final = 48_000
DELAY_NS: Final = 100_000_000
_BLOCK: Final = 960
_BLOCK_NS: Final = _BLOCK * SECOND / RATE_HZ
_BUFFER: Final = 4 * _BLOCK
_REPORT_NOISE_NS: Final = 150e3
_CPU_PPM: Final = (10.0, 40.0)
_DEVICE_PPM: Final = 60.0
_PLAYERS: Final = ("Snapcast", "Sendspin", "Sendspin each 10 s")
"""The anchors that play sound."""
_LOOK_EVERY: Final = 5
"""Blocks: each 100 ms."""


class SessionClock:
    """Our filter and mapping, as a session has them."""

    def __init__(self) -> None:
        self.filter = ClockFilter()
        self._mapping = ClockMapping()
        self._is_new = False

    def add(self, sample: Sample) -> bool:
        """Take a probe; tell whether to probe fast."""
        self._is_new = True
        return self.filter.add(sample.t1, sample.t2, sample.t3, sample.t4) is Verdict.STEPPED

    def refresh(self, local_ns: int) -> bool:
        """Take what is new; tell whether the clock may be read."""
        if self._is_new and self.filter.locked:
            self._is_new = False
            self._mapping.update(local_ns, self.filter.offset_ns(local_ns), self.filter.drift_ppm)
        return self.filter.locked

    def to_session_ns(self, local_ns: int) -> int:
        return self._mapping.to_session_ns(local_ns)


class Chain:
    """What one clock makes of it: a controller, and where it reads."""

    def __init__(self, to_session_ns: Callable[[int], int | None], bound_ns: Callable[[], float] = lambda: 0.0) -> None:
        self._to_session_ns = to_session_ns
        self._bound_ns = bound_ns
        self.controller = PlayoutController(DELAY_NS)
        self._position = 0.0
        self.error_ns = self.speed_ppm = self.first_error_ns = math.nan
        """How far ahead what is heard really is."""

    def render(self, local_ns: int | None, true_ns: int) -> None:
        """Render a block of which is said that it is heard at a local time; None while the clock is not locked."""
        session_ns = None if local_ns is None else self._to_session_ns(local_ns)
        is_playing = self.controller.state is PlayoutState.PLAYING
        bound_ns = 0.0 if is_playing else self._bound_ns()
        step = self.controller.update(session_ns, round(self._position), bound_ns=bound_ns)
        if self.controller.state is not PlayoutState.PLAYING:
            return
        self._position += step.jump_ns
        self.error_ns = self._position - (true_ns - DELAY_NS)
        self.speed_ppm = (step.speed - 1) * 1e6
        if math.isnan(self.first_error_ns):
            self.first_error_ns = self.error_ns
        self._position += _BLOCK_NS * step.speed


class Receiver:
    """One machine of the group: clocks, a device, and a chain for each clock."""

    def __init__(self, path: Path, seed: str, *, anchors: bool) -> None:
        self._random = random = Random(seed)
        drift_ppm = random.choice((-1, 1)) * random.uniform(*_CPU_PPM)
        self.device_ppm = random.uniform(-_DEVICE_PPM, _DEVICE_PPM)
        self._clock = LocalClock(random, offset_ns=random.randrange(10**15), drift_ppm=drift_ppm)
        self._world = World(random, self._clock, *path.delays(random))
        self._ours = SessionClock()
        self._anchors = {name: ANCHORS[name]() for name in _PLAYERS} if anchors else {}
        started_ns = random.randrange(SECOND // 10)
        self._device = VirtualDevice(RATE_HZ, started_ns=started_ns, drift_ppm=self.device_ppm, buffer_frames=_BUFFER)
        self._reports = DeviceClock(RATE_HZ)
        self.chains = {OURS: Chain(self._ours.to_session_ns, lambda: self._ours.filter.error_bound_ns)}
        for name, anchor in self._anchors.items():
            self.chains[name] = Chain(partial(_converted, anchor))
        if anchors:
            self.chains[PERFECT] = Chain(self._true_ns)
        self._now = self._local = 0
        self._moments = self._world.run(1 << 62, round(_BLOCK_NS), self._on_sample)

    def step(self) -> int:
        """Go on by a block; return the true time."""
        now = next(self._moments)
        local = self._clock.read(now)
        self._now, self._local = now, local
        ready = self._ours.refresh(local)
        device = self._device
        while device.room(now) >= _BLOCK:
            frame = device.next_frame(now)
            true_ns = device.heard_ns(frame)
            heard_ns = local + round((true_ns - now) * (1 + self._clock.rate))
            self._reports.add(heard_ns + round(self._random.gauss(0.0, _REPORT_NOISE_NS)), frame)
            said_ns = self._reports.local_ns(frame) if ready and self._reports.locked else None
            for chain in self.chains.values():
                chain.render(said_ns, true_ns)
            device.write(_BLOCK, now)
        return now

    def _true_ns(self, local_ns: int) -> int:
        return self._now + round((local_ns - self._local) / (1 + self._clock.rate))

    def _on_sample(self, sample: Sample) -> None:
        if self._ours.add(sample):
            self._world.hurry()
        for anchor in self._anchors.values():
            anchor.add(sample)


def _converted(anchor: Anchor, local_ns: int) -> int | None:
    """Return session time as an anchor has it; None before it has any."""
    offset_ns = anchor.offset_ns(local_ns)
    return local_ns + round(offset_ns) if offset_ns else None


@dataclass
class Run:
    """What was true in a run, looked at each 100 ms, by the name of the clock. What is not known yet is NaN."""

    count: int
    """Receivers."""
    seconds: array[float] = field(default_factory=lambda: array("d"))
    """When it was looked at."""
    errors: dict[str, array[float]] = field(default_factory=dict[str, "array[float]"])
    """How far ahead each receiver was, in microseconds: all of them at one time after another."""
    speeds: dict[str, array[float]] = field(default_factory=dict[str, "array[float]"])
    """By how many ppm each was faster than its device needs."""
    first: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """How far off the first sound of each was, in microseconds."""
    stats: dict[str, list[PlayoutStats]] = field(default_factory=dict[str, list[PlayoutStats]])
    """What the controllers say in the end."""

    def skews(self, name: str, begin: float, end: float = math.inf) -> list[float]:
        """Return how far apart each two receivers were in a time, in microseconds."""
        found: list[float] = []
        for at, seconds in enumerate(self.seconds):
            if begin < seconds <= end:
                errors = self.errors[name][at * self.count : (at + 1) * self.count]
                found += (abs(a - b) for a, b in combinations(errors, 2))
        return found


@lru_cache(maxsize=256)
def run(path: Path, seed: int, *, count: int = 4, seconds: int = 180, anchors: bool = True) -> Run:
    """Let receivers play together."""
    receivers = [Receiver(path, f"{path} {seed} {number}", anchors=anchors) for number in range(count)]
    result = Run(count)
    for name in receivers[0].chains:
        result.errors[name], result.speeds[name] = array("d"), array("d")
    for number in range(round(seconds * SECOND / _BLOCK_NS)):
        now = 0
        for receiver in receivers:
            now = receiver.step()
        if number % _LOOK_EVERY == 0:
            _look(result, receivers, now / SECOND)
    for name in result.errors:
        chains = [receiver.chains[name] for receiver in receivers]
        result.first[name] = [abs(chain.first_error_ns) / 1e3 for chain in chains]
        result.stats[name] = [chain.controller.stats() for chain in chains]
    return result


def _look(result: Run, receivers: list[Receiver], seconds: float) -> None:
    result.seconds.append(seconds)
    for receiver in receivers:
        needed_ppm = (1 / (1 + receiver.device_ppm * 1e-6) - 1) * 1e6
        for name, chain in receiver.chains.items():
            result.errors[name].append(chain.error_ns / 1e3)
            result.speeds[name].append(chain.speed_ppm - needed_ppm)
