"""When to probe the other side's clock: rarely as a heartbeat, in bursts while somebody reads the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ("ProbeCadence",)

_MS: Final = 1_000_000
_SLOWER: Final = 16
"""Bursts are a sixteenth of the time apart that they have been sent for."""


class ProbeCadence:
    """Says when the next TimeSync probe is due.

    Two gears. *Heartbeat*: one probe per interval. *Sync*: a burst of probes at once, a burst every 250 ms for 4 s,
    then slower as the rate of the clocks is better known, one every 2 s from half a minute on. The quickest probe of a
    burst met the shortest queue; their spacing is random, so that they do not keep step with other traffic.

    Give every probe that leaves to `sent()` and look at `next_ns` afterwards. Times are nanoseconds of any monotonic
    clock, always the same one. What was missed, because the machine was busy, is not made up for.

    Args:
        now_ns: when to begin; the first heartbeat is due one interval later.
        random: gives numbers from 0 to 1, such as `echostream.types.random_source.random`.
        heartbeat_ns: between probes of the heartbeat.
        burst_count: probes of a burst.
        spacing_ns: least and greatest time between probes of a burst.
        fast_ns: between the beginnings of bursts, at first.
        steady_ns: between the beginnings of bursts, in the end.
    """

    __slots__ = (
        "_begun_ns",
        "_burst_count",
        "_burst_ns",
        "_fast_ns",
        "_heartbeat_ns",
        "_left",
        "_random",
        "_spacing_ns",
        "_steady_ns",
        "is_syncing",
        "next_ns",
    )  # fmt: skip

    def __init__(
        self,
        now_ns: int,
        random: Callable[[], float],
        *,
        heartbeat_ns: int = 10_000 * _MS,
        burst_count: int = 8,
        spacing_ns: tuple[int, int] = (3 * _MS, 6 * _MS),
        fast_ns: int = 250 * _MS,
        steady_ns: int = 2_000 * _MS,
    ) -> None:
        self._random = random
        self._heartbeat_ns = heartbeat_ns
        self._burst_count = burst_count
        self._spacing_ns = spacing_ns
        self._fast_ns = fast_ns
        self._steady_ns = steady_ns
        self._left = 0
        self._begun_ns = self._burst_ns = now_ns
        self.is_syncing = False
        """Whether the gear is sync."""
        self.next_ns = now_ns + heartbeat_ns
        """When the next probe is due."""

    def sync(self, now_ns: int) -> None:
        """Somebody reads the clock: bursts from now on. Nothing changes where they are under way."""
        if not self.is_syncing:
            self.hurry(now_ns)

    def hurry(self, now_ns: int) -> None:
        """Begin with fast bursts again, now: after a step of a clock, a restart of the server, a change of the path."""
        self.is_syncing = True
        self._left = self._burst_count
        self._begun_ns = self._burst_ns = self.next_ns = now_ns

    def rest(self, now_ns: int) -> None:
        """Nobody reads the clock any more: heartbeat only."""
        if self.is_syncing:
            self.is_syncing = False
            self._left = 0
            self.next_ns = now_ns + self._heartbeat_ns

    def sent(self, now_ns: int) -> None:
        """A probe left now: choose when the next one is due."""
        if not self.is_syncing:
            self.next_ns = now_ns + self._heartbeat_ns
            return
        self._left -= 1
        if self._left > 0:
            least, greatest = self._spacing_ns
            self.next_ns = now_ns + least + int(self._random() * (greatest - least))
            return
        self._left = self._burst_count
        pause = min(max((now_ns - self._begun_ns) // _SLOWER, self._fast_ns), self._steady_ns)
        planned = self._burst_ns + pause
        self._burst_ns = self.next_ns = planned if planned > now_ns else now_ns + pause
