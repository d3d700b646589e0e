"""Playout: which sample has to be heard now, and how much faster or slower the source is read to stay there.

Every receiver of a group aims at the same position, a function of session time alone; so they keep step with each other
because each keeps step with the clock. Small errors are taken away by playing a little faster or slower, which nobody
hears; large ones by one jump. The controller knows neither samples nor devices: positions are media stamps.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

from echostream.errors import ConfigurationError

__all__ = ("PlayoutController", "PlayoutSettings", "PlayoutState", "PlayoutStats", "PlayoutStep")

_FARTHEST_NS: Final = 1 << 62
"""Stamps beyond it (146 years) come from no clock; a comparison with it refuses NaN too."""
_NS: Final = 1e9
_PPM: Final = 1e6


class PlayoutState(enum.Enum):
    """What the controller does."""

    WAITING = "waiting"
    """For the clock: silence is played until it has locked."""
    PLAYING = "playing"
    """In step, or on the way there."""
    PAUSED = "paused"
    """Silence is played; what the drift is stays known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayoutSettings:
    """How a position error is taken away. The defaults are those of the measured design."""

    acquire_seconds: float = 30.0
    """After an alignment the loop is fast for so long: it learns the drift of two clocks, which may be 100 ppm."""
    acquire_rate: float = 0.35
    """Natural frequency of the fast loop, rad/s: a drift of 100 ppm is then never more than 105 us of error."""
    hold_rate: float = 0.1
    """Natural frequency that it sinks to, rad/s: little noise of clock and device passes, and drifts are slow."""
    max_ppm: float = 500.0
    """Most that the speed may differ from 1: 0.05 %, a hundredth of a semitone, which nobody hears."""
    max_slew_ppm: float = 50.0
    """Most that the speed may change in a second, once the fast loop is over."""
    resync_ns: int = 5_000_000
    """Position error that is jumped over: the resampler would need 10 s for it at its limit, and ears hear 5 ms."""
    resync_count: int = 3
    """Errors above that in a row before the jump: one wild report of a device moves nothing."""
    crossfade_ns: int = 5_000_000
    """Over how long the seam of a jump is to be hidden."""
    start_bound_ns: int = 900_000
    """How wrong the clock may be where playing starts: what starts further off is heard to slide into its place."""
    start_patience_ns: int = 800_000_000
    """For a better clock than it is by then nobody waits: three more bursts of probes have found quick ones by then."""

    def __post_init__(self) -> None:
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigurationError(name, f"{value!r} must be in {low:g} to {high:g}")


_BOUNDS: Final = (
    ("acquire_seconds", 0.1, 3600.0),
    ("acquire_rate", 0.001, 5.0),
    ("hold_rate", 0.001, 5.0),
    ("max_ppm", 1.0, 20_000.0),
    ("max_slew_ppm", 0.1, 20_000.0),
    ("resync_ns", 100_000, 10_000_000_000),
    ("resync_count", 1, 1000),
    ("crossfade_ns", 0, 1_000_000_000),
    ("start_bound_ns", 0, 10_000_000_000),
    ("start_patience_ns", 0, 60_000_000_000),
)
_MAX_DELAY_NS: Final = 60_000_000_000
_MAX_DEVICE_LATENCY_NS: Final = 5_000_000_000
_DELAY_SLEW_PPM: Final = 200
"""How fast a group's delay moves: less than half of `max_ppm`, so that drifts are still followed meanwhile."""
_LONGEST_STEP_NS: Final = 1_000_000_000
"""Between two updates; nothing is learnt from a longer one: the device was stopped, or the machine asleep."""


@dataclass(frozen=True, slots=True)
class PlayoutStep:
    """What to do with the next block."""

    speed: float
    """Source frames to read for each frame of the device: 1 +- `max_ppm`. Resamplers call 1 / speed their ratio."""
    jump_ns: int = 0
    """Move the read position by so much first: forward (skip) above 0, back (repeat, or silence) below 0."""
    crossfade_ns: int = 0
    """Hide the seam of the jump over so long."""


_AS_IT_IS: Final = PlayoutStep(1.0)


@dataclass(frozen=True, slots=True)
class PlayoutStats:
    """The state of a controller."""

    state: PlayoutState
    error_ns: float
    """Position heard minus position wanted, at the last update: above 0 this receiver is ahead."""
    speed_ppm: float
    """By how much the source is read faster now."""
    drift_ppm: float
    """What the loop has learnt: how much slower the device plays than the session's clock runs."""
    resync_count: int
    """Jumps after the first alignment, without those that were asked for (pause, seek)."""
    ignored_count: int
    """Updates that made no sense: time that went back, stamps of no clock."""


