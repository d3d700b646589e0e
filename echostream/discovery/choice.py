"""Which of several servers that fit is dialled first, and which next if it cannot be reached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from echostream.discovery.service import ServiceInfo
from echostream.errors import ConfigurationError
from echostream.types import random_bytes, random_source

__all__ = ("Choice", "Strategy", "strategy")

Strategy: TypeAlias = Callable[[Sequence[ServiceInfo]], Sequence[ServiceInfo]]
"""Puts servers in the order in which they are tried; those that it leaves out are not."""

Choice: TypeAlias = Literal["first", "random", "least-loaded", "sticky"] | Strategy
"""A strategy, or the name of one."""

_PROCESS_KEY: Final = random_bytes(16).hex()
"""Whom ``sticky`` sticks to a server: this process."""


def strategy(choice: Choice) -> Strategy:
    """Return the strategy that a choice stands for.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if callable(choice):
        return choice
    named = _STRATEGIES.get(choice)
    if named is None:
        raise ConfigurationError(
            "choose", f"{choice!r} is no strategy, expected {', '.join(map(repr, _STRATEGIES))} or a function"
        )
    return named


def first(servers: Sequence[ServiceInfo]) -> Sequence[ServiceInfo]:
    """As they answered."""
    return servers


def shuffled(servers: Sequence[ServiceInfo]) -> Sequence[ServiceInfo]:
    """In any order: spreads many clients over all servers."""
    return random_source.sample(list(servers), len(servers))


def least_loaded(servers: Sequence[ServiceInfo]) -> Sequence[ServiceInfo]:
    """The one with the fewest sessions first, as far as it was announced; any order among equals."""
    return sorted(shuffled(servers), key=lambda info: info.load)


def sticky(servers: Sequence[ServiceInfo]) -> Sequence[ServiceInfo]:
    """The same server for this process each time, while it is there; different processes are spread over all.

    Rendezvous hashing (Thaler and Ravishankar, 1998): when a server goes, only those that it had move.
    """
    return sorted(servers, key=lambda info: _weight(_PROCESS_KEY, info), reverse=True)


def _weight(key: str, info: ServiceInfo) -> bytes:
    # Where a server is outlives its restart, its instance name does not.
    place = f"{key} {info.name} {sorted(info.urls)}"
    return hashlib.blake2b(place.encode(), digest_size=8).digest()


_STRATEGIES: Final[dict[str, Strategy]] = {
    "first": first,
    "random": shuffled,
    "least-loaded": least_loaded,
    "sticky": sticky,
}
