"""Early data (0-RTT) end to end, in virtual time: what it saves, what it may not do, and that nothing is run twice."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from echostream import (
    ConfigurationError,
    ConnectionLostError,
    Limits,
    Principal,
    RpcClient,
    RpcServer,
    handler,
    service,
)
from echostream.config import QuicSettings
from echostream.protocol import frames as f
from echostream.protocol.codec import FrameCodec
from echostream.protocol.hello import Hello
from echostream.protocol.payload import PayloadCodec
from echostream.testing import Link, SimNetwork
from echostream.transport.base import Address, Connection
from echostream.transport.quic import QuicTransport
from echostream.transport.quic.transport import QuicListener
from echostream.transport.tls import ClientTls
from echostream.types import Role
from tests.transport.authority import issue, key_pem, self_signed
from tests.transport.conformance import Recorder
from tests.transport.lab import Pair, both_engines, every_pair

URL = "quic://server:4433"
ROUND_TRIP = 0.1


@service("shelf")
class Shelf:
    """The server's side: what is safe here, and what ran how often."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()

    @handler(safe=True)
    async def look(self, what: str) -> str:
        self.ran[what] += 1
        return what

    @handler
    async def put(self, what: str) -> str:
        self.ran[what] += 1
        return what

    @handler
    async def unsure(self, what: str) -> str:
        self.ran[what] += 1
        return what


@service("shelf")
class Contract(ABC):
    """The client's side, which takes more for safe than the server does."""

    @handler(safe=True)
    @abstractmethod
    async def look(self, what: str) -> str: ...

    @handler
    @abstractmethod
    async def put(self, what: str) -> str: ...

    @handler(safe=True)
    @abstractmethod
    async def unsure(self, what: str) -> str: ...


@pytest.fixture(scope="module")
def identity() -> bytes:
    """PEM of a certificate and its key."""
    key = ed25519.Ed25519PrivateKey.generate()
    return self_signed(key, "server") + key_pem(key)


class Place:
    """A server, and a client that comes back."""

    def __init__(self, network: SimNetwork, engines: Pair, identity: bytes) -> None:
        self.network, self.engines = network, engines
        self.shelf = Shelf()
        self.options: dict[str, Any] = {"certificate": identity, "engine": engines[1], "early_data": True}
        self.server: RpcServer | None = None
        self.fingerprint = ""

    async def serve(self, url: str = URL, **options: Any) -> None:
        """Start the server, or start it again."""
        with self.network.host("server"):
            if self.server is not None:
                await self.server.stop()
            self.server = RpcServer(url, **(self.options | options))
            self.server.register(self.shelf)
            await self.server.start()
        self.fingerprint = self.fingerprint or self.server.fingerprint

    async def connect(self, **options: Any) -> RpcClient:
        fingerprint = options.pop("fingerprint", self.fingerprint)
        with self.network.host("phone"):
            return await RpcClient.connect(
                URL, fingerprint=fingerprint, engine=self.engines[0], **({"early_data": True} | options)
            )

    async def visit(self) -> None:
        """Connect once, for the ticket."""
        client = await self.connect()
        await client.ping()
        await self.leave(client)

    async def leave(self, client: RpcClient) -> None:
        with self.network.host("phone"):
            await client.close()

    def client_connection(self, client: RpcClient) -> Any:
        return client.session.peer.connection


def run(
    engines: Pair,
    identity: bytes,
    scenario: Callable[[Place], Awaitable[None]],
    *,
    seed: int = 0,
    link: Link | None = None,
    **options: Any,
) -> None:
    """Run a scenario with a server that was visited once."""

    async def whole(network: SimNetwork) -> None:
        place = Place(network, engines, identity)
        place.options |= options
        await place.serve()
        await place.visit()
        await scenario(place)
        assert place.server is not None
        with network.host("server"):
            await place.server.stop(grace=0.0)
        await asyncio.sleep(5.0)
        assert network.leaks() == []

    SimNetwork(seed=seed, link=link or Link(delay=ROUND_TRIP / 2)).run(whole)


def trips(place: Place, since: float) -> float:
    return round((place.network.now - since) / ROUND_TRIP, 2)


# What it saves


