"""Tests for echostream.presence: what is announced of a server, and that it stays true."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from echostream import Arrived, ConfigurationError, Departed, RpcClient, RpcServer, handler, presence, service
from echostream.discovery.mdns_advertiser import Advertiser
from echostream.discovery.mdns_browser import Browser
from echostream.discovery.query import Query
from echostream.errors import TransportError
from echostream.presence import Announcement, Presence
from echostream.types import random_bytes
from echostream.wiring import EPOCH
from echostream_derive import ServiceSpec, service_spec
from tests.serving import QUIC, until

LO = ["127.0.0.1"]
FINGERPRINT = random_bytes(32).hex()


@service("orders", version="1.4.2")
class Orders:
    @handler
    async def place(self) -> None: ...


@service("billing", version="2.0.0")
class Billing:
    @handler
    async def pay(self) -> None: ...


SERVICES: dict[str, ServiceSpec] = {"orders": service_spec(Orders), "billing": service_spec(Billing)}


def announced(wanted: Announcement, *urls: str, services: dict[str, ServiceSpec] = SERVICES) -> Any:
    presence = Presence(wanted, urls or ("quic://127.0.0.1:4433",), services, FINGERPRINT, lambda: 0)
    return presence._advertiser.service


NOTHING_SAID = Announcement(None, None, None, ("127.0.0.1",))


def test_a_server_is_called_after_its_first_service() -> None:
    info = announced(NOTHING_SAID)
    assert (info.name, info.version, info.services) == ("orders", "1.4.2", ("orders", "billing"))
    assert (info.addresses, info.port, info.scheme) == (("127.0.0.1",), 4433, "quic")
    assert (info.fingerprint, info.id) == (FINGERPRINT, f"{EPOCH:016x}")


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("billing", None, ("billing", "2.0.0")),
        ("shop", None, ("shop", "")),
        ("orders", "9", ("orders", "9")),
        ("shop", "9", ("shop", "9")),
    ],
)
def test_what_is_said_goes_first(name: str, version: str | None, expected: tuple[str, str]) -> None:
    info = announced(Announcement(name, version, {"zone": "a"}, None))
    assert (info.name, info.version) == expected
    assert info.metadata == {"zone": "a"}


def test_the_first_network_address_is_announced() -> None:
    info = announced(NOTHING_SAID, "memory://orders", "quic://[::1]:1", "quic://127.0.0.1:2")
    assert (info.addresses, info.port) == (("::1",), 1)


def test_all_interfaces_are_announced_by_their_addresses() -> None:
    info = announced(NOTHING_SAID, "quic://0.0.0.0:1")
    assert info.addresses
    assert "0.0.0.0" not in info.addresses


def test_a_server_without_network_address_cannot_be_announced() -> None:
    with pytest.raises(ConfigurationError) as caught:
        announced(NOTHING_SAID, "memory://orders")
    assert caught.value.message == "enable_discovery: the server has no network address to announce"


def test_a_server_without_name_cannot_be_announced() -> None:
    with pytest.raises(ConfigurationError) as caught:
        announced(NOTHING_SAID, services={})
    assert caught.value.message == "enable_discovery: give a name: no service is registered to take it from"


@pytest.fixture
def name() -> str:
    """A name that no other server on this machine has."""
    return f"shop.{random_bytes(4).hex()}"


@pytest.mark.slow
async def test_a_running_server_is_announced_and_withdrawn(name: str) -> None:
    server = RpcServer(QUIC)
    server.register(Orders())
    async with server, Browser(Query(name), timeout=8.0, interfaces=LO) as browser:
        server.enable_discovery(name, interfaces=LO)
        assert isinstance(await anext(browser), Arrived)
        server.disable_discovery()
        assert isinstance(await anext(browser), Departed)
        server.enable_discovery(name, metadata={"zone": "a"}, interfaces=LO)
        event = await anext(browser)
        assert (type(event), event.service.metadata) == (Arrived, {"zone": "a"})
        server.enable_discovery(name, metadata={"zone": "b"}, interfaces=LO)  # in place of the other
        events = [await anext(browser), await anext(browser)]
        assert {(type(event), event.service.metadata["zone"]) for event in events} == {(Departed, "a"), (Arrived, "b")}


async def test_what_changes_is_announced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_REFRESH_INTERVAL", 0.05)
    server = RpcServer(QUIC)
    server.enable_discovery(name, interfaces=LO)
    async with server, Browser(Query(name), timeout=8.0, interfaces=LO) as browser, AsyncExitStack() as clients:
        assert (await anext(browser)).service.services == ()
        server.register(Orders())
        assert (await anext(browser)).service.services == ("orders",)
        for load in (1, 2):
            await clients.enter_async_context(RpcClient.connect(server.addresses[0], fingerprint=server.fingerprint))
            assert (await anext(browser)).service.load == load


async def test_a_machine_that_comes_into_another_network_announces_its_new_addresses(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def moved(*addresses: str) -> None:
        monkeypatch.setattr("echostream.transport.interfaces.local_addresses", lambda: addresses)

    monkeypatch.setattr(presence, "_REFRESH_INTERVAL", 0.05)
    moved("192.0.2.1")
    everywhere = Presence(Announcement(name, None, None, LO), ["quic://0.0.0.0:4433"], SERVICES, FINGERPRINT, lambda: 3)
    await everywhere.start()
    try:
        async with Browser(Query(name), timeout=8.0, interfaces=LO) as browser:
            arrived = await anext(browser)
            assert arrived.service.addresses == ("192.0.2.1",)
            with monkeypatch.context() as patch:  # there is no network for a while
                patch.setattr(Advertiser, "start", unusable)
                moved("192.0.2.2")
                assert type(await anext(browser)) is Departed
                await until(lambda: "! not announced for now: no network" in caplog.text)
            while (arrived := await anext(browser)).service.load != 3:
                pass
            assert (type(arrived), arrived.service.urls) == (Arrived, ("quic://192.0.2.2:4433",))
    finally:
        await everywhere.close()


async def unusable(advertiser: Advertiser) -> None:
    raise TransportError("no network")


async def test_what_does_not_fit_is_not_announced_and_said(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(presence, "_REFRESH_INTERVAL", 0.05)
    server = RpcServer(QUIC)
    server.enable_discovery(name, metadata={str(number): "x" * 240 for number in range(4)}, interfaces=LO)
    async with server, Browser(Query(name), timeout=0.5, interfaces=LO) as browser:
        assert isinstance(await anext(browser), Arrived)

        @service("s" * 200)
        class Long:
            @handler
            async def go(self) -> None: ...

        server.register(Long())
        assert [event async for event in browser] == []
    assert "! the announcement stays as it was: " in caplog.text


@pytest.mark.parametrize("hook", ["on_start", "lifespan"])
async def test_a_hook_of_the_start_may_announce_the_server_or_not(name: str, hook: str) -> None:
    @asynccontextmanager
    async def lifespan(server: RpcServer) -> AsyncGenerator[None]:
        server.enable_discovery(name, interfaces=LO)
        yield

    server = RpcServer(QUIC, lifespan=lifespan if hook == "lifespan" else None)
    if hook == "on_start":
        server.on_start(lambda: server.enable_discovery(name, interfaces=LO))
    async with server, Browser(Query(name), timeout=8.0, interfaces=LO) as browser:
        assert (await anext(browser)).service.name == name
    server.on_start(server.disable_discovery)
    async with server:
        assert server._publicity.presence is None


async def test_what_cannot_be_announced_is_refused_at_once() -> None:
    async with RpcServer(QUIC) as server:
        with pytest.raises(ConfigurationError, match="give a name: no service is registered"):
            server.enable_discovery()
    async with server:  # what was refused is not tried again
        assert server._publicity.presence is None


async def test_a_network_that_cannot_be_used_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with RpcServer(QUIC) as server:
        server.enable_discovery(name, interfaces=["192.0.2.77"])
        assert server._runtime is not None
        await server._runtime.tasks.wait()
        assert "! not announced: discovery cannot use 192.0.2.77" in caplog.text