class PlayoutController:
    """Keeps the position of one output at its target.

    Before each block call `update` with the session time at which the block's first frame will be heard and the stamp
    of the source frame that would be read for it; do the jump, if there is one, then read on at `speed`. The state is a
    dozen numbers.

    Args:
        delay_ns: of the whole group, capture stamp to ear, 0 to 60 s. The target is ``session time - delay_ns``.
        device_latency_ns: what this device delays beyond what it reports, -5 to 5 s; it then reads so much earlier.
        settings: of the loop.

    Raises:
        ConfigurationError: something is out of its range.
    """

    __slots__ = (
        "_aligned_ns", "_delay_from_ns", "_delay_ns", "_delay_old_ns", "_device_latency_ns", "_error_ns", "_far_count",
        "_first_ns", "_ignored_count", "_integral_ppm", "_last_ns", "_resync_count", "_settings", "_speed_ppm",
        "_state",
    )  # fmt: skip

    def __init__(
        self, delay_ns: int, *, device_latency_ns: int = 0, settings: PlayoutSettings = PlayoutSettings()
    ) -> None:
        self._settings = settings
        self._delay_ns = self._delay_old_ns = _checked_ns("delay_ns", delay_ns, 0, _MAX_DELAY_NS)
        self._delay_from_ns = 0
        self._device_latency_ns = _checked_latency(device_latency_ns)
        self._state = PlayoutState.WAITING
        self._aligned_ns = 0
        self._last_ns = 0
        self._error_ns = 0.0
        self._integral_ppm = 0.0
        self._speed_ppm = 0.0
        self._far_count = 0
        self._resync_count = 0
        self._ignored_count = 0
        self._first_ns: int | None = None

    def __repr__(self) -> str:
        return f"<PlayoutController {self._state.value} {self._error_ns / 1e3:+.0f} us {self._speed_ppm:+.1f} ppm>"

    @property
    def state(self) -> PlayoutState:
        """What it does."""
        return self._state

    @property
    def device_latency_ns(self) -> int:
        """What this device delays beyond what it reports. Another value counts from the next update on, by a jump."""
        return self._device_latency_ns

    @device_latency_ns.setter
    def device_latency_ns(self, value: int) -> None:
        self._device_latency_ns = _checked_latency(value)
        self.restart()

    def delay_ns(self, session_ns: int) -> int:
        """Return the group's delay at a time: on its way from the old to the new one after `move_delay`."""
        gone = session_ns - self._delay_from_ns
        if gone <= 0:
            return self._delay_old_ns
        most = gone * _DELAY_SLEW_PPM // 1_000_000
        return self._delay_old_ns + max(-most, min(most, self._delay_ns - self._delay_old_ns))

    def move_delay(self, delay_ns: int, from_ns: int) -> None:
        """Move the group's delay from session time `from_ns` on, 200 us in a second: all receivers move alike.

        Who hears of it late is where the others are, by a jump if need be.

        Raises:
            ConfigurationError: it is not in 0 to 60 s, or the time is of no clock.
        """
        _checked_ns("delay_ns", delay_ns, 0, _MAX_DELAY_NS)
        _checked_ns("from_ns", from_ns, -_FARTHEST_NS, _FARTHEST_NS)
        self._delay_old_ns, self._delay_ns, self._delay_from_ns = self.delay_ns(from_ns), delay_ns, from_ns

    def target_ns(self, session_ns: int) -> int:
        """Return the stamp that has to be heard, by the device's report, at a session time; it never goes back."""
        return session_ns - self.delay_ns(session_ns) + self._device_latency_ns

    def update(self, session_ns: int | None, position_ns: int, *, bound_ns: float = 0.0) -> PlayoutStep:
        """Take a measurement and tell how to read the next block.

        Args:
            session_ns: session time at which the block's first frame is heard; None while the clock is not locked.
            position_ns: stamp of the source frame that is next to be read.
            bound_ns: how wrong session time can be; the first sound comes a moment later where that is much.

        Returns:
            The speed, and a jump where one is due: at the start, after `resume` and `restart`, and past the limit. It
            is exact, so that the first sound is where it has to be. Play silence while `state` is not PLAYING.
        """
        if session_ns is None or self._state is PlayoutState.PAUSED:
            return self._as_before()
        if not (-_FARTHEST_NS < session_ns < _FARTHEST_NS and -_FARTHEST_NS < position_ns < _FARTHEST_NS):
            self._ignored_count += 1
            return self._as_before()
        error_ns = position_ns - self.target_ns(session_ns)
        if self._state is PlayoutState.WAITING:
            return self._as_before() if self._may_wait(session_ns, bound_ns) else self._align(session_ns, error_ns)
        gone_ns = session_ns - self._last_ns
        self._last_ns, self._error_ns = session_ns, error_ns
        if abs(error_ns) > self._settings.resync_ns:
            return self._far(session_ns, error_ns)
        self._far_count = 0
        if gone_ns <= 0:
            self._ignored_count += 1
        elif gone_ns <= _LONGEST_STEP_NS:
            self._correct(session_ns, error_ns, gone_ns)
        return self._as_before()

    def pause(self) -> None:
        """Play silence from now on, while the group goes on."""
        self._state = PlayoutState.PAUSED

    def resume(self) -> None:
        """Play again, in step at once: the next update jumps to where the group is."""
        if self._state is PlayoutState.PAUSED:
            self._state = PlayoutState.WAITING

    def restart(self) -> None:
        """The source begins anew (a seek, another epoch, another device): the next update aligns; the drift is kept."""
        if self._state is PlayoutState.PLAYING:
            self._state = PlayoutState.WAITING

    def stats(self) -> PlayoutStats:
        """Return the state in numbers."""
        return PlayoutStats(
            state=self._state,
            error_ns=self._error_ns,
            speed_ppm=self._speed_ppm,
            drift_ppm=self._integral_ppm,
            resync_count=self._resync_count,
            ignored_count=self._ignored_count,
        )

    def _as_before(self) -> PlayoutStep:
        return PlayoutStep(1 + self._speed_ppm / _PPM) if self._state is PlayoutState.PLAYING else _AS_IT_IS

    def _may_wait(self, session_ns: int, bound_ns: float) -> bool:
        """Whether the clock is not good enough yet, and may soon be: only at first, not after every silence."""
        if self._first_ns is None:
            self._first_ns = session_ns
        if bound_ns <= self._settings.start_bound_ns:
            return False
        return 0 <= session_ns - self._first_ns < self._settings.start_patience_ns

    def _align(self, session_ns: int, error_ns: int) -> PlayoutStep:
        """Jump to the target; read on with the drift that is known."""
        self._state = PlayoutState.PLAYING
        self._aligned_ns = self._last_ns = session_ns
        self._error_ns = 0.0
        self._far_count = 0
        self._speed_ppm = self._integral_ppm
        return PlayoutStep(1 + self._speed_ppm / _PPM, -error_ns, self._settings.crossfade_ns)

    def _far(self, session_ns: int, error_ns: int) -> PlayoutStep:
        """Jump if it is no single report; meanwhile go on as before."""
        self._far_count += 1
        if self._far_count < self._settings.resync_count:
            return self._as_before()
        self._resync_count += 1
        return self._align(session_ns, error_ns)

    def _correct(self, session_ns: int, error_ns: int, gone_ns: int) -> None:
        """Let the loop take one step: proportional and integral, damped critically, without wind-up."""
        settings = self._settings
        seconds = gone_ns / _NS
        age = (session_ns - self._aligned_ns) / _NS
        acquiring = age < settings.acquire_seconds
        rate = settings.acquire_rate
        if not acquiring:
            rate = max(settings.hold_rate, rate * settings.acquire_seconds / age)
        error_ppm = error_ns * (_PPM / _NS)  # of a second
        learnt = self._integral_ppm - rate * rate * error_ppm * seconds
        moved = self.delay_ns(session_ns - gone_ns) - self.delay_ns(session_ns)
        wanted = learnt - 2 * rate * error_ppm + moved / gone_ns * _PPM
        allowed = max(-settings.max_ppm, min(settings.max_ppm, wanted))
        if not acquiring:
            most = settings.max_slew_ppm * seconds
            allowed = max(self._speed_ppm - most, min(self._speed_ppm + most, allowed))
        if (wanted - allowed) * (learnt - self._integral_ppm) <= 0:
            self._integral_ppm = max(-settings.max_ppm, min(settings.max_ppm, learnt))
        self._speed_ppm = allowed


def _checked_latency(value: int) -> int:
    return _checked_ns("device_latency_ns", value, -_MAX_DEVICE_LATENCY_NS, _MAX_DEVICE_LATENCY_NS)


def _checked_ns(field: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise ConfigurationError(field, f"{value!r} must be in {low} to {high} ns")
    return value
