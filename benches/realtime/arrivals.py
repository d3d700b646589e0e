"""When the items of a stream arrive: three networks, after the delays of packets that Roc's recordings have.

Their tails are such that a fixed delay loses what it loses of the recordings: 0.227 % at 23 ms and 0.107 % at 100 ms on
Wi-Fi, 0.213 % at 65 ms on bad Wi-Fi, 0.014 % at 15 ms on ethernet.

The body of the delays is correlated from one packet to the next. The tail (the slowest hundredth) is drawn in one of
two ways with the same distribution: `STALLS`, in which the network stops and then delivers what waited all at once, as
Wi-Fi does, or `APART`, in which each packet is slow by itself and overtakes.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

__all__ = ("APART", "FRAME_NS", "LEAST_NS", "NETWORKS", "STALLS", "TAILS", "Network", "Sent", "arrivals")

FRAME_NS: Final = 10_000_000
LEAST_NS: Final = 500_000
"""What every packet takes: the receiver does not know it."""
STALLS: Final = "stalls"
APART: Final = "apart"
TAILS: Final = (STALLS, APART)
_RHO: Final = 0.7
_BODY: Final = 0.99


@dataclass(frozen=True, slots=True)
class Network:
    """Delays above the least, in ms, and the share of the packets that stays below each."""

    name: str
    delays_ms: tuple[float, ...]
    shares: tuple[float, ...]

    def delay_ms(self, share: float) -> float:
        """Return the delay that this share of the packets stays below; its logarithm is linear between known ones."""
        above = min(bisect_right(self.shares, share), len(self.shares) - 1)
        low, high = self.shares[above - 1], self.shares[above]
        part = (share - low) / (high - low)
        return math.exp((1 - part) * math.log(self.delays_ms[above - 1]) + part * math.log(self.delays_ms[above]))


NETWORKS: Final = {
    network.name: network
    for network in (
        Network("ethernet", (0.3, 2.7, 6.5, 11.6, 14.0, 15.0, 20.0), (0.0, 0.5, 0.95, 0.99, 0.999, 0.99986, 1.0)),
        Network("Wi-Fi", (0.3, 2.7, 6.7, 11.3, 23.0, 100.0, 551.0), (0.0, 0.5, 0.95, 0.99, 0.99773, 0.99893, 1.0)),
        Network("bad Wi-Fi", (0.3, 3.8, 15.6, 41.0, 65.0, 119.0, 926.0), (0.0, 0.5, 0.95, 0.99, 0.99787, 0.999, 1.0)),
    )
}


@dataclass(frozen=True, slots=True, order=True)
class Sent:
    """A packet on its way: its timestamp is `index * FRAME_NS`."""

    arrival_ns: int
    index: int


def arrivals(
    network: Network, seed: int, count: int, *, scale: float = 1.0, tail: str = STALLS, loss: float = 0.0
) -> list[Sent]:
    """Return the packets that arrive of a stream, in the order of their arrival."""
    source = random.Random(f"{network.name} {seed} {tail}")
    delays = _stalled(network, source, count) if tail == STALLS else _apart(network, source, count)
    return sorted(
        Sent(index * FRAME_NS + LEAST_NS + round(delay_ms * scale * 1e6), index)
        for index, delay_ms in enumerate(delays)
        if source.random() >= loss
    )


def _correlated(source: random.Random, count: int) -> list[float]:
    """Return shares, each uniform between 0 and 1 and like the one before."""
    fresh = math.sqrt(1 - _RHO * _RHO)
    normals = accumulate(
        (source.gauss(0.0, 1.0) for _ in range(count)), lambda before, new: _RHO * before + fresh * new
    )
    return [0.5 * (1 + math.erf(normal / math.sqrt(2))) for normal in normals]


def _apart(network: Network, source: random.Random, count: int) -> list[float]:
    return [network.delay_ms(share) for share in _correlated(source, count)]


def _stalled(network: Network, source: random.Random, count: int) -> list[float]:
    """The body as it is; the tail by stalls, as many of each length as give the same distribution."""
    frame_ms = FRAME_NS / 1e6
    lengths, rates = _stalls(network, frame_ms)
    delays = [network.delay_ms(share * _BODY) for share in _correlated(source, count)]
    until_ms = -1.0  # when the network goes on
    for index, delay_ms in enumerate(delays):
        now_ms = index * frame_ms
        if source.random() < rates[0]:
            wanted = source.random() * rates[0]
            longest = next((each for each, rate in zip(lengths, rates, strict=True) if rate <= wanted), lengths[-1])
            until_ms = max(until_ms, now_ms + longest - source.random() * frame_ms)  # between two packets
        delays[index] = max(delay_ms, until_ms - now_ms)
    return delays


def _stalls(network: Network, frame_ms: float) -> tuple[list[float], list[float]]:
    """Return lengths of stalls, and how many of at least that length begin with a packet.

    A stall of length D delays D/frame packets by D, D - frame, ...: so many are above x as stalls are above x in all.
    """
    shares = [1 - 0.01 * 0.97**step for step in range(300)]
    lengths = [network.delay_ms(share) for share in shares] + [network.delays_ms[-1]]
    shares.append(1.0)
    rates = [
        min(1.0, frame_ms * (shares[at + 1] - shares[at]) / (lengths[at + 1] - lengths[at]))
        for at in range(len(lengths) - 1)
    ]
    return lengths, [*rates, 0.0]
