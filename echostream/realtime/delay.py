"""How long to hold items back: as short as the network allows, and no shorter than pays.

The target minimises delay plus what late items cost: `argmin d + cost * P(delay > d)`. The delays are those of the last
minutes above the least one of the last seconds, as NetEq counts them (WebRTC, delay_manager and underrun_optimizer).
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Final

__all__ = ("DelayHistogram", "DelayTarget")

BUCKET_NS: Final = 1_000_000
FORGET: Final = 0.9998
"""What is left of the weight of an item when the next one comes: the last 5,000 count."""
LATE_COST_NS: Final = 20_000_000_000
"""What losing everything would cost: 200 ms of delay are as bad as one item in a hundred that comes too late."""
SHRINK: Final = 0.001
"""How fast the delay shrinks, 1 ms in a second: nobody hears that. It grows at once."""
START_NS: Final = 20_000_000
"""The least target while little is known."""
PRIOR: Final = 2_500
"""So many items are taken to have come in time before the first, half of what is remembered: one stall at the beginning
must not set the delay for minutes."""

_START_COUNT: Final = 100
_REVIEW_COUNT: Final = 32  # the target is looked at again after so many items, and after each that was late
_SLOT_NS: Final = 100_000_000
_SLOTS: Final = 20  # the least delay is that of the last two seconds
_HEAVIEST: Final = 1e15


class DelayHistogram:
    """Delays of late, older ones counting less. Holds one number for each millisecond up to the longest delay."""

    __slots__ = ("_growth", "_last", "_prior", "_weight", "_weights", "count", "total")

    def __init__(self, max_ns: int, *, forget: float = FORGET) -> None:
        self._weights = array("d", bytes(8 * (max_ns // BUCKET_NS + 2)))
        self._last = len(self._weights) - 1  # longer delays count as this one
        # Weights grow instead of all others shrinking.
        self._growth = 1.0 / forget
        self._weight = 1.0
        self._prior = float(PRIOR)
        self.count = 0
        self.total = 0.0

    def add(self, delay_ns: int) -> None:
        """Count a delay of at least 0."""
        self.count += 1
        weight = self._weight = self._weight * self._growth
        bucket = delay_ns // BUCKET_NS
        self._weights[min(bucket, self._last)] += weight
        self.total += weight
        if weight > _HEAVIEST:
            self._weights = array("d", [each / weight for each in self._weights])
            self.total /= weight
            self._prior /= weight
            self._weight = 1.0

    def quantile_ns(self, share: float) -> int:
        """Return what this share of the delays stayed below, to the next ms; 0 when there are none."""
        below, wanted = 0.0, share * self.total
        for bucket, weight in enumerate(self._weights):
            below += weight
            if below >= wanted and below:
                return (bucket + 1) * BUCKET_NS
        return 0

    def cheapest_ns(self, late_cost_ns: int) -> int:
        """Return the delay that costs least when it is paid for itself and for all that are longer."""
        late = list(accumulate(reversed(self._weights)))  # late[i]: weight of the last i + 1 buckets
        scale = late_cost_ns / (self.total + self._prior)
        best_ns, least = 0, late[-1] * scale
        for bucket, tail in enumerate(reversed(late[:-1]), start=1):
            cost = bucket * BUCKET_NS + tail * scale
            if cost < least:
                best_ns, least = bucket * BUCKET_NS, cost
            elif bucket * BUCKET_NS > least:
                break
        return best_ns


class DelayTarget:
    """The adaptive delay of one stream: the least of late, plus a target that grows at once and shrinks slowly."""

    __slots__ = (
        "_arrival_ns", "_histogram", "_late_cost_ns", "_least", "_reviewed", "_slot", "base_ns", "delay_ns", "free",
        "max_ns", "min_ns", "relative_ns", "target_ns",
    )  # fmt: skip

    def __init__(
        self,
        *,
        min_ns: int,
        max_ns: int,
        start_ns: int = START_NS,
        late_cost_ns: int = LATE_COST_NS,
        forget: float = FORGET,
    ) -> None:
        self.min_ns = min_ns
        self.max_ns = max_ns
        self._late_cost_ns = late_cost_ns
        self._histogram = DelayHistogram(max_ns, forget=forget)
        self._reviewed = 0
        self.target_ns = min(max(start_ns, min_ns), max_ns)
        """How long to hold back an item that came as fast as any."""
        self.base_ns = 0
        self.relative_ns = 0
        """How much longer than the least the last item was under way."""
        self.delay_ns = 0
        """From timestamp to turn: base and target, less steeply down."""
        self.free = True
        """Nobody listens: the delay may move at once, both ways."""
        self._arrival_ns = 0
        self.restart()

    def restart(self) -> None:
        """Forget the least delay, as after a pause; keep what is known of delays above it."""
        self._least: list[int | None] = [None] * _SLOTS
        self._slot: int | None = None

    @property
    def count(self) -> int:
        """How many items it has seen."""
        return self._histogram.count

    def quantile_ns(self, share: float) -> int:
        """Return what this share of the delays above the least stayed below."""
        return self._histogram.quantile_ns(share)

    def add(self, transit_ns: int, arrival_ns: int) -> None:
        """Count an item: how long it was under way (arrival less timestamp, any constant apart), and when it came."""
        self._see_least(transit_ns, arrival_ns)
        self.relative_ns = relative_ns = transit_ns - self.base_ns
        self._histogram.add(relative_ns)
        if relative_ns > self.target_ns or self.count - self._reviewed >= _REVIEW_COUNT:
            self._review()
        wanted_ns = self.base_ns + self.target_ns
        if not self.free:
            shrunk_ns = self.delay_ns - int(SHRINK * max(0, arrival_ns - self._arrival_ns))
            wanted_ns = max(wanted_ns, min(shrunk_ns, self.base_ns + self.max_ns))
        self.delay_ns = wanted_ns
        self._arrival_ns = max(arrival_ns, self._arrival_ns)

    def _review(self) -> None:
        self._reviewed = self.count
        target_ns = self._histogram.cheapest_ns(self._late_cost_ns)
        if self.count < _START_COUNT:
            target_ns = max(target_ns, self.target_ns)
        self.target_ns = min(max(target_ns, self.min_ns), self.max_ns)

    def _see_least(self, transit_ns: int, arrival_ns: int) -> None:
        slot = arrival_ns // _SLOT_NS
        if self._slot is None:
            self._slot, self.base_ns = slot, transit_ns
        elif slot > self._slot:
            for passed in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
                self._least[passed % _SLOTS] = None
            self._slot = slot
            known = [least for least in self._least if least is not None]
            self.base_ns = min(known, default=transit_ns)
        here = self._slot % _SLOTS
        least = self._least[here]
        if least is None or transit_ns < least:
            self._least[here] = transit_ns
            self.base_ns = min(self.base_ns, transit_ns)
