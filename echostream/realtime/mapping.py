"""The published time: a mapping between local and session clock that is corrected gently and never goes back."""

from __future__ import annotations

from math import isfinite
from typing import Final

__all__ = ("ClockMapping",)

_CRAWL: Final = 1 / 16 - 1
"""Slew while a large error backwards is made up for: time goes on at a 16th of its speed."""
_MAX_DRIFT: Final = 0.1
"""No clock is further off: who says so would make time stand still, or go back."""


class ClockMapping:
    """Session time as a function of local time: a slewed straight line, and the one that it leads to.

    Each estimate that is handed in says where to go. An error below 1 ms is slewed away by at most 200 ppm, which
    nobody hears in what plays by this clock. A larger one is a jump, forwards. Backwards the mapping crawls until the
    truth has caught up, because session time never goes back: read at local times that do not fall, it does not fall.
    Times are integer nanoseconds.

    Args:
        max_slew_ppm: speed of a gentle correction.
        jump_ns: errors from here on are not slewed away.
    """

    __slots__ = (
        "_drift", "_is_set", "_jump_ns", "_knee_local", "_knee_session", "_max_slew", "_rate", "_start_local",
        "_start_session", "jump_count",
    )  # fmt: skip

    def __init__(self, *, max_slew_ppm: float = 200.0, jump_ns: int = 1_000_000) -> None:
        self._max_slew = max_slew_ppm * 1e-6
        self._jump_ns = jump_ns
        self.jump_count = 0
        """Errors that were too large to be slewed away; the first estimate is none."""
        self.reset()

    def reset(self) -> None:
        """Forget all, because another clock answers: the next estimate counts at once."""
        self._is_set = False
        self._draw(0, 0, 0.0, 0, 0.0)

    def update(self, local_ns: int, offset_ns: float, drift_ppm: float) -> bool:
        """Head for a new estimate from now on; one that is no finite number is ignored.

        Args:
            local_ns: now, on the local clock.
            offset_ns: session minus local clock, now.
            drift_ppm: how much faster the session's clock runs; 100,000 count where it is more.

        Returns:
            Whether the error was too large to be slewed away.
        """
        if not (isfinite(offset_ns) and isfinite(drift_ppm)):
            return False
        target = local_ns + round(offset_ns)
        drift = max(-_MAX_DRIFT, min(_MAX_DRIFT, drift_ppm * 1e-6))
        if not self._is_set:
            self._is_set = True
            self._draw(local_ns, target, 0.0, 0, drift)
            return False
        present = self.to_session_ns(local_ns)
        error = target - present
        if abs(error) < self._jump_ns:
            slew = self._max_slew if error > 0 else -self._max_slew
            self._draw(local_ns, present, drift + slew, round(error / slew), drift)
            return False
        self.jump_count += 1
        if error > 0 or local_ns < self._start_local:  # a local clock that went back takes session time with it
            self._draw(local_ns, target, 0.0, 0, drift)
        else:
            self._draw(local_ns, present, _CRAWL, round(error / (_CRAWL - drift)), drift)
        return True

    def to_session_ns(self, local_ns: int) -> int:
        """Convert a time of the local clock; one before the last estimate by what is known now."""
        if local_ns >= self._knee_local:
            passed = local_ns - self._knee_local
            return self._knee_session + passed + round(passed * self._drift)
        passed = local_ns - self._start_local
        return self._start_session + passed + round(passed * (self._rate if passed > 0 else self._drift))

    def to_local_ns(self, session_ns: int) -> int:
        """Convert a time of the session's clock: the inverse of `to_session_ns`, but for rounding."""
        if session_ns >= self._knee_session:
            passed, local_ns, rate = session_ns - self._knee_session, self._knee_local, self._drift
        else:
            passed, local_ns = session_ns - self._start_session, self._start_local
            rate = self._rate if passed > 0 else self._drift
        return local_ns + passed - round(passed * (rate / (1 + rate)))

    def _draw(self, local_ns: int, session_ns: int, rate: float, span_ns: int, drift: float) -> None:
        """Draw the lines: `rate` for a span from now on, `drift` after it and before."""
        self._start_local = local_ns
        self._start_session = session_ns
        self._rate = rate
        self._drift = drift
        self._knee_local = local_ns + span_ns
        self._knee_session = session_ns + span_ns + round(span_ns * rate)
