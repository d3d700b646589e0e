"""What is looked for, what was found, and the explanation when nothing was."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from echostream.discovery.service import ServiceInfo, check_text, safe_text
from echostream.errors import ConfigurationError, ServiceNotFoundError

__all__ = ("Found", "Query", "not_found_error")

_MAX_LISTED: Final = 10
"""Servers that an error lists."""

_NOTHING_SEEN: Final = (
    "nothing else was seen either: check that the server runs and calls enable_discovery() or is served with --name,"
    " that it is bound to 0.0.0.0 and not to 127.0.0.1 if it is on another machine, and that both are on one network"
    " with UDP port 5353 open (mDNS crosses no router, and guest networks, VPNs and containers often block it)"
)


@dataclass(frozen=True, slots=True)
class Query:
    """Which servers are wanted.

    Attributes:
        name: a service that it serves, or its own name; None for any.
        version: the whole version or its first parts; None for any.
        metadata: entries that it must have announced.
        where: any further condition.
    """

    name: str | None = None
    version: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    where: Callable[[ServiceInfo], bool] | None = None

    def __post_init__(self) -> None:
        """Check what was given, before anybody waits for it.

        Raises:
            ConfigurationError: the name is a class, or something is no text.
        """
        if self.name is not None and not isinstance(self.name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            shown = getattr(self.name, "__name__", repr(self.name))
            raise ConfigurationError("name", f'{shown} is no text: give the name that is announced, discover("orders")')
        if self.version is not None:
            check_text("version", self.version)
        for key, value in self.metadata.items():
            check_text("metadata", value, f"the value of {key!r}")

    def fits(self, info: ServiceInfo) -> bool:
        """Whether a server is wanted and can be dialled."""
        return self.misfit(info) is None

    def misfit(self, info: ServiceInfo) -> str | None:
        """Return in words why a server is not taken; None when it is."""
        if not info.matches(self.name):
            return "another service"
        if not info.matches(None, self.version):
            return f"version {info.version or 'unknown'} instead of {self.version}"
        for key, wanted in self.metadata.items():
            if info.metadata.get(key) != wanted:
                return f"{key}={info.metadata[key]} instead of {wanted}" if key in info.metadata else f"no {key}"
        if self.where is not None and not self.where(info):
            return "refused by where="
        return None if info.urls else "no usable address"


@dataclass(frozen=True, slots=True)
class Found:
    """What one way of looking brought to light."""

    servers: Sequence[ServiceInfo]
    """Those that fit."""
    seen: Sequence[ServiceInfo]
    """All."""
    where: str
    """Where was looked, in words."""


def not_found_error(query: Query, found: Iterable[Found], timeout: float) -> ServiceNotFoundError:
    """Build the error that says what was seen instead, why it was not taken, and how to do without discovery.

    Args:
        query: what was looked for.
        found: what each way of looking brought.
        timeout: seconds spent listening.
    """
    attempts = list(found)
    seen = {info.instance: info for attempt in attempts for info in attempt.seen}
    wanted = "no service" if query.name is None else f"no service {query.name!r}"
    where = ", ".join(attempt.where for attempt in attempts)
    return ServiceNotFoundError(
        f"{wanted} that fits answered within {timeout:g} s on {where}; {_instead(query, list(seen.values()))}; "
        f'or name an address: RpcClient.connect("quic://host:4433")',
        details={"seen": sorted({info.name for info in seen.values()})},
    )


def _instead(query: Query, seen: Sequence[ServiceInfo]) -> str:
    if not seen:
        return _NOTHING_SEEN
    same = [info for info in seen if info.matches(query.name)]
    if same:  # the reasons say more than the names
        lines = [f"{info.name!r} ({query.misfit(info)})" for info in same]
    else:
        lines = [repr(name) for name in sorted({info.name for info in seen})]
    shown = ", ".join(safe_text(line) for line in lines[:_MAX_LISTED])
    more = f" and {len(lines) - _MAX_LISTED} more" if len(lines) > _MAX_LISTED else ""
    return f"seen instead: {shown}{more}{_near(query.name, seen)}"


def _near(name: str | None, seen: Sequence[ServiceInfo]) -> str:
    known = {text for info in seen for text in (info.name, *info.services)}
    near = difflib.get_close_matches(name or "", sorted(known - {name}), 1)
    return f" (did you mean {safe_text(near[0])!r}?)" if near and name not in known else ""