@every_pair
def test_a_safe_call_is_answered_after_one_round_trip(engines: Pair, identity: bytes) -> None:
    retry = 1 if engines[1] == "qh3" else 0  # its servers ask for one

    async def scenario(place: Place) -> None:
        start = place.network.now
        first = await place.connect(early_data=False)
        assert await first.proxy(Contract).look("first") == "first"
        assert trips(place, start) == 3 + retry
        await place.leave(first)

        start = place.network.now
        client = await place.connect()
        assert trips(place, start) == 0
        assert (client.state, client.id) == ("connecting", "")
        certificate = place.client_connection(client).peer_certificate
        assert certificate is not None
        shelf = client.proxy(Contract)

        async def timed(awaitable: Awaitable[Any]) -> float:
            await awaitable
            return trips(place, start)

        took = await asyncio.gather(
            timed(shelf.look("safe")),
            timed(shelf.put("unsafe")),
            timed(client.request("shelf.look", "by name")),
            timed(client.emit("seen", 1, ack=True)),
            timed(client.ping()),
        )
        assert [*took] == [1 + retry, 2 + retry, 2 + retry, 2 + retry, 2 + retry]
        assert (client.state, len(client.id)) == ("open", 16)
        assert place.client_connection(client).resumed
        assert place.client_connection(client).peer_certificate == certificate
        assert place.server is not None
        [listener] = place.server._listeners
        assert isinstance(listener, QuicListener)
        assert listener.stats()["early_connections"] == 1
        assert place.shelf.ran == Counter(["first", "safe", "unsafe", "by name"])
        await place.leave(client)

    run(engines, identity, scenario)


@every_pair
def test_what_the_server_did_not_take_early_is_sent_again_and_runs_once(engines: Pair, identity: bytes) -> None:
    retry = 1 if engines[1] == "qh3" else 0

    async def scenario(place: Place) -> None:
        await place.serve()  # started again: it knows no ticket
        start = place.network.now
        client = await place.connect()
        shelf = client.proxy(Contract)
        names = [f"call {number}" for number in range(20)]
        assert await asyncio.gather(*map(shelf.look, names)) == names
        assert trips(place, start) == 2 + retry
        assert place.shelf.ran == Counter(names)
        assert not place.client_connection(client).resumed
        await place.leave(client)

    run(engines, identity, scenario)


