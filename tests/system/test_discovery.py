"""Discovery end to end: real servers, real clients, real zeroconf, on the loopback interface."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream import (
    Arrived,
    CertificateError,
    ConfigurationError,
    ConnectError,
    Departed,
    MdnsResolver,
    Principal,
    RpcClient,
    RpcServer,
    ServiceNotFoundError,
    StaticResolver,
    Status,
    handler,
    service,
)
from echostream.discovery.mdns_advertiser import Advertiser
from echostream.discovery.service import ServiceInfo
from echostream.errors import TransportError
from echostream.transport.base import Address
from echostream.transport.trust import KnownServers
from echostream.types import random_bytes
from tests.serving import PATIENCE, QUIC, nothing_left, session_of
from tests.transport.authority import issue

LO = ["127.0.0.1"]
ROOT = Path(__file__).parents[2]


@service("who")
class Who:
    def __init__(self, answer: str = "me") -> None:
        self.answer = answer

    @handler
    async def are_you(self) -> str:
        return self.answer


@service("ui")
class Ui:
    @handler
    async def ask(self) -> str:
        return "Ada"


@pytest.fixture
def name() -> str:
    """A name that no other server on this machine has."""
    return f"who.{random_bytes(4).hex()}"


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownServers:
    """A memory of known servers of the test's own."""
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path))
    return KnownServers()


@asynccontextmanager
async def announced(
    name: str, answer: str = "me", *, more: dict[str, Any] | None = None, **said: Any
) -> AsyncGenerator[RpcServer]:
    server = RpcServer(QUIC, **(more or {}))
    server.register(Who(answer))
    server.enable_discovery(name, interfaces=LO, **said)
    async with server:
        yield server


def discover(name: str | None = None, **options: Any) -> Any:
    return RpcClient.discover(name, **{"interfaces": LO, "timeout": 5.0, **options})


async def answer(name: str | None = None, **options: Any) -> str:
    async with discover(name, **options) as client:
        said: str = await client.proxy(Who).are_you()
        return said


# Finding


async def test_a_client_that_knows_no_address_finds_its_server(name: str) -> None:
    with nothing_left():
        async with announced(name):
            assert await answer(name) == "me"


async def test_any_server_will_do_without_a_name(name: str) -> None:
    async with announced(name):
        assert await answer(where=lambda info: info.name == name) == "me"


@pytest.mark.parametrize(
    "wanted",
    [
        {"version": "1.4"},
        {"version": "1.4.2"},
        {"metadata": {"zone": "b"}},
        {"where": lambda info: info.metadata.get("zone") == "b"},
        {"version": "1", "metadata": {"zone": "b"}, "where": lambda info: True},
    ],
)
async def test_a_server_is_chosen_among_several(name: str, wanted: dict[str, Any]) -> None:
    async with (
        announced(name, "old", version="0.9", metadata={"zone": "a"}),
        announced(name, "new", version="1.4.2", metadata={"zone": "b"}),
    ):
        assert await answer(name, **wanted) == "new"


async def test_the_least_loaded_server_is_chosen(name: str) -> None:
    async with announced(name, "busy") as busy, announced(name, "idle"):
        assert busy._publicity.presence is not None
        await busy._publicity.presence._advertiser.update(load=7)
        assert [await answer(name, choose="least-loaded") for _ in range(3)] == ["idle"] * 3
        assert await answer(name, choose=lambda found: [info for info in found if info.load]) == "busy"


async def test_the_next_server_is_tried_when_one_cannot_be_reached(name: str) -> None:
    async with announced(name, "there") as server, RpcServer(QUIC) as gone:
        dead = gone.addresses[0]
        await gone.stop()
        listed = StaticResolver({name: [dead, server.addresses[0]]})
        assert await answer(name, resolvers=[listed], fingerprint=server.fingerprint) == "there"
        listed = StaticResolver({name: [dead, dead]})
        with pytest.raises(ConnectError, match=f"could not reach it: cannot reach {dead}: .*; found {name}"):
            await discover(name, resolvers=[listed], fingerprint=server.fingerprint)


async def test_a_list_is_what_remains_when_the_network_is_silent(name: str) -> None:
    server = RpcServer(QUIC)
    server.register(Who("listed"))
    async with server:
        ways = [MdnsResolver(LO), StaticResolver({name: server.addresses[0]})]
        assert await answer(name, resolvers=ways, timeout=0.2, ca="dev") == "listed"


