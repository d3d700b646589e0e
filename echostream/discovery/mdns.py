"""Multicast DNS: advertise a server on the local network, browse for servers, find one (RFC 6762, RFC 6763).

The only module that imports zeroconf, and only when it is used. A server is one instance of
``_echostream._udp.local.`` with the list of its services in the TXT record, so that a search for any of them finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from echostream.config import DEFAULT_DISCOVER_TIMEOUT, MAX_DISCOVERED_SERVICES
from echostream.discovery.interfaces import DEFAULT_INTERFACES, LOOPBACK, unusable, usable_interfaces
from echostream.discovery.service import (
    Arrived,
    BrowseEvent,
    Departed,
    ServiceInfo,
    decode_txt,
    encode_txt,
    not_found_error,
)
from echostream.types import clock

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

__all__ = ("Advertiser", "Browser", "find")

log = logging.getLogger("echostream.discovery")

SERVICE_TYPE: Final = "_echostream._udp.local."

HOST_TTL: Final = 120
"""Seconds that others keep addresses and ports: RFC 6762 section 10."""

OTHER_TTL: Final = 1200
"""Seconds that others keep a server that went without goodbye: the least that zeroconf's cache observes is 1125."""

RESOLVE_TIMEOUT: Final = 3.0
"""Seconds to ask for the details of an answer that came without them (nearly all bring them along)."""


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
        self._zeroconf = _open(self._interfaces)
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

    async def update(self, *, metadata: Mapping[str, str]) -> None:
        """Announce other metadata.

        Raises:
            ConfigurationError: too large for an announcement; the old one stays.
        """
        changed = dataclasses.replace(self._service, metadata=dict(metadata))
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
            await _close(zeroconf)

    async def _announce(self, registration: Awaitable[Awaitable[None]]) -> None:
        self._announcement = asyncio.ensure_future(await registration)

    async def _stop_announcing(self) -> None:
        announcement, self._announcement = self._announcement, None
        if announcement is not None:
            announcement.cancel()
            await asyncio.wait([announcement])


