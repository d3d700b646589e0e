"""Announcing a server on the local network, from its start to its goodbye."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from echostream.discovery.interfaces import DEFAULT_INTERFACES, LOOPBACK, usable_interfaces
from echostream.discovery.mdns import HOST_TTL, OTHER_TTL, SERVICE_TYPE, close_zeroconf, open_zeroconf
from echostream.discovery.service import ServiceInfo, encode_txt

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

__all__ = ("Advertiser",)

log = logging.getLogger("echostream.discovery")


class Advertiser:
    """Announces one server from `start` to `close`."""

    def __init__(self, service: ServiceInfo, *, interfaces: Sequence[str] | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            service: what to announce (`ServiceInfo.create`); its addresses are where the server listens.
            interfaces: addresses of the interfaces to announce on; None for the default one and loopback, or loopback
                alone when the server listens only there.
        """
        self._service = service
        only_loopback = all(ipaddress.ip_address(item).is_loopback for item in service.addresses)
        self._wanted = interfaces or (LOOPBACK if only_loopback else DEFAULT_INTERFACES)
        self._zeroconf: AsyncZeroconf | None = None
        self._announcement: asyncio.Future[None] | None = None
        self._interfaces: tuple[str, ...] = ()

    def __repr__(self) -> str:
        state = "closed" if self._zeroconf is None else f"on {', '.join(self._interfaces)}"
        return f"<Advertiser {self._service.instance!r} {state}>"

    @property
    def service(self) -> ServiceInfo:
        """What is announced now."""
        return self._service

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Addresses of the interfaces really used."""
        return self._interfaces

    async def start(self) -> None:
        """Begin to answer searches; returns at once. The announcements, three in half a second, go on alone.

        The instance's name is random enough to need no probing (RFC 6762 section 8.1).

        Raises:
            TransportError: mDNS cannot be used here.
        """
        if self._zeroconf is not None:
            return
        self._interfaces = usable_interfaces(self._wanted)
        self._zeroconf = open_zeroconf(self._interfaces)
        try:
            await self._announce(
                self._zeroconf.async_register_service(_record(self._service), cooperating_responders=True)
            )
        except BaseException:
            await self.close()
            raise
        log.info("= advertising %s on %s", self._service.escaped, ", ".join(self._interfaces))

    async def ready(self) -> None:
        """Wait until the announcements are out."""
        if self._announcement is not None:
            await asyncio.wait([self._announcement])

    async def update(
        self,
        *,
        metadata: Mapping[str, str] | None = None,
        services: Iterable[str] | None = None,
        load: int | None = None,
    ) -> None:
        """Announce other metadata, services or load; what is None stays.

        Raises:
            ConfigurationError: too large for an announcement; the old one stays.
        """
        old = self._service
        changed = dataclasses.replace(
            old,
            metadata=old.metadata if metadata is None else dict(metadata),
            services=old.services if services is None else tuple(services),
            load=old.load if load is None else load,
        )
        if changed == old:
            return
        encode_txt(changed)
        self._service = changed
        if self._zeroconf is not None:
            await self._stop_announcing()  # it would go on to tell the old state
            await self._announce(self._zeroconf.async_update_service(_record(changed)))

    async def close(self) -> None:
        """Say goodbye (three times in a quarter of a second) and release the sockets. Idempotent."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        try:
            await self._stop_announcing()
            _drop_queued_answers(zeroconf)
            await zeroconf.async_unregister_all_services()
        finally:
            await close_zeroconf(zeroconf)

    async def _announce(self, registration: Awaitable[Awaitable[None]]) -> None:
        self._announcement = asyncio.ensure_future(await registration)

    async def _stop_announcing(self) -> None:
        announcement, self._announcement = self._announcement, None
        if announcement is not None:
            announcement.cancel()
            await asyncio.wait([announcement])


def _drop_queued_answers(zeroconf: AsyncZeroconf) -> None:
    """Forget answers that wait to be sent together with others: after the goodbye they would bring us back to life."""
    for waiting in (zeroconf.zeroconf.out_queue, zeroconf.zeroconf.out_delay_queue):
        waiting.queue.clear()


def _record(service: ServiceInfo) -> AsyncServiceInfo:
    from zeroconf.asyncio import AsyncServiceInfo

    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{service.instance}.{SERVICE_TYPE}",
        port=service.port,
        properties={key: value.encode() for key, value in encode_txt(service).items()},
        # A host name of its own: servers of one machine may listen on different addresses.
        server=f"echostream-{service.instance.rpartition('-')[2]}.local.",
        parsed_addresses=[address.partition("%")[0] for address in service.addresses],
        host_ttl=HOST_TTL,
        other_ttl=OTHER_TTL,
    )
