"""A running server on the network's list: announced, kept true while it runs, taken off at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from echostream.errors import ConfigurationError, EchoStreamError, TransportError
from echostream.transport.base import Address
from echostream.wiring import EPOCH

if TYPE_CHECKING:
    from echostream.discovery.mdns_advertiser import Advertiser
    from echostream_derive import ServiceSpec

__all__ = ("Announcement", "Presence", "Publicity")

_log = logging.getLogger("echostream.server")

_REFRESH_INTERVAL: Final = 10.0
"""Seconds between two looks at what changed: each announcement is a multicast that everybody on the network hears."""


class Announcement(NamedTuple):
    """What `enable_discovery` was told."""

    name: str | None
    version: str | None
    metadata: Mapping[str, str] | None
    interfaces: Sequence[str] | None


class Presence:
    """Announces one server from `start` to `close`."""

    def __init__(
        self,
        wanted: Announcement,
        urls: Sequence[str],
        services: Mapping[str, ServiceSpec],
        fingerprint: str,
        load: Callable[[], int],
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            wanted: what the user said.
            urls: where the server listens.
            services: what it serves; may grow.
            fingerprint: of its certificate.
            load: says how many sessions it has.

        Raises:
            ConfigurationError: there is no address or no name to announce, or something is too large for it.
        """
        self._services = services
        self._load = load
        self._make = partial(_advertiser, wanted, urls, services, fingerprint)
        self._advertiser = self._make()
        self._refresher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Announce the server.

        Raises:
            TransportError: mDNS cannot be used here.
        """
        await self._advertiser.start()
        self._refresher = asyncio.create_task(self._keep_true())

    async def close(self) -> None:
        """Say goodbye. Idempotent."""
        refresher, self._refresher = self._refresher, None
        if refresher is not None:
            refresher.cancel()
            await asyncio.wait([refresher])
        await self._advertiser.close()

    async def _keep_true(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_INTERVAL)
            try:
                await self._follow()
                await self._advertiser.update(services=list(self._services), load=self._load())
            except TransportError as error:
                _log.warning("! not announced for now: %s", error.message)
            except EchoStreamError as error:
                _log.warning("! the announcement stays as it was: %s", error.message)

    async def _follow(self) -> None:
        """Announce this server anew where the machine's addresses have changed: it is in another network, perhaps."""
        fresh = self._make()
        if fresh.service.addresses != self._advertiser.service.addresses:
            old, self._advertiser = self._advertiser, fresh
            await old.close()
        await self._advertiser.start()  # nothing, where it runs; else the network could not be used the last time


class Publicity:
    """Which presence a server has now: none, or one; changes wait for one another."""

    def __init__(self) -> None:
        self.presence: Presence | None = None
        self.open = False
        """Whether the server listens, so that it can be announced."""
        self._changing = asyncio.Lock()

    async def begin(self, presence: Presence | None) -> None:
        """The server listens, announced or not.

        Raises:
            TransportError: mDNS cannot be used here.
        """
        self.open = True
        async with self._changing:
            if presence is not None:
                self.presence = presence
                await presence.start()

    async def change(self, presence: Presence | None) -> None:
        """Announce this instead while the server runs; what goes wrong is logged."""
        async with self._changing:
            await self._withdraw()
            if presence is None or not self.open:
                return
            self.presence = presence
            try:
                await presence.start()
            except TransportError as error:
                _log.error("! not announced: %s", error.message)

    async def end(self) -> None:
        """Say goodbye: the server stops. Idempotent."""
        self.open = False
        async with self._changing:
            await self._withdraw()

    async def _withdraw(self) -> None:
        presence, self.presence = self.presence, None
        if presence is not None:
            await presence.close()


def _advertiser(
    wanted: Announcement, urls: Sequence[str], services: Mapping[str, ServiceSpec], fingerprint: str
) -> Advertiser:
    from echostream.discovery.interfaces import announced_addresses
    from echostream.discovery.mdns_advertiser import Advertiser
    from echostream.discovery.service import ServiceInfo
    from echostream.transport.interfaces import local_addresses

    name = wanted.name or next(iter(services), None)
    if name is None:
        raise ConfigurationError("enable_discovery", "give a name: no service is registered to take it from")
    for address in map(Address.parse, urls):
        if address.port is not None:
            info = ServiceInfo.create(
                name,
                addresses=announced_addresses(address.host, local_addresses()),
                port=address.port,
                scheme=address.scheme,
                version=wanted.version or (services[name].version if name in services else ""),
                services=list(services),
                metadata=wanted.metadata,
                fingerprint=fingerprint,
                id=f"{EPOCH:016x}",
            )
            return Advertiser(info, interfaces=wanted.interfaces)
    raise ConfigurationError("enable_discovery", "the server has no network address to announce")
