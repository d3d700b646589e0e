"""What a network does to packets, as arithmetic: delay, jitter, loss, reordering, duplication, corruption, queues.

Sans-IO and seeded. Every packet draws the same number of random values, so that the fate of packet n of a link depends
on the seed, the link and n alone, not on what other links carried.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, sqrt
from statistics import NormalDist

from echostream.errors import ConfigurationError
from echostream.types import seeded_random

__all__ = ("Arrival", "Link", "LinkState")

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""The probabilities that a `delay_table` has values for."""
_NORMAL = NormalDist()
_BURST_MEMORY = 1.0
"""Seconds: without it, one who sends ever more seldom would stay in one burst for minutes."""


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two hosts. Times in seconds, sizes in bytes, shares from 0 to 1."""

    delay: float = 0.0005
    """Least time on the way."""
    jitter: float = 0.0
    """Extra time, uniform from 0 to this."""
    delay_table: tuple[float, ...] = ()
    """Nine values at the quantiles 0, 1, 5, 25, 50, 75, 95, 99 and 100 % (interpolated in the logarithm), in place of
    `delay` and `jitter`: for delays that were measured."""
    correlation: float = 0.0
    """How much of a packet's place in the distribution comes from the packet before it (AR(1)); the distribution of
    all stays as it is."""
    loss: float = 0.0
    """Share of packets lost."""
    burst: float = 1.0
    """Mean number of packets lost in a row (Gilbert); 1 for independent losses. A row ends where a second passes
    without a packet: what is sent after that has its own luck."""
    reorder: float = 0.0
    """Share of packets that later ones may overtake; the others keep their order whatever the jitter."""
    duplicate: float = 0.0
    """Share of packets that arrive twice."""
    corrupt: float = 0.0
    """Share of packets in which one byte is changed."""
    bandwidth: float | None = None
    """Bytes per second, or None for no limit."""
    queue_bytes: int = 256 << 10
    """What waits for the bandwidth at the most; packets beyond are lost."""
    mtu: int = 65_535
    """Largest UDP payload that passes; larger ones are lost."""
    drop: tuple[int, ...] = ()
    """Numbers of the packets that are lost whatever `loss` says; the first packet has 1 (`LinkState.sent`)."""

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate", "corrupt", "correlation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigurationError(name, f"{getattr(self, name)} is out of range, expected 0 to 1")
        for name in ("delay", "jitter", "queue_bytes", "mtu"):
            if getattr(self, name) < 0:
                raise ConfigurationError(name, f"{getattr(self, name)} is negative")
        if self.burst < 1.0:
            raise ConfigurationError("burst", f"{self.burst} is out of range, expected 1 or more")
        if 1.0 < self.burst < 1 / (1 - min(self.loss, 0.999)):
            raise ConfigurationError("burst", f"{self.burst} is too short for a loss of {self.loss}")
        if self.bandwidth is not None and self.bandwidth <= 0:
            raise ConfigurationError("bandwidth", f"{self.bandwidth} must be above 0, or None for no limit")
        if self.delay_table and len(self.delay_table) != len(_QUANTILES):
            raise ConfigurationError("delay_table", f"has {len(self.delay_table)} values, expected {len(_QUANTILES)}")
        if self.delay_table and (min(self.delay_table) <= 0 or any(b < a for a, b in pairwise(self.delay_table))):
            raise ConfigurationError("delay_table", "must rise and be above 0")

    def with_(self, **changes: object) -> Link:
        """Return a copy with some values changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def at_quantile(self, share: float) -> float:
        """Return the time on the way that a share of packets stays below."""
        if not self.delay_table:
            return self.delay + self.jitter * share
        index = min(bisect(_QUANTILES, share), len(_QUANTILES) - 1)
        low, high = _QUANTILES[index - 1], _QUANTILES[index]
        part = (share - low) / (high - low)
        return exp(log(self.delay_table[index - 1]) * (1 - part) + log(self.delay_table[index]) * part)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One packet at the far end."""

    at: float
    """Seconds on the clock of `carry`'s `now`."""
    data: bytes


class LinkState:
    """A link in use.

    Attributes:
        sent, lost, duplicated, corrupted, overflowed: counts of packets; `overflowed` is part of `lost`.
    """

    def __init__(self, link: Link, seed: str) -> None:
        """Begin.

        Args:
            link: what it does; may be replaced at any time.
            seed: the same text gives the same fates.
        """
        self.link = link
        self.is_cut = False
        """Whether nothing passes (a partition)."""
        self.sent = 0
        self.lost = 0
        self.duplicated = 0
        self.corrupted = 0
        self.overflowed = 0
        self._random = seeded_random(seed)
        self._place = 0.0
        self._in_burst = False
        self._sent_at = 0.0
        self._free_at = 0.0
        self._last_at = 0.0

    def carry(self, data: bytes, now: float) -> list[Arrival]:
        """Send a packet; return when and how it arrives: not at all, once or twice."""
        link = self.link
        u_share, u_loss, u_order, u_twice, u_corrupt, u_place = (self._random.random() for _ in range(6))
        self.sent += 1
        share = self._correlate(u_share) if link.correlation else u_share
        leaves = self._leave(len(data), now)
        is_lost = self._is_lost(u_loss, now) or self.sent in link.drop
        if is_lost or self.is_cut or leaves is None or len(data) > link.mtu:
            self.lost += 1
            return []
        at = leaves + link.at_quantile(share)
        if u_order >= link.reorder:
            at = max(at, self._last_at)
            self._last_at = at
        if u_corrupt < link.corrupt and data:
            self.corrupted += 1
            data = _damage(data, u_place)
        arrivals = [Arrival(at, data)]
        if u_twice < link.duplicate:
            self.duplicated += 1
            arrivals.append(Arrival(at + link.at_quantile(u_place) / 2, data))
        return arrivals

    def refuse(self) -> None:
        """Count a packet that nobody had room for; it draws nothing."""
        self.sent += 1
        self.lost += 1
        self.overflowed += 1

    def _correlate(self, u: float) -> float:
        """Draw near the packet before: an AR(1) process in the normal distribution, read as a share."""
        rho = self.link.correlation
        drawn = _NORMAL.inv_cdf(min(max(u, 1e-12), 1 - 1e-12))
        self._place = rho * self._place + sqrt(1 - rho * rho) * drawn
        return _NORMAL.cdf(self._place)

    def _leave(self, size: int, now: float) -> float | None:
        """Return when the packet has left the queue; None when it found it full."""
        bandwidth = self.link.bandwidth
        if bandwidth is None:
            return now
        start = max(now, self._free_at)
        if (start - now) * bandwidth > self.link.queue_bytes:
            self.overflowed += 1
            return None
        self._free_at = start + size / bandwidth
        return self._free_at

    def _is_lost(self, u: float, now: float) -> bool:
        """Move the Gilbert chain: its mean share of losses is `loss`, its mean run `burst`."""
        loss, burst = self.link.loss, self.link.burst
        if burst <= 1.0 or loss in (0.0, 1.0):
            return u < loss
        leave = 1 / burst
        enter = min(1.0, leave * loss / (1 - loss))
        if now - self._sent_at > _BURST_MEMORY:
            self._in_burst = u < loss
        else:
            self._in_burst = u >= leave if self._in_burst else u < enter
        self._sent_at = now
        return self._in_burst


def _damage(data: bytes, u: float) -> bytes:
    """Change one byte."""
    place = min(int(u * len(data)), len(data) - 1)
    changed = bytearray(data)
    changed[place] ^= 0x55
    return bytes(changed)
