"""Ways to find servers beside mDNS: a list that somebody wrote, and several ways in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

from echostream.config import checked_seconds
from echostream.discovery.query import Found, Query, not_found_error
from echostream.discovery.service import ServiceInfo
from echostream.errors import ConfigurationError

__all__ = ("Resolver", "StaticResolver", "resolve")

_SCHEMES: Final = ("quic",)
"""Of URLs that a server can be dialled at."""


class Resolver(Protocol):
    """A way to find servers."""

    async def find(self, query: Query, *, timeout: float, settle: float) -> Found:
        """Look for servers.

        Args:
            query: which are wanted.
            timeout: seconds to look at most.
            settle: seconds to go on looking for others once one was found.

        Returns:
            Those that fit, which may be none; it never raises because there are none.
        """
        ...


class StaticResolver:
    """Servers from a list: ``StaticResolver({"orders": ["quic://10.0.0.5:4433", "quic://10.0.0.6:4433"]})``.

    Each URL is one server. A listed server announces no certificate, so `discover` wants ``ca=`` or ``fingerprint=``
    with it.
    """

    def __init__(self, servers: Mapping[str, str | Iterable[str]]) -> None:
        """Take the list: service name to its URL or URLs.

        Raises:
            ConfigurationError: a URL is not of the form ``quic://host:port``.
        """
        self._servers = [
            _listed(name, url)
            for name, urls in servers.items()
            for url in ([urls] if isinstance(urls, str) else urls)
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"<StaticResolver {len(self._servers)} servers>"

    async def find(self, query: Query, *, timeout: float, settle: float) -> Found:
        """Return those of the list that fit, at once."""
        return Found([info for info in self._servers if query.fits(info)], self._servers, "the static list")


async def resolve(
    query: Query, resolvers: Sequence[Resolver], *, timeout: float, settle: float = 0.0
) -> Sequence[ServiceInfo]:
    """Ask the resolvers in turn; return what the first brings that finds any.

    Raises:
        ServiceNotFoundError: none found any; says what was seen instead and why it was not taken.
        TransportError: one cannot be used here.
        ConfigurationError: there is no time to look, or the resolvers are no list.
    """
    checked_seconds("timeout", timeout)
    if hasattr(resolvers, "find"):
        raise ConfigurationError("resolvers", f"give a list of them: [{type(resolvers).__name__}(...)]")
    attempts: list[Found] = []
    for resolver in resolvers:
        found = await resolver.find(query, timeout=timeout, settle=settle)
        if found.servers:
            return found.servers
        attempts.append(found)
    raise not_found_error(query, attempts, timeout)


def _listed(name: str, url: str) -> ServiceInfo:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in _SCHEMES or not parts.hostname or not port:
        raise ConfigurationError("servers", f"{url!r} of {name!r} must be like quic://host:4433")
    return ServiceInfo(name, url, (parts.hostname,), port, parts.scheme, services=(name,), given_url=url)
