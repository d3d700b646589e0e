"""Advertising, browsing and finding with real zeroconf on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zeroconf.asyncio
from zeroconf import RecordUpdate, ServiceStateChange
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from echostream.discovery import mdns_advertiser, mdns_browser
from echostream.discovery.mdns import SERVICE_TYPE
from echostream.discovery.mdns_advertiser import Advertiser
from echostream.discovery.mdns_browser import Browser, MdnsResolver, list_servers
from echostream.discovery.query import Query
from echostream.discovery.resolver import resolve
from echostream.discovery.service import Arrived, BrowseEvent, Departed, ServiceInfo
from echostream.errors import ConfigurationError, ServiceNotFoundError, TransportError
from echostream.types import clock

LO = ["127.0.0.1"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path.cwd())}


@pytest.fixture
def name() -> str:
    """A service that nobody else on this machine has."""
    return f"orders.{os.urandom(4).hex()}"


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    sockets = _sockets()
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert _sockets() == sockets


def _sockets() -> set[str]:
    """The sockets of this process, where the system tells."""
    found: set[str] = set()
    for path in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # the folder's own descriptor
            found.add(str(path.readlink()))
    return {item for item in found if item.startswith("socket:")}


def describe(name: str, **options: object) -> ServiceInfo:
    return ServiceInfo.create(name, **{"addresses": LO, "port": 4433, **options})  # type: ignore[arg-type]


@asynccontextmanager
async def advertised(name: str, **options: object) -> AsyncGenerator[Advertiser]:
    async with all_advertised(describe(name, **options)) as (advertiser,):
        yield advertiser


@asynccontextmanager
async def all_advertised(*services: ServiceInfo) -> AsyncGenerator[list[Advertiser]]:
    advertisers = [Advertiser(service, interfaces=LO) for service in services]
    try:
        for advertiser in advertisers:
            await advertiser.start()
        yield advertisers
    finally:
        await asyncio.gather(*(advertiser.close() for advertiser in advertisers))


async def find(name: str | None = None, *, timeout: float = 3.0, settle: float = 0.0) -> list[ServiceInfo]:
    return list(await resolve(Query(name), [MdnsResolver(LO)], timeout=timeout, settle=settle))


async def wait_for(browser: Browser, wanted: Callable[[BrowseEvent], bool]) -> BrowseEvent:
    async for event in browser:
        if wanted(event):
            return event
    raise AssertionError("the browser ended before the event came")


def arrived(name: str) -> Callable[[BrowseEvent], bool]:
    return lambda event: isinstance(event, Arrived) and event.service.name == name


def departed(name: str) -> Callable[[BrowseEvent], bool]:
    return lambda event: isinstance(event, Departed) and event.service.name == name


async def test_server_is_found_with_all_that_it_says(name: str) -> None:
    options = {"version": "1.2", "services": [name, "billing"], "metadata": {"zone": "a"}, "fingerprint": "ab" * 32}
    async with advertised(name, **options) as advertiser:
        assert await find(name) == [advertiser.service]
    assert advertiser.service.urls == ("quic://127.0.0.1:4433",)


async def test_server_is_found_by_any_of_its_services(name: str) -> None:
    async with advertised("main", services=["main", name]):
        (found,) = await find(name)
    assert found.name == "main"


async def test_running_server_is_found_well_within_a_second_again_and_again(name: str) -> None:
    """Not even the rule that a record is multicast once per second slows the next client down."""
    async with advertised(name) as advertiser:
        await advertiser.ready()
        for _ in range(3):
            start = clock.monotonic()
            await find(name, timeout=5.0)
            assert clock.monotonic() - start < 0.9


async def test_start_does_not_wait_for_the_announcements(name: str) -> None:
    start = clock.monotonic()
    async with advertised(name) as advertiser:
        assert clock.monotonic() - start < 0.2
        assert repr(advertiser) == f"<Advertiser '{advertiser.service.instance}' on 127.0.0.1>"
        await advertiser.start()
    assert repr(advertiser) == f"<Advertiser '{advertiser.service.instance}' closed>"


async def test_several_servers_of_one_name_on_one_machine(name: str) -> None:
    async with all_advertised(*(describe(name, port=port) for port in (1, 2, 3))):
        found = await find(name, settle=0.5)
    assert sorted(item.port for item in found) == [1, 2, 3]
    assert len({item.instance for item in found}) == 3


async def test_where_chooses_among_servers(name: str) -> None:
    async with all_advertised(*(describe(name, metadata={"zone": zone}) for zone in "ab")):
        query = Query(name, where=lambda item: item.metadata.get("zone") == "b")
        (found,) = await resolve(query, [MdnsResolver(LO)], timeout=3.0)
    assert found.metadata == {"zone": "b"}


async def test_listing_takes_all_that_answer_and_may_be_empty(name: str) -> None:
    async with all_advertised(describe(name), describe(name)):
        assert len(await list_servers(Query(name), timeout=0.4, interfaces=LO)) == 2
    assert await list_servers(Query("nobody"), timeout=0.05, interfaces=LO) == []


async def test_nothing_found_says_what_was_seen_instead(name: str) -> None:
    async with advertised(name):
        with pytest.raises(
            ServiceNotFoundError, match=r"no service 'missing' that fits answered within 0.4 s on 127.0.0.1"
        ) as caught:
            await find("missing", timeout=0.4)
    assert name in caught.value.details["seen"]
    assert f"'{name}'" in caught.value.message


async def test_server_without_usable_address_is_not_found(name: str) -> None:
    async with advertised(name, port=0):
        with pytest.raises(ServiceNotFoundError, match=rf"seen instead: .*{re.escape(name)}"):
            await find(name, timeout=0.4)


async def test_server_that_starts_while_somebody_looks_is_found(name: str) -> None:
    search = asyncio.create_task(find(name, timeout=5.0))
    await asyncio.sleep(0.2)
    async with advertised(name):
        assert len(await search) == 1


async def test_browser_tells_arrival_change_and_goodbye(name: str) -> None:
    async with Browser(timeout=8.0, interfaces=LO) as browser:
        async with advertised(name, metadata={"load": "1"}) as advertiser:
            event = await wait_for(browser, arrived(name))
            assert event.service == advertiser.service
            assert advertiser.service in browser.services
            await advertiser.update(metadata={"load": "2"})
            changed = await wait_for(browser, arrived(name))
            assert changed.service.metadata == {"load": "2"}
            assert changed.service.instance == event.service.instance
        gone = await wait_for(browser, departed(name))
        assert gone.service == changed.service
        assert gone.service not in browser.services


async def test_goodbye_is_heard_even_right_after_the_first_answer(name: str) -> None:
    """The first answer came to a port of our own; the goodbye comes to the shared one."""
    async with advertised(name) as advertiser:
        await advertiser.ready()
        async with Browser(timeout=5.0, interfaces=LO) as browser:
            await wait_for(browser, arrived(name))
            await advertiser.close()
            await wait_for(browser, departed(name))


@pytest.mark.slow
async def test_an_answer_that_waits_is_not_sent_after_the_goodbye(name: str) -> None:
    """Zeroconf holds answers back to send several at once: one of them would make a ghost of a server that stopped."""
    async with advertised(name) as advertiser:
        await advertiser.ready()
        async with Browser(timeout=2.0, interfaces=LO) as browser:
            await wait_for(browser, arrived(name))
            assert advertiser._zeroconf is not None
            record = mdns_advertiser._record(advertiser.service)
            details = {record.dns_service(), record.dns_text(), *record.dns_addresses()}
            queue = advertiser._zeroconf.zeroconf.out_queue
            queue.async_add(clock.monotonic() * 1000, {record.dns_pointer(): details})
            await advertiser.close()
            events = [event async for event in browser if event.service.name == name]
            assert [type(event) for event in events] == [Departed]
            assert advertiser.service not in browser.services


async def test_what_the_first_question_forgets_is_not_gone(name: str) -> None:
    """Only the shared port hears goodbyes; over there the record may still be fresh."""
    async with advertised(name) as advertiser, Browser(timeout=5.0, interfaces=LO) as browser:
        await wait_for(browser, arrived(name))
        assert browser._asker is not None
        record = f"{advertiser.service.instance}.{SERVICE_TYPE}"
        browser._on_change(browser._asker.zeroconf, SERVICE_TYPE, record, ServiceStateChange.Removed)
        assert advertiser.service in browser.services


async def test_silent_server_departs_when_its_record_expires(name: str) -> None:
    async with advertised(name) as advertiser, Browser(timeout=5.0, interfaces=LO) as browser:
        await wait_for(browser, arrived(name))
        await advertiser.ready()
        assert browser._zeroconf is not None
        main = browser._zeroconf.zeroconf
        later = clock.monotonic() * 1000 + 10_000_000
        expired = [RecordUpdate(record, record) for record in main.cache.async_expire(later)]
        main.record_manager.async_updates(later, expired)
        main.record_manager.async_updates_complete(False)
        await wait_for(browser, departed(name))


@pytest.fixture
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes in two seconds."""
    monkeypatch.setattr(mdns_advertiser, "HOST_TTL", 1)
    monkeypatch.setattr(mdns_browser, "HOST_CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(mdns_browser, "RESOLVE_TIMEOUT", 0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("short_lived")
async def test_a_server_that_dies_without_a_goodbye_departs_when_its_host_record_expires(name: str) -> None:
    async with advertised(name) as advertiser, Browser(timeout=8.0, interfaces=LO) as browser:
        await wait_for(browser, arrived(name))
        assert advertiser._zeroconf is not None
        dead = advertiser._zeroconf.zeroconf
        dead.registry.async_remove(list(dead.registry.async_get_service_infos()))  # it answers nothing any more
        await wait_for(browser, departed(name))
        assert advertiser.service not in browser.services


@pytest.mark.slow
@pytest.mark.usefixtures("short_lived")
async def test_a_server_that_lives_stays_past_its_time(name: str) -> None:
    async with advertised(name) as advertiser, Browser(timeout=3.0, interfaces=LO) as browser:
        events = [event async for event in browser if event.service.name == name]
    assert events == [Arrived(advertiser.service)]


async def test_a_change_may_make_a_server_fit_or_no_longer(name: str) -> None:
    query = Query(name, metadata={"state": "ready"})
    async with advertised(name) as advertiser, Browser(query, timeout=5.0, interfaces=LO) as browser:
        await advertiser.update(metadata={"state": "ready"}, load=3)
        event = await wait_for(browser, lambda _: True)
        assert (type(event), event.service.metadata, event.service.load) == (Arrived, {"state": "ready"}, 3)
        await advertiser.update(metadata={"state": "busy"})
        event = await wait_for(browser, lambda _: True)
        assert (type(event), event.service.metadata) == (Departed, {"state": "ready"})
        own = [info.metadata for info in browser.services if info.name == name]  # other tests may announce at this time
        assert own == [{"state": "busy"}]


async def test_an_update_that_changes_nothing_is_not_announced(name: str) -> None:
    async with advertised(name, services=[name]) as advertiser:
        before = advertiser._announcement
        await advertiser.update(services=[name], load=0)
        assert advertiser._announcement is before
        await advertiser.update(services=[name, "more"])
        assert advertiser.service.services == (name, "more")
        assert advertiser._announcement is not before


async def test_iteration_ends_at_the_timeout() -> None:
    async with Browser(timeout=0.1, interfaces=LO) as browser:
        start = clock.monotonic()
        _ = [event async for event in browser]
        assert clock.monotonic() - start < 1.0


async def test_iteration_ends_in_time_however_much_changes(name: str) -> None:
    async with Browser(timeout=0.3, interfaces=LO) as browser, asyncio.timeout(5):
        service = describe(name)
        browser._seen["x"] = service
        browser._mark("x")
        async for _ in browser:
            browser._seen["x"] = describe(name)
            browser._mark("x")


async def test_close_ends_a_waiting_iteration() -> None:
    browser = Browser(interfaces=LO)
    await browser.start()
    await browser.start()
    assert repr(browser).startswith("<Browser open ")

    async def iterate() -> None:
        async for _ in browser:
            pass

    waiting = asyncio.create_task(iterate())
    await asyncio.sleep(0.05)
    await browser.close()
    await browser.close()
    await asyncio.wait_for(waiting, 1)
    assert repr(browser).startswith("<Browser closed ")


async def test_what_came_and_went_unseen_is_not_told(name: str) -> None:
    async with Browser(timeout=0.2, interfaces=LO) as browser:
        browser._seen["x"] = describe(name)
        browser._mark("x")
        browser._forget("x")
        assert [event async for event in browser if event.service.name == name] == []


async def test_unchanged_announcement_is_told_once(name: str) -> None:
    async with advertised(name) as advertiser, Browser(timeout=0.6, interfaces=LO) as browser:
        await advertiser.update(metadata={})
        events = [event async for event in browser if event.service.name == name]
        assert [type(event) for event in events] == [Arrived]


async def test_number_of_remembered_servers_is_capped(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mdns_browser, "MAX_DISCOVERED_SERVICES", 2)
    servers = all_advertised(*(describe(name) for _ in range(4)))
    async with servers, Browser(timeout=0.4, interfaces=LO) as browser:
        assert {len(browser.services) async for _ in browser} <= {0, 1, 2}
    assert caplog.text.count("! more than 2 servers answered, the rest is left out") == 1


async def test_hostile_record_is_tolerated(name: str) -> None:
    other = AsyncZeroconf(interfaces=LO)
    texts: dict[str | bytes, str | bytes | None] = {
        b"name": name.encode(),
        b"fp": b"\xff",
        b"m.\xff": b"\x00",
        b"x": b"y" * 250,
    }
    record = AsyncServiceInfo(
        SERVICE_TYPE,
        f"evil\u202e {name}.{SERVICE_TYPE}",
        port=1,
        properties=texts,
        server="evil.local.",
        parsed_addresses=LO,
    )
    announcement = await other.async_register_service(record, cooperating_responders=True, strict=False)
    try:
        (found,) = await find(name)
    finally:
        await other.async_close()
        await asyncio.gather(announcement, return_exceptions=True)
        await asyncio.sleep(0)
    assert found.fingerprint is None
    assert found.escaped.isprintable()


async def test_record_of_an_unknown_version_is_not_a_server(name: str) -> None:
    other = AsyncZeroconf(interfaces=LO)
    record = AsyncServiceInfo(
        SERVICE_TYPE, f"{name}.{SERVICE_TYPE}", port=1, properties={"txtvers": "2", "name": name}, parsed_addresses=LO,
        server=f"{name}.local.",
    )  # fmt: skip
    announcement = await other.async_register_service(record, cooperating_responders=True)
    try:
        assert await list_servers(Query(name), timeout=0.4, interfaces=LO) == []
    finally:
        await other.async_close()
        await asyncio.gather(announcement, return_exceptions=True)
        await asyncio.sleep(0)


async def test_answer_without_details_is_asked_about(name: str) -> None:
    async with advertised(name) as advertiser, Browser(timeout=5.0, interfaces=LO) as browser:
        assert browser._zeroconf is not None
        main = browser._zeroconf.zeroconf
        record = f"{advertiser.service.instance}.{SERVICE_TYPE}"
        change = ServiceStateChange.Added
        browser._on_change(main, SERVICE_TYPE, record, change)
        browser._on_change(main, SERVICE_TYPE, record, change)
        assert len(browser._requests) == 1
        await wait_for(browser, arrived(name))


async def test_question_about_details_ends_with_the_browser_or_the_goodbye() -> None:
    async with Browser(interfaces=LO) as browser:
        assert browser._zeroconf is not None
        main = browser._zeroconf.zeroconf
        for item in ("one", "two"):
            browser._on_change(main, SERVICE_TYPE, f"{item}.{SERVICE_TYPE}", ServiceStateChange.Added)
        requests = list(browser._requests.values())
        browser._on_change(main, SERVICE_TYPE, f"one.{SERVICE_TYPE}", ServiceStateChange.Removed)
        await asyncio.wait([requests[0]])
    assert [request.cancelled() for request in requests] == [True, True]
    browser._on_change(main, SERVICE_TYPE, f"late.{SERVICE_TYPE}", ServiceStateChange.Added)
    assert browser._requests == {}


async def test_update_that_does_not_fit_is_refused_and_changes_nothing(name: str) -> None:
    async with advertised(name, metadata={"zone": "a"}) as advertiser:
        with pytest.raises(ConfigurationError, match=r"metadata: takes 307 bytes with its key 'm.zone'"):
            await advertiser.update(metadata={"zone": "x" * 300})
        assert advertiser.service.metadata == {"zone": "a"}


async def test_update_before_the_start_is_announced_at_the_start(name: str) -> None:
    advertiser = Advertiser(describe(name), interfaces=LO)
    await advertiser.update(metadata={"zone": "b"})
    await advertiser.ready()
    assert advertiser.interfaces == ()
    await advertiser.start()
    try:
        (found,) = await find(name)
    finally:
        await advertiser.close()
        await advertiser.close()
    assert found.metadata == {"zone": "b"}


async def test_server_on_loopback_is_announced_on_loopback_only(name: str) -> None:
    advertiser = Advertiser(describe(name, addresses=["127.0.0.1", "::1"]))
    await advertiser.start()
    await advertiser.close()
    assert advertiser.interfaces == ("127.0.0.1",)


async def test_server_on_the_network_is_announced_there_and_on_loopback(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[object] = []

    def note(interfaces: object) -> tuple[str, ...]:
        wanted.append(interfaces)
        return ("127.0.0.1",)

    monkeypatch.setattr(mdns_advertiser, "usable_interfaces", note)
    advertiser = Advertiser(describe(name, addresses=["192.0.2.1"]))
    await advertiser.start()
    await advertiser.close()
    assert wanted == [("0.0.0.0", "127.0.0.1")]


async def test_default_search_sees_servers_of_this_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_network(wanted: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(item for item in wanted if item != "0.0.0.0")

    monkeypatch.setattr(mdns_browser, "usable_interfaces", without_network)
    async with advertised(name):
        assert len(await resolve(Query(name), [MdnsResolver()], timeout=3.0)) == 1


@pytest.mark.parametrize("attempt", [1, 2])
async def test_port_that_cannot_be_opened_is_reported_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    opened = 0

    def open_or_fail(interfaces: list[str], *, unicast: bool) -> AsyncZeroconf:
        nonlocal opened
        opened += 1
        if opened == attempt:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return AsyncZeroconf(interfaces=interfaces, unicast=unicast)

    monkeypatch.setattr(zeroconf.asyncio, "AsyncZeroconf", open_or_fail)
    with pytest.raises(
        TransportError, match=r"discovery cannot use 127.0.0.1 \(.*Address already in use\): choose other"
    ):
        await find()


async def test_failed_start_leaves_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(service: ServiceInfo) -> AsyncServiceInfo:
        raise ValueError("refused")

    monkeypatch.setattr(mdns_advertiser, "_record", refuse)
    with pytest.raises(ValueError, match="refused"):
        await Advertiser(describe(name), interfaces=LO).start()


async def test_cancelled_close_releases_the_sockets(name: str) -> None:
    advertiser = Advertiser(describe(name), interfaces=LO)
    await advertiser.start()
    closing = asyncio.create_task(advertiser.close())
    await asyncio.sleep(0.02)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


CHILD = """
import asyncio, signal, sys
from echostream.discovery.mdns_advertiser import Advertiser
from echostream.discovery.service import ServiceInfo

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    advertiser = Advertiser(ServiceInfo.create(sys.argv[1], addresses=["127.0.0.1"], port=4433))
    await advertiser.start()
    print("started", flush=True)
    await stop.wait()
    await advertiser.close()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_server_in_another_process_is_found_and_says_goodbye(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, name, stdout=asyncio.subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"started\n"
        async with Browser(timeout=10.0, interfaces=LO) as browser:
            await wait_for(browser, arrived(name))
            assert len(await find(name)) == 1
            process.send_signal(signal.SIGTERM)
            await wait_for(browser, departed(name))
    finally:
        process.terminate()
        code = await process.wait()
        assert await process.stdout.read() == b""
    assert code == 0


def test_zeroconf_is_imported_only_when_it_is_used() -> None:
    modules = "echostream.discovery.mdns_browser, echostream.discovery.mdns_advertiser"
    code = f"import sys, {modules}; sys.exit('zeroconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0
