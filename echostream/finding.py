"""What a client needs to find a server: ways to look, which one to take, and whether it is the one it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from echostream.config import DISCOVER_SETTLE
from echostream.errors import CertificateError, ConfigurationError

if TYPE_CHECKING:
    from echostream.discovery.choice import Choice
    from echostream.discovery.query import Query
    from echostream.discovery.resolver import Resolver
    from echostream.discovery.service import ServiceInfo
    from echostream.transport.tls import ClientTls

__all__ = ("MET_FIRST", "Acquaintance", "Trust", "find_servers", "meet")

Trust: TypeAlias = Literal["known", "first-use"]

MET_FIRST: Final = (
    "this server was met for the first time, so nothing is served to it: connect once more now that its certificate is"
    ' remembered, or say trust="first-use", or name its ca or fingerprint'
)


async def find_servers(
    query: Query,
    *,
    timeout: float,
    choose: Choice,
    resolvers: Sequence[Resolver] | None,
    interfaces: Sequence[str] | None,
) -> Sequence[ServiceInfo]:
    """Return the servers to try, in this order; at least one.

    Args:
        query: which are wanted.
        timeout: seconds to look.
        choose: which comes first.
        resolvers: ways to look, in turn; None for mDNS.
        interfaces: addresses of the interfaces that mDNS uses; None for the default one and loopback.

    Raises:
        ServiceNotFoundError: none fits.
        ConfigurationError: there is no such strategy, or it left none.
    """
    from echostream.discovery.choice import strategy
    from echostream.discovery.mdns_browser import MdnsResolver
    from echostream.discovery.resolver import resolve

    order = strategy(choose)
    settle = 0.0 if choose == "first" else DISCOVER_SETTLE  # who answers first is known at once
    found = await resolve(query, resolvers or [MdnsResolver(interfaces)], timeout=timeout, settle=settle)
    servers = order(found)
    if not hasattr(servers, "__len__"):
        raise ConfigurationError(
            "choose", f"it returned {type(servers).__name__}: let it return a list, the best first"
        )
    if not servers:
        raise ConfigurationError("choose", f"it took none of the {len(found)} servers that fit: let it return some")
    return servers


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """A server that only its announcement speaks for."""

    tls: ClientTls
    trusted: bool
    """Whether it was met before, or a first meeting is enough."""
    remember: Callable[[], None]
    """Keeps its certificate; reads and writes files."""


async def meet(info: ServiceInfo, name: str, trust: Trust, *, credentials: bool) -> Acquaintance:
    """Look a server up in the memory of known ones: trusted on first use, held to it afterwards.

    Args:
        info: what it announced.
        name: what it was looked for by.
        trust: what a first meeting is enough for.
        credentials: whether it will be sent some.

    Raises:
        CertificateError: its certificate changed, it announced none, or it may not get credentials yet.
    """
    from echostream.transport.tls import ClientTls
    from echostream.transport.trust import KnownServers

    if trust not in ("known", "first-use"):
        raise ConfigurationError("trust", f"{trust!r} is neither 'known' nor 'first-use'")
    fingerprint = info.fingerprint
    if fingerprint is None:
        raise CertificateError(f"service {name!r} announced no certificate: name its ca= or fingerprint=")
    known = KnownServers()
    state = await asyncio.to_thread(known.check, name, fingerprint)
    trusted = state == "known" or trust == "first-use"
    if credentials and not trusted:
        raise CertificateError(
            f"service {name!r} is met for the first time, so no credentials are sent to it: connect once without"
            ' them, or say trust="first-use", or name its ca or fingerprint'
        )
    tls = replace(ClientTls.load(fingerprint=fingerprint), shows_again=state == "new")
    return Acquaintance(tls, trusted, lambda: known.remember(name, fingerprint))
