"""Which timestamps of a stream to believe.

A timestamp is believed when it rises with the sequence and is as far on as the sequence says, or no further than its
arrival allows: a sender that paused leaves a hole, but time has passed for it. Another one is replaced by what the
sequence says, and counted, unless three in a row agree among themselves: then the sender's timeline has moved.
"""

from __future__ import annotations

from typing import Final

__all__ = ("SLACK_NS", "Timeline")

SLACK_NS: Final = 100_000_000
"""By how much honest timestamps may differ from what the sequence says, or a claim from the one before."""

_LATEST_NS: Final = 60_000_000_000
"""No network holds a packet longer."""

_CLAIMS: Final = 3
"""How many timestamps in a row prove that a timeline has moved."""


class Timeline:
    """The timestamps of one stream, each judged by those before."""

    __slots__ = (
        "_claim_ns", "_claim_transit_ns", "_claims", "_frame_ns", "_index", "_timestamp_ns", "_transit_ns", "bad",
        "early_ns", "moved", "moves",
    )  # fmt: skip

    def __init__(self, frame_ns: int, *, early_ns: int = SLACK_NS) -> None:
        """Make one.

        Args:
            frame_ns: what the timestamps of two neighbours differ by.
            early_ns: how much earlier than usual an item may arrive behind a hole: a sender may run ahead of its time.
        """
        self._frame_ns = frame_ns
        self.early_ns = early_ns
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
        rises = ahead_ns > 0 if step > 0 else ahead_ns < 0
        if rises and (
            -SLACK_NS <= timestamp_ns - expected_ns <= SLACK_NS
            or -self.early_ns <= transit_ns - self._transit_ns <= _LATEST_NS
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
        agrees = timestamp_ns > self._claim_ns and abs(transit_ns - self._claim_transit_ns) <= SLACK_NS
        self._claims = self._claims + 1 if agrees else 1
        self._claim_ns, self._claim_transit_ns = timestamp_ns, transit_ns
        if self._claims < _CLAIMS:
            return False
        self._claims = 0
        return True