async def test_a_strategy_that_takes_none_is_told(name: str) -> None:
    async with announced(name):
        with pytest.raises(ConfigurationError, match="choose: it took none of the 1 servers that fit"):
            await discover(name, choose=lambda _: [])
        with pytest.raises(ConfigurationError, match="choose: it returned ServiceInfo: let it return a list"):
            await discover(name, choose=lambda found: found[0])


async def test_lists_and_changes_are_filtered(name: str) -> None:
    async with announced(name, metadata={"zone": "a"}), announced(name, metadata={"zone": "b"}):
        (info,) = await RpcClient.services(0.4, name=name, metadata={"zone": "b"}, interfaces=LO)
        assert info.metadata == {"zone": "b"}
        events = RpcClient.browse(timeout=0.4, name=name, metadata={"zone": "a"}, interfaces=LO)
        assert [event.service.metadata async for event in events] == [{"zone": "a"}]


async def test_one_server_is_found_by_each_of_its_services(name: str) -> None:
    async with announced(name):
        assert await answer("who", where=lambda info: info.name == name) == "me"


async def test_services_lists_what_is_there(name: str) -> None:
    async with (
        announced(name, metadata={"place": "left"}) as left,
        announced(name, metadata={"place": "right"}) as right,
    ):
        found = [info for info in await RpcClient.services(0.4, interfaces=LO) if info.name == name]
        assert {info.metadata["place"]: info.urls for info in found} == {
            "left": tuple(left.addresses),
            "right": tuple(right.addresses),
        }
        assert all(info.services == ("who",) and info.fingerprint == left.fingerprint for info in found)


async def test_services_may_find_nothing(name: str) -> None:
    assert name not in [info.name for info in await RpcClient.services(0.1, interfaces=LO)]


async def test_browse_tells_arrival_and_goodbye(name: str) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        events = aiter(RpcClient.browse(interfaces=LO))
        server = await stack.enter_async_context(announced(name))
        arrival = await _event_of(events, name)
        assert isinstance(arrival, Arrived)
        assert arrival.service.urls == (server.addresses[0],)
        await server.stop()
        departure = await _event_of(events, name)
        assert isinstance(departure, Departed)
        await events.aclose()  # type: ignore[attr-defined]


async def _event_of(events: AsyncIterator[Arrived | Departed], name: str) -> Arrived | Departed:
    async for event in events:
        if event.service.name == name:
            return event
    raise AssertionError("nothing came")


async def test_browse_ends_in_time(name: str) -> None:
    assert [event async for event in RpcClient.browse(timeout=0.05, interfaces=LO) if event.service.name == name] == []


async def test_nothing_found_says_what_was_seen_and_how_to_name_an_address(name: str) -> None:
    missing = f"missing.{name}"
    async with announced(name):
        await answer(name)
        with pytest.raises(ServiceNotFoundError) as caught:
            await discover(missing, timeout=0.5)
    assert caught.value.code is Status.NOT_FOUND
    assert caught.value.message.startswith(
        f"no service {missing!r} that fits answered within 0.5 s on 127.0.0.1; seen instead: "
    )
    assert repr(name) in caught.value.message
    assert caught.value.message.endswith('; or name an address: RpcClient.connect("quic://host:4433")')
    assert name in caught.value.details["seen"]


async def test_a_server_that_is_gone_is_not_found(name: str) -> None:
    async with announced(name):
        assert await answer(name) == "me"
    with pytest.raises(ServiceNotFoundError):
        await discover(name, timeout=0.3)


async def test_a_server_that_is_announced_and_does_not_answer_says_so(name: str) -> None:
    async with announced(name) as server:
        url, fingerprint = server.addresses[0], server.fingerprint
    info = ServiceInfo.create(
        name, addresses=LO, port=int(url.rpartition(":")[2]), fingerprint=fingerprint, metadata={"text": "\x1b[31mred"}
    )
    advertiser = Advertiser(info, interfaces=LO)
    await advertiser.start()
    try:
        with pytest.raises(ConnectError) as caught:
            await discover(name)
    finally:
        await advertiser.close()
    assert caught.value.message == (
        f"found {name} {url} text=\\x1b[31mred, but could not reach it: cannot reach {url}: connection refused: no"
        " program listens on that UDP port; start the server, or check the port"
    )


