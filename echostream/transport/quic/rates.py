"""How often something may happen that strangers cause. Sans-IO."""

from __future__ import annotations

__all__ = ("RateLimit",)


class RateLimit:
    """A token bucket.

    Args:
        per_second: what comes back in a second.
        burst: what may happen at once.
    """

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, *, burst: float) -> None:
        self._per_second = per_second
        self._burst = self._left = burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Return whether it may happen now, and count it if so."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