@every_pair
def test_a_call_that_only_the_client_takes_for_safe_waits_for_the_handshake(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        client = await place.connect()
        shelf = client.proxy(Contract)
        given_up = asyncio.create_task(shelf.unsure("given up"))
        await asyncio.sleep(0)
        given_up.cancel()
        answers = asyncio.gather(shelf.look("safe"), shelf.unsure("unsure"))
        await asyncio.sleep(0.7 * ROUND_TRIP + (ROUND_TRIP if engines[1] == "qh3" else 0.0))
        assert place.shelf.ran == Counter(["safe"])  # both are here, one is held
        assert [*await answers] == ["safe", "unsure"]
        assert place.shelf.ran == Counter(["safe", "unsure"])
        await place.leave(client)

    run(engines, identity, scenario)


@both_engines
def test_of_several_clients_at_once_those_with_a_ticket_are_early(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        async def connect() -> tuple[RpcClient, str]:
            client = await place.connect()
            return client, client.state

        async def together(count: int) -> list[str]:
            visits = await asyncio.gather(*(connect() for _ in range(count)))
            for client, _ in visits:
                assert await client.proxy(Contract).look("x") == "x"
                await place.leave(client)
            return sorted(state for _, state in visits)

        assert await together(3) == ["connecting", "open", "open"]
        assert await together(4) == ["connecting", "connecting", "connecting", "open"]

    run(engines, identity, scenario)


@both_engines
def test_more_than_fits_early_waits_and_is_answered_all_the_same(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        client = await place.connect()
        shelf = client.proxy(Contract)
        names = [f"{number} {'x' * 900}" for number in range(40)] + ["y" * 100_000]
        assert await asyncio.gather(*map(shelf.look, names)) == names
        assert place.shelf.ran == Counter(names)
        await place.leave(client)

    run(engines, identity, scenario)


@every_pair
@pytest.mark.parametrize("seed", range(2))
def test_on_a_bad_network_every_call_is_answered_and_runs_once(engines: Pair, identity: bytes, seed: int) -> None:
    """Taken early, or not taken and sent again: whatever of it is lost."""

    async def scenario(place: Place) -> None:
        names = [f"{visit} {number}" for visit in range(4) for number in range(10)]
        for visit in range(4):
            if visit == 2:
                await place.serve()
            client = await place.connect()
            shelf, own = client.proxy(Contract, timeout=60.0), names[visit * 10 : visit * 10 + 10]
            looks, puts = asyncio.gather(*map(shelf.look, own[:5])), asyncio.gather(*map(shelf.put, own[5:]))
            assert [*await looks, *await puts] == own
            await place.leave(client)
        assert place.shelf.ran == Counter(names)

    run(
        engines,
        identity,
        scenario,
        seed=seed,
        link=Link(delay=0.02, jitter=0.03, loss=0.1, reorder=0.2, duplicate=0.1),
    )


# What it may not do


@every_pair
def test_a_first_flight_that_is_sent_again_runs_nothing(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        network = place.network
        network.record_packets()
        client = await place.connect()
        assert await client.proxy(Contract).look("once") == "once"
        flight = [packet.data for packet in network.packets if packet.sender == "phone"]
        server = network.host("server")

        async def replay(port_number: int = 4433) -> None:
            with network.host("attacker"):
                address = (server.address, port_number)
                port = network.connect(socket.AF_INET, address)
                for data in flight:
                    network.send(port, data, address)
                await asyncio.sleep(1.0)
                network.forget(port)

        await replay()  # while the connection is there
        await place.leave(client)
        await asyncio.sleep(70.0)
        await replay()  # after its end, when its connection ids are forgotten
        await place.serve("quic://server:4434")
        await replay(4434)  # at another place
        server.move()
        await place.serve()
        await replay()
        assert place.shelf.ran == Counter(["once"])
        await asyncio.sleep(70.0)  # half-open handshakes and what answers late packets

    run(engines, identity, scenario)


class Early(Recorder):
    """An early client of its own mind."""

    def __init__(self, connection: Connection, hello: Hello, *frames: tuple[int, f.Frame]) -> None:
        super().__init__(connection)
        payload = PayloadCodec(Limits())
        codec = FrameCodec(payload)
        assert connection.early
        assert connection.open_stream() == 0
        connection.write(0, codec.encode(f.HelloFrame(0, hello.encode(payload))))
        for stream_id, frame in frames:
            if stream_id:
                assert connection.open_stream() == stream_id
            connection.write(stream_id, codec.encode(frame))
        connection.flush()


def request(name: str, *, accepts_items: bool = False) -> f.RequestFrame:
    payload = PayloadCodec(Limits()).encode([["x"], {}])
    return f.RequestFrame(1, method=name, payload=payload, timeout_ns=0, accepts_items=accepts_items)


async def send_early(place: Place, hello: Hello, *frames: tuple[int, f.Frame]) -> Early:
    """Say something early, and vanish before the handshake is done."""
    with place.network.host("phone"):
        connection = await QuicTransport(engine=place.engines[0], early_data=True).dial(
            Address.parse(URL),
            accept=lambda link: Early(link, hello, *frames),
            tls=ClientTls.load(fingerprint=place.fingerprint),
        )
    recorder: Any = connection
    early: Early = recorder.receiver
    return early


HELLO = Hello(role=Role.CLIENT)


@every_pair
def test_who_vanishes_in_the_handshake_runs_what_is_safe_only(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        early = await send_early(place, HELLO, (0, request("shelf.put")))
        await asyncio.sleep(0.7 * ROUND_TRIP + (ROUND_TRIP if engines[1] == "qh3" else 0.0))
        place.network.partition("phone")
        assert place.server is not None
        assert len(place.server.sessions) == 1
        early.connection.abort()
        await asyncio.sleep(QuicSettings().handshake_timeout + 5.0)
        assert len(place.server.sessions) == 0
        assert place.shelf.ran == Counter()
        [listener] = place.server._listeners
        assert isinstance(listener, QuicListener)
        assert not listener._acceptor._half_open
        await asyncio.sleep(10.0)
        place.network.heal()

    run(engines, identity, scenario)


@both_engines
@pytest.mark.parametrize(
    ("frames", "what"),
    [
        ([(0, f.EventFrame(1, name="seen", payload=b"\xc0"))], "event 'seen'"),
        ([(4, f.StreamOpenFrame(1, name="bytes"))], "application stream"),
        ([(4, request("shelf.look", accepts_items=True))], "streaming call"),
    ],
)
def test_nothing_else_travels_early(
    engines: Pair,
    identity: bytes,
    frames: list[tuple[int, f.Frame]],
    what: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(place: Place) -> None:
        early = await send_early(place, HELLO, *frames)
        reason = await early.ended()
        assert reason.by_peer
        assert f"{what} in early data" in caplog.text
        assert "cannot handle" not in caplog.text
        assert place.shelf.ran == Counter()

    run(engines, identity, scenario)


@both_engines
def test_early_credentials_are_looked_at_after_the_handshake_only(engines: Pair, identity: bytes) -> None:
    seen: list[str | None] = []

    def authenticate(credentials: str | None) -> Principal | None:
        seen.append(credentials)
        return Principal("somebody")

    async def scenario(place: Place) -> None:
        seen.clear()
        hello = Hello(role=Role.CLIENT, credentials="secret")
        await send_early(place, hello, (0, request("shelf.look")))
        await asyncio.sleep(0.7 * ROUND_TRIP + (ROUND_TRIP if engines[1] == "qh3" else 0.0))
        place.network.partition("phone")
        await asyncio.sleep(30.0)
        place.network.heal()
        assert seen == []
        await place.visit()
        await send_early(place, hello, (0, request("shelf.look")))
        await asyncio.sleep(1.0)
        assert "secret" in seen
        assert place.shelf.ran == Counter(["x"])

    run(engines, identity, scenario, authenticate=authenticate)


@both_engines
def test_a_client_with_credentials_waits(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        client = await place.connect(credentials="secret")
        assert client.state == "open"
        await place.leave(client)

    run(engines, identity, scenario)


@every_pair
def test_a_server_takes_early_data_only_when_it_says_so(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        client = await place.connect()
        assert client.state == "open"
        assert place.client_connection(client).resumed
        assert await client.proxy(Contract).look("x") == "x"
        await place.leave(client)

    run(engines, identity, scenario, early_data=False)


def test_a_server_must_have_room_for_early_data() -> None:
    with pytest.raises(ConfigurationError, match="early_data: takes up to 8192 bytes before a Hello is accepted"):
        RpcServer(early_data=True, limits=Limits(max_unauthenticated_bytes=4096))
    assert RpcServer.builder().early_data().build().addresses == []


# When it goes wrong


@both_engines
def test_a_server_that_is_gone_ends_the_calls(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        assert place.server is not None
        with place.network.host("server"):
            await place.server.stop()
        client = await place.connect()
        with pytest.raises(ConnectionLostError, match="refused"):
            await client.proxy(Contract).look("x")
        await place.leave(client)
        place.network.partition("phone")
        await place.serve()

    run(engines, identity, scenario)


@both_engines
def test_a_network_that_is_gone_ends_the_calls(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        place.network.partition("phone")
        client = await place.connect()
        answers = await asyncio.gather(
            client.proxy(Contract, timeout=60.0).look("x"),
            client.proxy(Contract, timeout=60.0).put("x"),
            client.emit("seen", ack=True, timeout=60.0),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {ConnectionLostError}
        assert "10 s" in str(answers[0])
        await place.leave(client)
        place.network.heal()

    run(engines, identity, scenario)


@both_engines
@pytest.mark.parametrize("after", [0.0, 0.06, 0.3])
def test_a_client_may_close_at_any_time(engines: Pair, identity: bytes, after: float) -> None:
    async def scenario(place: Place) -> None:
        client = await place.connect()
        call = asyncio.create_task(client.proxy(Contract).put("x"))
        await asyncio.sleep(after)
        await place.leave(client)
        with suppress(ConnectionLostError):
            await call

    run(engines, identity, scenario)


@every_pair
def test_a_server_with_another_certificate_is_not_called(engines: Pair, identity: bytes) -> None:
    async def scenario(place: Place) -> None:
        other = issue("server", "server", start=place.network.clock.wall() - 60, end=place.network.clock.wall() + 3600)
        await place.serve(certificate=other.pem, private_key=other.key_pem)
        client = await place.connect()
        with pytest.raises(ConnectionLostError, match=f"is {other.fingerprint}, expected {place.fingerprint}"):
            await client.proxy(Contract).look("x")
        assert place.shelf.ran == Counter()
        await place.leave(client)

    run(engines, identity, scenario)


async def test_memory_connections_have_no_handshake_to_save() -> None:
    server = RpcServer("memory://early", early_data=True)
    server.register(Shelf())
    async with server, RpcClient.connect("memory://early", early_data=True) as client:
        assert await client.proxy(Contract).look("x") == "x"