class Browser:
    """Watches the network: ``async with Browser() as browser: async for event in browser: ...``.

    Remembers up to 256 servers; more are left out. A slow reader misses nothing but what came and went meanwhile.
    """

    def __init__(self, *, timeout: float | None = None, interfaces: Sequence[str] | None = None) -> None:
        """Prepare.

        Args:
            timeout: seconds after which the iteration ends; None for never.
            interfaces: addresses of the interfaces to listen on; None for the default one and loopback.
        """
        self._timeout = timeout
        self._wanted = interfaces or DEFAULT_INTERFACES
        self._interfaces: tuple[str, ...] = ()
        self._zeroconf: AsyncZeroconf | None = None
        self._asker: AsyncZeroconf | None = None
        self._browsers: list[AsyncServiceBrowser] = []
        self._deadline: float | None = None
        self._seen: dict[str, ServiceInfo] = {}
        self._told: dict[str, ServiceInfo] = {}
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._overflowed = False

    def __repr__(self) -> str:
        return f"<Browser {'closed' if self._zeroconf is None else 'open'} {len(self._seen)} seen>"

    @property
    def services(self) -> list[ServiceInfo]:
        """The servers that are there now."""
        return list(self._seen.values())

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Addresses of the interfaces really used."""
        return self._interfaces

    async def start(self) -> None:
        """Begin to listen and ask; the time of the iteration starts here.

        Raises:
            TransportError: mDNS cannot be used here.
        """
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser

        if self._zeroconf is not None:
            return
        self._deadline = None if self._timeout is None else clock.monotonic() + self._timeout
        self._interfaces = usable_interfaces(self._wanted)
        # Announcements and goodbyes arrive at the shared port 5353. Answers to this process alone would not: of all
        # sockets of that port the kernel picks one, and what was multicast a moment ago is not multicast again for a
        # second (RFC 6762 section 6). So the first question goes out from a port of our own.
        self._zeroconf = _open(self._interfaces)
        try:
            self._asker = _open(self._interfaces, unicast=True)
            for source, kind in ((self._asker, DNSQuestionType.QU), (self._zeroconf, DNSQuestionType.QM)):
                watch = AsyncServiceBrowser(
                    source.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=kind
                )
                self._browsers.append(watch)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and release the sockets; an iteration that waits ends. Idempotent."""
        opened = [item for item in (self._asker, self._zeroconf) if item is not None]
        self._asker = self._zeroconf = None
        self._wake.set()
        requests = list(self._requests.values())
        for request in requests:
            request.cancel()
        try:
            await asyncio.gather(*requests, return_exceptions=True)
            for browser in self._browsers:
                await browser.async_cancel()
        finally:
            self._browsers.clear()
            await asyncio.gather(*map(_close, opened))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BrowseEvent:
        """Return the next arrival or departure; the iteration ends at the timeout, or when the browser is closed."""
        while self._zeroconf is not None:
            remaining = None if self._deadline is None else self._deadline - clock.monotonic()
            if remaining is not None and remaining <= 0:  # looked at first: a flood of changes must not prolong it
                break
            while self._changed:
                if (event := self._next_change()) is not None:
                    return event
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), remaining)
        raise StopAsyncIteration

    def _next_change(self) -> BrowseEvent | None:
        """Compare what is there with what was told; changes of one server that nobody saw fall together."""
        instance = next(iter(self._changed))
        del self._changed[instance]
        now, before = self._seen.get(instance), self._told.pop(instance, None)
        if now is not None:
            self._told[instance] = now
            return None if now == before else Arrived(now)
        return None if before is None else Departed(before)

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        main = self._zeroconf
        if main is None:
            return
        if state_change is ServiceStateChange.Removed:
            if zeroconf is main.zeroconf:
                self._forget(name)
            return
        details = AsyncServiceInfo(service_type, name)
        if zeroconf is not main.zeroconf:
            # Its goodbye will arrive over there, and only counts for what is known there.
            main.zeroconf.cache.async_add_records([details.dns_pointer()])
        if details.load_from_cache(zeroconf):
            self._remember(name, details)
        elif name not in self._requests and len(self._requests) < MAX_DISCOVERED_SERVICES:
            request = asyncio.create_task(self._request(main.zeroconf, details))
            self._requests[name] = request
            request.add_done_callback(lambda _: self._requests.pop(name, None))

    async def _request(self, zeroconf: Zeroconf, details: AsyncServiceInfo) -> None:
        if await details.async_request(zeroconf, RESOLVE_TIMEOUT * 1000):
            self._remember(details.name, details)

    def _remember(self, name: str, details: AsyncServiceInfo) -> None:
        if name not in self._seen and len(self._seen) >= MAX_DISCOVERED_SERVICES:
            if not self._overflowed:
                log.warning("! more than %d servers answered, the rest is left out", MAX_DISCOVERED_SERVICES)
            self._overflowed = True
            return
        instance = name.removesuffix("." + SERVICE_TYPE)
        addresses = details.parsed_scoped_addresses()
        service = decode_txt(instance, addresses, details.port or 0, "quic", details.properties)
        if service is not None and service != self._seen.get(name):
            self._seen[name] = service
            self._mark(name)

    def _forget(self, name: str) -> None:
        if request := self._requests.get(name):
            request.cancel()
        if self._seen.pop(name, None) is not None:
            self._mark(name)

    def _mark(self, name: str) -> None:
        self._changed[name] = None
        self._wake.set()


async def find(
    name: str | None = None,
    *,
    timeout: float = DEFAULT_DISCOVER_TIMEOUT,
    where: Callable[[ServiceInfo], bool] | None = None,
    enough: int | None = 1,
    interfaces: Sequence[str] | None = None,
) -> list[ServiceInfo]:
    """Look for servers.

    Args:
        name: a service that the server must serve, or its own name; None for any.
        timeout: seconds to listen at most.
        where: says whether a server is wanted.
        enough: how many to wait for; None lists all that answer within `timeout`, which may be none.
        interfaces: addresses of the interfaces to listen on; None for the default one and loopback.

    Raises:
        ServiceNotFoundError: none fits, and `enough` is given; says what was seen instead.
        TransportError: mDNS cannot be used here.
    """
    async with Browser(timeout=timeout, interfaces=interfaces) as browser:

        def fitting() -> list[ServiceInfo]:
            usable = (item for item in browser.services if item.urls and item.matches(name))
            return [item for item in usable if where is None or where(item)]

        async for _ in browser:
            if enough is not None and len(fitting()) >= enough:
                break
        found = fitting()
        if not found and enough is not None:
            raise not_found_error(name, browser.services, timeout, browser.interfaces)
        return found


def _open(interfaces: Sequence[str], *, unicast: bool = False) -> AsyncZeroconf:
    from zeroconf.asyncio import AsyncZeroconf

    try:
        return AsyncZeroconf(interfaces=list(interfaces), unicast=unicast)
    except (OSError, RuntimeError) as error:
        raise unusable(interfaces, error) from None


def _drop_queued_answers(zeroconf: AsyncZeroconf) -> None:
    """Forget answers that wait to be sent together with others: after the goodbye they would bring us back to life."""
    for waiting in (zeroconf.zeroconf.out_queue, zeroconf.zeroconf.out_delay_queue):
        waiting.queue.clear()


async def _close(zeroconf: AsyncZeroconf) -> None:
    await zeroconf.async_close()
    await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop


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
