"""The whole road in virtual time, made of the real classes: a sender, a network, and receivers in step.

The sender's clock is the session's. A receiver has a clock and a device that drift, probes the sender, puts what comes
into a `JitterBuffer` of the group's latency, and plays it by a `PlayoutController`. Only the sound is missing: what is
played is known by its time stamps alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import Delay, Path
from benches.realtime.outputs import SECOND, SessionClock
from echostream.realtime import DeviceClock, Gap, JitterBuffer, PlayoutController, PlayoutState, VirtualDevice

__all__ = ("Frames", "Listener", "Network", "play_together")

_RATE_HZ: Final = 48_000
_REPORT_NOISE_NS: Final = 150e3
_WRAP: Final = 1 << 32


class Frames(Protocol):
    """What a receiver is sent."""

    def arrived(self, now_ns: int, take: Callable[[int, int, int], None]) -> None:
        """Hand over what has arrived: sequence, time stamp, time of arrival."""


class Network:
    """Frames that leave each `frame_ns`, once they are full, and arrive later, in any order, or not at all.

    Args:
        random: of losses.
        delay: of each frame.
        frame_ns: how long a frame sounds.
        loss: share of frames that get lost.
        first: sequence number of the first frame.
    """

    def __init__(self, random: Random, delay: Delay, frame_ns: int, *, loss: float = 0.0, first: int = 0) -> None:
        self._random = random
        self._delay = delay
        self._frame_ns = frame_ns
        self._loss = loss
        self._first = first
        self._number = 0
        self._flying: list[tuple[int, int]] = []

    def arrived(self, now_ns: int, take: Callable[[int, int, int], None]) -> None:
        while (leaves_ns := (self._number + 1) * self._frame_ns) <= now_ns:
            delay_ns = round(self._delay(leaves_ns))
            if self._random.random() >= self._loss:
                heapq.heappush(self._flying, (leaves_ns + delay_ns, self._number))
            self._number += 1
        while self._flying and self._flying[0][0] <= now_ns:
            arrival_ns, number = heapq.heappop(self._flying)
            take((self._first + number) % _WRAP, number * self._frame_ns, arrival_ns)


class Listener:
    """A receiver.

    Args:
        seed: of everything that is its own.
        path: of its probes.
        frames: what it receives.
        frame_ns: how long a frame and a block of its device sound.
        latency_ns: of the group, from capture to ear.
        joins_ns: when it begins.
    """

    def __init__(
        self, seed: str, path: Path, frames: Frames, *, frame_ns: int, latency_ns: int, joins_ns: int = 0
    ) -> None:
        self._random = random = Random(seed)
        drift_ppm = random.choice((-1, 1)) * random.uniform(10, 40)
        self.clock = LocalClock(random, offset_ns=random.randrange(10**15), drift_ppm=drift_ppm)
        self.world = World(random, self.clock, *path.delays(random))
        self._frames = frames
        self.session = SessionClock()
        self._frame_ns = frame_ns
        self._latency_ns = latency_ns
        self.joins_ns = joins_ns
        self._block = frame_ns * _RATE_HZ // SECOND
        ahead_ns = 2 * frame_ns
        self.buffer = JitterBuffer(frame_ns, latency_ns=latency_ns, margin_ns=ahead_ns + frame_ns // 2, late_ns=0)
        self.device = VirtualDevice(
            _RATE_HZ,
            started_ns=random.randrange(SECOND // 10),
            drift_ppm=random.uniform(-60, 60),
            buffer_frames=ahead_ns * _RATE_HZ // SECOND,
        )
        self.reports = DeviceClock(_RATE_HZ)
        self.controller = PlayoutController(latency_ns)
        self._position = 0.0
        self._given_ns = 0
        self.error_ns = math.nan
        """How far ahead what is heard really is."""
        self.silent_ns = 0.0
        """What was concealed or missing, of what was played."""
        self.played_ns = 0.0
        self._now = -1
        self._local = 0
        self._moments = self.world.run(1 << 62, frame_ns // 2, self._on_sample)

    def step(self) -> int:
        """Go on by half a frame; return the true time."""
        now = next(self._moments)
        if self._now < self.joins_ns <= now:
            self.world.hurry()
        self._now, self._local = now, self.clock.read(now)
        is_locked = self.session.refresh(self._local)
        self._frames.arrived(now, self._take)
        if now >= self.joins_ns:
            if is_locked:
                self._pop(self.session.to_session_ns(self._local))
            while self.device.room(now) >= self._block:
                self._render(is_locked)
        return now

    def push_aside(self, ns: float) -> None:
        """Let it play something else than it should: a fault behind the controller's back."""
        self._position += ns

    def _on_sample(self, sample: Sample) -> None:
        if self.world.now >= self.joins_ns and self.session.add(sample):
            self.world.hurry()

    def _take(self, sequence: int, timestamp_ns: int, arrival_ns: int) -> None:
        if self.session.filter.locked:
            local_ns = self._local - round((self._now - arrival_ns) * (1 + self.clock.rate))
            self.buffer.push(sequence, timestamp_ns, self.session.to_session_ns(local_ns), b"")

    def _pop(self, session_ns: int) -> None:
        while (item := self.buffer.pop(session_ns)) is not None:
            self._given_ns = item.timestamp_ns + self._frame_ns
            if isinstance(item, Gap):
                self.silent_ns += self._frame_ns

    def _render(self, is_locked: bool) -> None:
        frame = self.device.next_frame(self._now)
        true_ns = self.device.heard_ns(frame)
        heard_ns = self._local + round((true_ns - self._now) * (1 + self.clock.rate))
        self.reports.add(heard_ns + round(self._random.gauss(0.0, _REPORT_NOISE_NS)), frame)
        is_locked = is_locked and self.reports.locked
        session_ns = self.session.to_session_ns(self.reports.local_ns(frame)) if is_locked else None
        bound_ns = self.session.filter.error_bound_ns
        step = self.controller.update(session_ns, round(self._position), bound_ns=bound_ns)
        self.device.write(self._block, self._now)
        if self.controller.state is not PlayoutState.PLAYING:
            return
        self._position += step.jump_ns
        self.error_ns = self._position - (true_ns - self._latency_ns)
        self._position += self._frame_ns * step.speed
        self.played_ns += self._frame_ns
        self.silent_ns += min(self._frame_ns, max(0.0, self._position - self._given_ns))


def play_together(listeners: list[Listener], seconds: float, look: Callable[[float], None]) -> None:
    """Let them play; `look` is called each second of true time."""
    next_look = SECOND
    now = 0
    while now < seconds * SECOND:
        for listener in listeners:
            now = listener.step()
        if now >= next_look:
            look(now / SECOND)
            next_look += SECOND
