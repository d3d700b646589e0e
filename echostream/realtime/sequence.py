"""Sequence numbers: unwrapping to 64 bits, and the exact counts of what came twice, out of order, or never.

After RFC 3550, appendix A.1: a number far from the others is believed only when the next one follows it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ("MAX_STEP", "OVERTAKEN", "WINDOW", "Arrival", "SequenceTracker")

WINDOW: Final = 1024
"""How far back a number may be and still be told from one that came before."""

MAX_STEP: Final = 3000
"""How far ahead a number may be and count as loss; further is a jump (MAX_DROPOUT of RFC 3550)."""

OVERTAKEN: Final = 64
"""How many of the newest may be missing because others overtook them: networks reorder by less, as a rule."""


class Arrival(IntEnum):
    """What the sequence number of an item says about it."""

    NEW = 0
    """Ahead of all others so far."""
    REORDERED = 1
    """Later than its successors, and not seen before."""
    RESTARTED = 2
    """The second in a row after a jump: numbers go on from here, what lies between was not lost."""
    DUPLICATE = 3
    """Seen before."""
    STRAY = 4
    """Far from all others: to be dropped; two in a row are a restart."""


_RECENT: Final = (1 << OVERTAKEN) - 1


class SequenceTracker:
    """What arrived of one stream, by number.

    `arrived` gives each number an index: the number itself, unwrapped, so that it keeps rising where the number wraps.
    """

    __slots__ = (
        "_base", "_expected", "_first", "_half", "_mask", "_max_step", "_seen", "_seen_mask", "_sent", "_suspect",
        "_window", "duplicated", "highest", "received", "reordered", "restarts", "strays",
    )  # fmt: skip

    def __init__(
        self, *, bits: int = 32, first: int | None = None, window: int = WINDOW, max_step: int = MAX_STEP
    ) -> None:
        """Make one.

        Args:
            bits: width of the numbers on the wire.
            first: the number that the sender begins with, if known: what was lost before the first arrival counts too.
            window: how far back a number can be judged.
            max_step: how far ahead a number may be.
        """
        self._mask = (1 << bits) - 1
        self._half = 1 << (bits - 1)
        self._window = window
        self._seen_mask = (1 << window) - 1
        self._max_step = max_step
        self._first = first
        self.received = 0
        """Different numbers that came and were not strays."""
        self.duplicated = 0
        self.reordered = 0
        self.restarts = 0
        self.strays = 0
        self._sent: int | None = None
        self._expected = 0  # of the runs before the last restart
        self._suspect: int | None = None  # the number that would confirm a jump
        self._begin(None if first is None else first - 1)

    def _begin(self, highest: int | None) -> None:
        self.highest: int | None = highest
        """Index of the newest item, None before the first."""
        self._base = 0 if highest is None else highest + 1  # the first index that is expected
        self._seen = 0  # one bit for each of the last `window` indices, the newest lowest

    def __repr__(self) -> str:
        return f"<SequenceTracker at {self.highest}: {self.received} received, {self.lost} lost>"

    @property
    def expected(self) -> int:
        """How many items must have been sent, as far as the numbers tell, or as the sender told at the end."""
        return self._sent if self._sent is not None else self._expected + self._numbered

    @property
    def _numbered(self) -> int:
        """How many of this run must have been sent, as far as the numbers tell."""
        return 0 if self.highest is None else self.highest - self._base + 1

    @property
    def lost(self) -> int:
        """How many of them did not come, so far: one that is only late ceases to be lost when it comes."""
        return max(0, self.expected - self.received)

    @property
    def lost_for_good(self) -> int:
        """How many of them lie `OVERTAKEN` or more behind the newest, and do not come any more, as a rule.

        What the sender tells at the end does not count: the last items may still be on their way.
        """
        numbered = self._numbered
        recent = min(numbered, OVERTAKEN) - (self._seen & _RECENT).bit_count()
        return max(0, self._expected + numbered - self.received - recent)

    def ended(self, sent_count: int) -> None:
        """The sender says how many items it sent in all: now the loss at either end is known, too."""
        self._sent = sent_count

    def restart(self) -> None:
        """A new run begins with the next number, whatever it is; counts go on."""
        self._expected = self.expected
        self._sent = None
        self._suspect = None
        self._begin(None)

    def arrived(self, sequence: int) -> tuple[Arrival, int]:
        """Count an arrival.

        Args:
            sequence: as it came; more bits than the wire has are cut off.

        Returns:
            What it is, and its index. Indices differ as the numbers do; the first is the number itself, and one that
            was overtaken by the first wrap of all is negative.
        """
        sequence &= self._mask
        highest = self.highest
        if highest is None:
            self._base = self.highest = sequence
            self._seen = 1
            self.received += 1
            return Arrival.NEW, sequence
        step = ((sequence - highest + self._half) & self._mask) - self._half
        if 0 < step <= self._max_step:
            self.highest = highest + step
            self._seen = (self._seen << min(step, self._window) | 1) & self._seen_mask
            self.received += 1
            return Arrival.NEW, highest + step
        if -self._window < step <= 0:
            return self._arrived_behind(highest, step)
        return self._arrived_far(sequence, highest)

    def _arrived_behind(self, highest: int, step: int) -> tuple[Arrival, int]:
        bit = 1 << -step
        if self._seen & bit:
            self.duplicated += 1
            return Arrival.DUPLICATE, highest + step
        self._seen |= bit
        self._base = min(self._base, highest + step)
        self.received += 1
        self.reordered += 1
        return Arrival.REORDERED, highest + step

    def _arrived_far(self, sequence: int, highest: int) -> tuple[Arrival, int]:
        index = highest + ((sequence - highest) & self._mask)  # ahead: an index never comes back
        if sequence != self._suspect:
            self._suspect = (sequence + 1) & self._mask
            self.strays += 1
            return Arrival.STRAY, index
        self.restart()
        self._base = self.highest = index
        self._seen = 1
        self.received += 1
        self.restarts += 1
        return Arrival.RESTARTED, index
