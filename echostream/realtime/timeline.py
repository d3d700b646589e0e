"""Which timestamps of a stream to believe.

A timestamp is believed when it agrees with the sequence or with the arrival: a sender that paused leaves a hole in the
timestamps, and a network that stalled delays arrivals, but nothing honest does both. Another timestamp is replaced by
what the sequence says and counted, unless three in a row agree among themselves: then the sender's timeline has moved.
"""

from __future__ import annotations

from typing import Final

__all__ = ("Timeline",)

SLACK_NS: Final = 100_000_000
"""By how much honest timestamps may differ from what the sequence or the arrival says."""

_CLAIMS: Final = 3
"""How many timestamps in a row prove that a timeline has moved."""


class Timeline:
    """The timestamps of one stream, each judged by those before."""

    __slots__ = (
        "_claim_ns", "_claim_transit_ns", "_claims", "_frame_ns", "_index", "_late_ns", "_slack_ns", "_timestamp_ns",
        "_transit_ns", "bad", "moved", "moves",
    )  # fmt: skip

    def __init__(self, frame_ns: int, *, late_ns: int, slack_ns: int = SLACK_NS) -> None:
        """Make one.

        Args:
            frame_ns: what the timestamps of two neighbours differ by.
            late_ns: how much later than usual an arrival may be.
            slack_ns: how much a timestamp may differ otherwise.
        """
        self._frame_ns = frame_ns
        self._late_ns = late_ns
        self._slack_ns = slack_ns
        self.bad = 0
        """Timestamps that were not believed."""
        self.moves = 0
        self.moved = False
        """Whether the last call found that the timeline has moved."""
        self.restart()

    def restart(self) -> None:
        """Believe the next timestamp, whatever it is."""
        self._index: int | None = None
        self._timestamp_ns = self._transit_ns = 0
        self._claims = self._claim_ns = self._claim_transit_ns = 0

    def believe(self, index: int, timestamp_ns: int, arrival_ns: int) -> int:
        """Return the timestamp of an item: the one it states, or the one that its sequence says instead."""
        self.moved = False
        transit_ns = arrival_ns - timestamp_ns
        if self._index is None:
            self._set(index, timestamp_ns, transit_ns)
            return timestamp_ns
        step = index - self._index
        ahead_ns = timestamp_ns - self._timestamp_ns
        expected_ns = self._timestamp_ns + step * self._frame_ns
        slack_ns = self._slack_ns
        if (
            (ahead_ns > 0) is (step > 0)
            and ahead_ns
            and (
                -slack_ns <= timestamp_ns - expected_ns <= slack_ns
                or -slack_ns <= transit_ns - self._transit_ns <= self._late_ns
            )
        ):
            if step > 0:
                self._set(index, timestamp_ns, transit_ns)
            self._claims = 0
            return timestamp_ns
        self.bad += 1
        if self._claimed(timestamp_ns, transit_ns):
            self.moved = True
            self.moves += 1
            self._set(index, timestamp_ns, transit_ns)
            return timestamp_ns
        if step > 0:
            self._set(index, expected_ns, self._transit_ns)
        return expected_ns

    def _set(self, index: int, timestamp_ns: int, transit_ns: int) -> None:
        self._index, self._timestamp_ns, self._transit_ns = index, timestamp_ns, transit_ns

    def _claimed(self, timestamp_ns: int, transit_ns: int) -> bool:
        """Whether enough claims in a row rise, and agree about how long ago they were stamped."""
        agrees = timestamp_ns > self._claim_ns and abs(transit_ns - self._claim_transit_ns) <= self._slack_ns
        self._claims = self._claims + 1 if agrees and self._claims else 1
        self._claim_ns, self._claim_transit_ns = timestamp_ns, transit_ns
        if self._claims < _CLAIMS:
            return False
        self._claims = 0
        return True
