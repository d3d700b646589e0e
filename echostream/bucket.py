"""The token bucket: how often something may happen, or how much may leave, in the long run and at once. Sans-IO."""

from __future__ import annotations

__all__ = ("TokenBucket",)


class TokenBucket:
    """Holds up to `burst` tokens and gains `per_second` of them a second; it begins full.

    Args:
        per_second: what comes back in a second.
        burst: what may happen at once.
        debt: how many of those that were refused count as well: under a flood nothing happens, not even at this rate.
    """

    __slots__ = ("_at", "_burst", "_debt", "_left", "_per_second")

    def __init__(self, per_second: float, *, burst: float, debt: float = 0.0) -> None:
        self._per_second = per_second
        self._burst = self._left = burst
        self._debt = debt
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take a token, at `now` in seconds; return whether there was one."""
        self._fill(now)
        if self._left < 1:
            self._left = max(-self._debt, self._left - 1) if self._debt else self._left
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Put a token back."""
        self._left = min(self._burst, self._left + 1)

    def wait(self, now: float, tokens: float = 1.0) -> float:
        """Return the seconds until so many tokens are there; of more than the bucket holds, until it is full."""
        self._fill(now)
        return max(0.0, min(tokens, self._burst) - self._left) / self._per_second

    def spend(self, tokens: float) -> None:
        """Take tokens, also ones that are not there yet: after `wait`, for what is larger than the bucket."""
        self._left -= tokens

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
