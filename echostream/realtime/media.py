"""Media time: samples counted from a beginning, and when each belongs on the session's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from echostream.errors import ConfigurationError

__all__ = ("MediaClock",)

_NS: Final = 1_000_000_000
_MAX_RATE_HZ: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class MediaClock:
    """Converts between samples and session time, without any rounding that adds up.

    Raises:
        ConfigurationError: the rate is not in 1 to 1,000,000 Hz.
    """

    rate_hz: int
    origin_ns: int
    """Session time of sample 0."""

    def __post_init__(self) -> None:
        if not 1 <= self.rate_hz <= _MAX_RATE_HZ:
            raise ConfigurationError("rate_hz", f"{self.rate_hz!r} must be in 1 to {_MAX_RATE_HZ}")

    def to_session_ns(self, sample: int) -> int:
        """Return the first nanosecond of a sample."""
        return self.origin_ns - (-sample * _NS // self.rate_hz)

    def to_sample(self, session_ns: int) -> int:
        """Return the sample that belongs to a time; below 0 before the origin."""
        return (session_ns - self.origin_ns) * self.rate_hz // _NS