async def test_interfaces_that_do_not_work_say_so(name: str) -> None:
    with pytest.raises(TransportError, match=r"discovery cannot use 192\.0\.2\.1 "):
        await discover(name, interfaces=["192.0.2.1"])
    server = RpcServer(QUIC)
    server.enable_discovery(name, interfaces=["192.0.2.1"])
    with nothing_left(), pytest.raises(TransportError, match=r"discovery cannot use 192\.0\.2\.1 "):
        await server.start()
    assert server.addresses == []


async def test_a_server_without_name_is_refused_at_the_start() -> None:
    server = RpcServer(QUIC)
    server.enable_discovery(interfaces=LO)
    with nothing_left(), pytest.raises(ConfigurationError) as caught:
        await server.start()
    assert caught.value.message == "enable_discovery: give a name: no service is registered to take it from"


PROGRAM = """
import asyncio, sys
from echostream import RpcServer, handler

@handler("hello")
async def hello() -> str:
    return "from another process"

async def main() -> None:
    server = RpcServer("quic://127.0.0.1:0")
    server.register(hello)
    server.enable_discovery(sys.argv[1], interfaces=["127.0.0.1"])
    await server.serve()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_another_process_is_found_and_says_goodbye(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    events = aiter(RpcClient.browse(interfaces=LO))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, name, env=environment)
    async with asyncio.timeout(PATIENCE):
        assert isinstance(await _event_of(events, name), Arrived)
        async with discover(name) as client:
            assert await client.request("hello") == "from another process"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert isinstance(await _event_of(events, name), Departed)
        await events.aclose()  # type: ignore[attr-defined]


# Trust


async def test_the_first_contact_is_remembered_and_said(
    name: str, known: KnownServers, caplog: pytest.LogCaptureFixture
) -> None:
    async with announced(name) as server:
        assert await answer(name) == "me"
        assert known.items() == [(name, server.fingerprint)]
        assert f"= first contact with service {name!r}: its certificate {server.fingerprint} is trusted" in caplog.text
        caplog.clear()
        assert await answer(name) == "me"
        assert "first contact" not in caplog.text


async def test_a_server_that_was_forgotten_has_to_show_its_certificate_again(name: str, known: KnownServers) -> None:
    async def resumed() -> bool:
        async with discover(name) as client:
            await client.ping()
            connection: Any = client.session.peer.connection
            return bool(connection.resumed)

    async with announced(name):
        assert [await resumed(), await resumed()] == [False, True]
        known.forget(name)
        assert [await resumed(), await resumed()] == [False, True]


async def test_a_server_that_is_known_may_be_called_with_the_first_packet(name: str) -> None:
    async def state() -> str:
        async with discover(name, early_data=True) as client:
            before: str = client.state
            await client.ping()
            return before

    async with announced(name, more={"early_data": True}):
        assert [await state(), await state()] == ["open", "connecting"]


async def test_without_a_name_the_servers_own_is_remembered(name: str, known: KnownServers) -> None:
    async with announced(name) as server:
        await answer(where=lambda info: info.name == name)
        assert known.items() == [(name, server.fingerprint)]


def other_certificate() -> dict[str, Any]:
    now = time.time()
    other = issue("other", "127.0.0.1", start=now - 60, end=now + 3600)
    return {"certificate": other.pem, "private_key": other.key_pem}


async def test_a_changed_certificate_is_refused_with_both_fingerprints(name: str, known: KnownServers) -> None:
    async with announced(name) as server:
        before = server.fingerprint
        await answer(name)
    async with announced(name, more=other_certificate()) as server:
        for trust in ("known", "first-use"):
            with pytest.raises(CertificateError) as caught:
                await discover(name, trust=trust)
            assert caught.value.code is Status.UNAUTHENTICATED
            assert caught.value.message == (
                f"the certificate of service {name!r} has changed: it was {before}, it is {server.fingerprint};"
                " somebody may be in between, or its owner renewed it (then run: echostream certs forget"
                f" {name})"
            )
        assert not len(server.sessions)
        assert known.forget(name)
        assert await answer(name) == "me"


async def test_a_server_that_shows_another_certificate_than_it_announced_is_refused(
    name: str, known: KnownServers
) -> None:
    async with announced(name, more=other_certificate()) as server:
        port = Address.parse(server.addresses[0]).port
        assert port is not None
        lie = ServiceInfo.create(f"lie.{name}", addresses=LO, port=port, fingerprint="ab" * 32)
        advertiser = Advertiser(lie, interfaces=LO)
        await advertiser.start()
        try:
            with pytest.raises(CertificateError) as caught:
                await discover(f"lie.{name}")
        finally:
            await advertiser.close()
        assert caught.value.message.startswith(
            f"fingerprint of the server's certificate is {server.fingerprint}, expected {'ab' * 32}: "
        )
    assert known.items() == []


async def test_a_server_that_announces_no_certificate_is_refused(name: str) -> None:
    advertiser = Advertiser(ServiceInfo.create(name, addresses=LO, port=9), interfaces=LO)
    await advertiser.start()
    try:
        with pytest.raises(CertificateError) as caught:
            await discover(name)
    finally:
        await advertiser.close()
    assert caught.value.message == f"service {name!r} announced no certificate: name its ca= or fingerprint="


def ada(credentials: str | None) -> Principal | None:
    return Principal(credentials or "nobody")


async def test_credentials_are_kept_from_a_server_that_is_met_for_the_first_time(name: str) -> None:
    async with announced(name, more={"authenticate": ada}) as server:
        with pytest.raises(CertificateError) as caught:
            await discover(name, credentials="ada:secret")
        assert caught.value.message == (
            f"service {name!r} is met for the first time, so no credentials are sent to it: connect once without them,"
            ' or say trust="first-use", or name its ca or fingerprint'
        )
        async with discover(name) as client:
            assert session_of(server, client).principal == Principal("nobody")
        async with discover(name, credentials="ada:secret") as client:
            assert session_of(server, client).principal == Principal("ada:secret")


async def test_nothing_is_served_to_a_server_that_is_met_for_the_first_time(name: str) -> None:
    async with announced(name) as server:
        async with discover(name) as client:
            assert not client.session.trusted
            for register in (client.register, client.session.register):
                with pytest.raises(CertificateError) as caught:
                    register(Ui())
                assert caught.value.message == (
                    "this server was met for the first time, so nothing is served to it: connect once more now that"
                    ' its certificate is remembered, or say trust="first-use", or name its ca or fingerprint'
                )
        async with discover(name) as client:
            assert client.session.trusted
            client.register(Ui())
            assert await session_of(server, client).request("ui.ask") == "Ada"


async def test_trust_on_first_use_may_be_enough(name: str, known: KnownServers) -> None:
    async with announced(name, more={"authenticate": ada}) as server:
        async with discover(name, trust="first-use", credentials="ada:secret") as client:
            client.register(Ui())
            session = session_of(server, client)
            assert session.principal == Principal("ada:secret")
            assert await session.request("ui.ask") == "Ada"
        assert known.items() == [(name, server.fingerprint)]


@pytest.mark.parametrize("way", ["ca", "fingerprint"])
async def test_other_ways_to_trust_need_no_memory(name: str, known: KnownServers, way: str) -> None:
    async with announced(name, more={"authenticate": ada}) as server:
        trust = {"ca": "dev"} if way == "ca" else {"fingerprint": server.fingerprint}
        async with discover(name, credentials="ada:secret", **trust) as client:
            client.register(Ui())
            assert await session_of(server, client).request("ui.ask") == "Ada"
    assert known.items() == []


async def test_other_ways_to_trust_come_before_the_memory(name: str, known: KnownServers) -> None:
    known.remember(name, "ab" * 32)
    async with announced(name) as server:
        assert await answer(name, ca="dev") == "me"
        with pytest.raises(CertificateError, match="fingerprint of the server's certificate is"):
            await discover(name, fingerprint="cd" * 32)
        assert known.items() == [(name, "ab" * 32)]
        assert not len(server.sessions)


async def test_a_kind_of_trust_that_does_not_exist_is_refused(name: str) -> None:
    async with announced(name):
        with pytest.raises(ConfigurationError) as caught:
            await discover(name, trust="blind")
    assert caught.value.message == "trust: 'blind' is neither 'known' nor 'first-use'"


async def test_a_memory_that_cannot_be_written_ends_the_connection(
    name: str, known: KnownServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(self: KnownServers, service: str, fingerprint: str) -> None:
        raise ConfigurationError("known servers", "the disk is full")

    monkeypatch.setattr(KnownServers, "remember", unwritable)
    async with announced(name) as server:
        with nothing_left(but_timers=True), pytest.raises(ConfigurationError, match="the disk is full"):
            await discover(name)
        assert known.items() == []
        assert server.addresses
