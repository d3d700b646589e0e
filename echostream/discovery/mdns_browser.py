"""Watching the local network for servers, and finding one there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from echostream.config import MAX_DISCOVERED_SERVICES, checked_seconds
from echostream.discovery.interfaces import DEFAULT_INTERFACES, usable_interfaces
from echostream.discovery.mdns import SERVICE_TYPE, close_zeroconf, open_zeroconf
from echostream.discovery.query import Found, Query
from echostream.discovery.service import Arrived, BrowseEvent, Departed, ServiceInfo, decode_txt
from echostream.types import clock

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

__all__ = ("Browser", "MdnsResolver", "list_servers")

log = logging.getLogger("echostream.discovery")

RESOLVE_TIMEOUT: Final = 3.0
"""Seconds to ask for the details of an answer that came without them (nearly all bring them along), or that are old."""

HOST_CHECK_INTERVAL: Final = 5.0
"""Seconds between two looks for servers whose address and port are past their time: with both this and the time that
they live, a server that dies without a goodbye departs after two minutes; its name alone would stay for twenty."""

_SRV: Final = 33
_IN: Final = 1
"""RFC 2782, RFC 1035: a server's host and port."""


class Browser:
    """Watches the network: ``async with Browser() as browser: async for event in browser: ...``.

    Remembers up to 256 servers; more are left out. A slow reader misses nothing but what came and went meanwhile.
    """

    def __init__(
        self, query: Query | None = None, *, timeout: float | None = None, interfaces: Sequence[str] | None = None
    ) -> None:
        """Prepare.

        Args:
            query: which servers to tell of; None for all. One that changes what it says may come or go by it.
            timeout: seconds after which the iteration ends; None for never.
            interfaces: addresses of the interfaces to listen on; None for the default one and loopback.
        """
        self._query = query
        self._timeout = None if timeout is None else checked_seconds("timeout", timeout)
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
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Browser {'closed' if self._zeroconf is None else 'open'} {len(self._seen)} seen>"

    @property
    def services(self) -> list[ServiceInfo]:
        """The servers that are there now, whether wanted or not."""
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
        self._zeroconf = open_zeroconf(self._interfaces)
        try:
            self._asker = open_zeroconf(self._interfaces, unicast=True)
            for source, kind in ((self._asker, DNSQuestionType.QU), (self._zeroconf, DNSQuestionType.QM)):
                watch = AsyncServiceBrowser(
                    source.zeroconf, SERVICE_TYPE, handlers=[self._on_change], question_type=kind
                )
                self._browsers.append(watch)
            self._watch = asyncio.create_task(self._watch_hosts())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and release the sockets; an iteration that waits ends. Idempotent."""
        opened = [item for item in (self._asker, self._zeroconf) if item is not None]
        self._asker = self._zeroconf = None
        self._wake.set()
        tasks = [*self._requests.values(), *filter(None, (self._watch,))]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            for browser in self._browsers:
                await browser.async_cancel()
        finally:
            self._browsers.clear()
            await asyncio.gather(*map(close_zeroconf, opened))

    def end_within(self, seconds: float) -> None:
        """Let the iteration end that many seconds from now at the latest."""
        end = clock.monotonic() + seconds
        self._deadline = end if self._deadline is None else min(self._deadline, end)
        self._wake.set()

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
        if now is not None and self._query is not None and not self._query.fits(now):
            now = None
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
        else:
            self._ask(main.zeroconf, details)

    def _ask(self, zeroconf: Zeroconf, details: AsyncServiceInfo) -> None:
        name = details.name
        if name not in self._requests and len(self._requests) < MAX_DISCOVERED_SERVICES:
            request = asyncio.create_task(self._request(zeroconf, details))
            self._requests[name] = request
            request.add_done_callback(lambda _: self._requests.pop(name, None))

    async def _request(self, zeroconf: Zeroconf, details: AsyncServiceInfo) -> None:
        if await details.async_request(zeroconf, RESOLVE_TIMEOUT * 1000):
            self._remember(details.name, details)
        else:
            zeroconf.cache.async_remove_records([details.dns_pointer()])  # so that its return is an arrival
            self._forget(details.name)

    async def _watch_hosts(self) -> None:
        """Ask servers again whose host and port are past their time; who does not answer has died."""
        from zeroconf.asyncio import AsyncServiceInfo

        while self._zeroconf is not None and self._asker is not None:
            await asyncio.sleep(HOST_CHECK_INTERVAL)
            caches = [item.zeroconf.cache for item in (self._zeroconf, self._asker)]
            now = clock.monotonic() * 1000
            for name in tuple(self._seen):
                known = (cache.get_by_details(name, _SRV, _IN) for cache in caches)
                if all(record is None or record.is_expired(now) for record in known):
                    self._ask(self._zeroconf.zeroconf, AsyncServiceInfo(SERVICE_TYPE, name))

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
        request = self._requests.get(name)
        if request is not None and request is not asyncio.current_task():
            request.cancel()
        if self._seen.pop(name, None) is not None:
            self._mark(name)

    def _mark(self, name: str) -> None:
        self._changed[name] = None
        self._wake.set()


class MdnsResolver:
    """Finds servers on the local network; a `Resolver`."""

    def __init__(self, interfaces: Sequence[str] | None = None) -> None:
        """Prepare.

        Args:
            interfaces: addresses of the interfaces to listen on; None for the default one and loopback.
        """
        self._interfaces = interfaces

    async def find(self, query: Query, *, timeout: float, settle: float = 0.0) -> Found:
        """Look until one is found, and for `settle` seconds more; see `Resolver`.

        Raises:
            TransportError: mDNS cannot be used here.
        """
        async with Browser(timeout=timeout, interfaces=self._interfaces) as browser:
            settling = False
            async for _ in browser:
                if not settling and any(map(query.fits, browser.services)):
                    if not settle:
                        break
                    settling = True
                    browser.end_within(settle)
            servers = [info for info in browser.services if query.fits(info)]
            return Found(servers, browser.services, _in_words(browser.interfaces))


async def list_servers(query: Query, *, timeout: float, interfaces: Sequence[str] | None = None) -> list[ServiceInfo]:
    """Return all servers that fit and answer within `timeout` seconds.

    Raises:
        TransportError: mDNS cannot be used here.
    """
    async with Browser(timeout=timeout, interfaces=interfaces) as browser:
        async for _ in browser:
            pass
        return [info for info in browser.services if query.fits(info)]


def _in_words(interfaces: Sequence[str]) -> str:
    return ", ".join("the default interface" if item == "0.0.0.0" else item for item in interfaces)
