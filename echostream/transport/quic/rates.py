"""What strangers may cost: how often something happens, and how much one network has of it. Sans-IO."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict

from echostream.bucket import TokenBucket

__all__ = ("PerNetwork", "RatePerNetwork", "network_of")

_IPV6_CUSTOMER_BITS = 64
"""Of an IPv6 address: whoever has one has all that share these bits."""
_MAX_NETWORKS = 4096
"""That have a rate of their own, about 1 MB."""


class PerNetwork:
    """Counts things by the network that they belong to: an IPv4 address, or the /64 of an IPv6 address."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, network: int) -> int:
        return self._counts[network]

    def add(self, network: int) -> None:
        """Count one more."""
        self._counts[network] += 1

    def remove(self, network: int) -> None:
        """Count one less; what is at none is forgotten."""
        self._counts[network] -= 1
        if not self._counts[network]:
            del self._counts[network]


class RatePerNetwork:
    """A `TokenBucket` for each network; the one that was used longest ago is forgotten above a number of them."""

    def __init__(self, per_second: float, *, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._limits: OrderedDict[int, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._limits)

    def take(self, network: int, now: float) -> bool:
        """Return whether it may happen now, and count it."""
        limit = self._limits.get(network)
        if limit is None:
            limit = self._limits[network] = TokenBucket(self._per_second, burst=self._burst)
            if len(self._limits) > _MAX_NETWORKS:
                self._limits.popitem(last=False)
        self._limits.move_to_end(network)
        return limit.take(now)

    def give_back(self, network: int) -> None:
        """Count one less."""
        limit = self._limits.get(network)
        if limit is not None:
            limit.give_back()


def network_of(host: str) -> int:
    """Return the network of a host's address, as a key."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return (int(address) >> (128 - _IPV6_CUSTOMER_BITS)) + (1 << 32)  # none of IPv4's
        address = address.ipv4_mapped
    return int(address)
