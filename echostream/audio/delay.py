"""How long a cast delays its sound, and when that may grow: all receivers at once, and where nobody hears it.

Receivers play a stamp after a fixed latency. So the caster delays all of them alike by stamping what it sends later
than now; they need not be told.
"""

from __future__ import annotations

from echostream.audio.messages import PlayReport
from echostream.audio.settings import AUDIO_FRAME_NS, RAISE_PATIENCE

__all__ = ("GroupDelay",)


class GroupDelay:
    """Grows when packets come too late for a receiver, up to as much again as the latency.

    Args:
        latency_ns: that receivers play a stamp after.
    """

    def __init__(self, latency_ns: int) -> None:
        self._latency_ns = latency_ns
        self._wanted_ns = 0
        self._asked_ns: int | None = None
        self.more_ns = 0
        """By how much later than now sound is stamped: whole frames."""

    @property
    def latency_ns(self) -> int:
        """From sending to hearing."""
        return self._latency_ns + self.more_ns

    @property
    def is_wanted(self) -> bool:
        """Whether it has to grow."""
        return self._wanted_ns > self.more_ns

    def consider(self, before: PlayReport | None, report: PlayReport, now_ns: int) -> None:
        """Take a report: who has missed packets, and knows what would do, asks for more."""
        missed = report.late - (0 if before is None else before.late)
        lacking_ns = min(report.wanted_ns, 2 * self._latency_ns) - self._latency_ns
        if missed <= 0 or lacking_ns <= 0:
            return
        frames = -(-(self.more_ns + lacking_ns) // AUDIO_FRAME_NS)
        self._wanted_ns = max(self._wanted_ns, min(frames * AUDIO_FRAME_NS, self._latency_ns))
        if self.is_wanted and self._asked_ns is None:
            self._asked_ns = now_ns

    def is_overdue(self, now_ns: int) -> bool:
        """Whether it cannot wait any longer for a silence."""
        return self.is_wanted and self._asked_ns is not None and now_ns - self._asked_ns > RAISE_PATIENCE * 1e9

    def grow(self) -> None:
        """Do it, now that there is silence."""
        self.more_ns = self._wanted_ns
        self._asked_ns = None
