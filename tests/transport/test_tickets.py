"""Session tickets: what is kept and for how long, under which trust decision it is used, and both engines with them."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.errors import CertificateError
from echostream.testing import SimNetwork
from echostream.transport.base import Address, Connection
from echostream.transport.quic import QuicTransport
from echostream.transport.quic.tickets import ClientTickets, Resumption, ServerTickets, client_tickets
from echostream.transport.quic.transport import QuicListener
from echostream.transport.tls import ClientTls, ServerTls
from echostream.types import clock
from tests.transport.authority import Issued, issue
from tests.transport.conformance import Recorder
from tests.transport.lab import Lab, Pair, both_engines, every_pair, make_engines

NOW = time.time()
DAY = 86_400.0
URL = "quic://server:4433"
SETTINGS = QuicSettings()


@pytest.fixture(scope="module")
def authority() -> Issued:
    return issue("authority", ca=True, start=NOW - DAY, end=NOW + 30 * DAY)


@pytest.fixture(scope="module")
def server_tls(authority: Issued) -> ServerTls:
    leaf = issue("server", "server", "localhost", by=authority, start=NOW - DAY, end=NOW + 2 * DAY)
    return ServerTls.load(leaf.pem, leaf.key_pem)


@pytest.fixture(scope="module")
def client_tls(authority: Issued) -> ClientTls:
    return ClientTls.load(ca=authority.pem)


# What is kept


def make(tickets: ClientTickets, tls: ClientTls | None = None, server: str = "a", **settings: Any) -> Resumption:
    tls = tls or ClientTls.load(insecure=True)
    return Resumption(tickets, server, tls, "server", QuicSettings(**settings), early_data=True)


def get(tickets: ClientTickets, ticket: object, **options: Any) -> None:
    """Connect to a server that gives a ticket."""
    resumption = make(tickets, **options)
    resumption.keep(ticket, b"identity", allows_early_data=True)
    resumption.trust((b"certificate",))


def chosen(tickets: ClientTickets, **options: Any) -> object:
    resumption = make(tickets, **options)
    resumption.choose()
    return resumption.ticket


def test_a_ticket_is_used_once_and_the_newest_first() -> None:
    tickets = ClientTickets()
    get(tickets, 1)
    get(tickets, 2)
    assert [chosen(tickets), chosen(tickets), chosen(tickets)] == [2, 1, None]


def test_a_client_keeps_a_few_tickets_of_a_few_servers() -> None:
    tickets = ClientTickets()
    for number in range(10):
        get(tickets, number, max_tickets_per_server=3)
    assert len(tickets) == 3
    for server in "bcde":
        get(tickets, server, server=server, max_ticket_servers=2)
    assert (len(tickets), chosen(tickets), chosen(tickets, server="d"), chosen(tickets, server="e")) == (
        2,
        None,
        "d",
        "e",
    )


def test_no_ticket_is_kept_where_none_is_wanted_or_where_it_is_too_long() -> None:
    tickets = ClientTickets()
    get(tickets, 1, max_tickets_per_server=0)
    make(tickets).keep(1, bytes(1025), allows_early_data=True)
    assert len(tickets) == 0


def test_tickets_wait_until_the_server_is_trusted() -> None:
    tickets = ClientTickets()
    resumption = make(tickets)
    for number in range(10):
        resumption.keep(number, b"identity", allows_early_data=False)
    assert len(tickets) == 0
    resumption.trust((b"certificate",))
    assert len(tickets) == SETTINGS.max_tickets_per_server
    assert chosen(tickets) == 9


def test_early_data_needs_leave_and_a_greeting() -> None:
    for allowed, greeting, early in ((True, "hello", True), (False, "hello", False), (True, None, False)):
        tickets = ClientTickets()
        resumption = make(tickets)
        resumption.keep("ticket", b"identity", allows_early_data=allowed)
        resumption.trust((b"certificate",))
        if greeting:
            resumption.greet(greeting)
        following = make(tickets)
        following.choose()
        assert (following.ticket, following.early_data, following.greeting) == ("ticket", early, greeting)


def test_a_ticket_is_used_under_its_own_trust_decision_only(authority: Issued, server_tls: ServerTls) -> None:
    ca, other = authority.pem, issue("other", ca=True, start=NOW - DAY, end=NOW + DAY).pem
    decisions = [
        ClientTls.load(ca=ca),
        ClientTls.load(ca=other),
        ClientTls.load(fingerprint=server_tls.fingerprint),
        ClientTls.load(fingerprint=[server_tls.fingerprint, "0" * 64]),
        ClientTls.load(insecure=True),
        ClientTls.load(ca=ca, server_name="server"),
        ClientTls.load(ca=ca, certificate=b"".join(server_tls.to_pem())),
    ]
    tickets = ClientTickets()
    for index, tls in enumerate(decisions):
        get(tickets, index, tls=tls)
    assert len(tickets) == len(decisions)
    assert decisions[0].decision == ClientTls.load(ca=ca).decision


def test_a_servers_ticket_is_taken_back_once() -> None:
    tickets = ServerTickets(QuicSettings(max_server_tickets=2))
    for number in range(4):
        tickets.issue(b"%d" % number, number)
    assert len(tickets) == 2
    assert [tickets.redeem(b"%d" % number) for number in (0, 3, 3, 2)] == [None, 3, None, 2]


def test_tickets_are_forgotten_after_their_lifetime() -> None:
    async def scenario(network: SimNetwork) -> None:
        kept, issued = ClientTickets(), ServerTickets(QuicSettings(ticket_lifetime=100.0))
        get(kept, 1, ticket_lifetime=100.0)
        issued.issue(b"1", 1)
        issued.issue(b"2", 2)
        await asyncio.sleep(99.0)
        assert issued.redeem(b"1") == 1
        issued.issue(b"3", 3)
        get(kept, 2, ticket_lifetime=100.0)
        get(kept, 3, server="b", ticket_lifetime=100.0)
        await asyncio.sleep(1.0)
        assert issued.redeem(b"2") is None
        assert [chosen(kept), chosen(kept), chosen(kept, server="b")] == [2, None, 3]
        await asyncio.sleep(99.0)
        assert issued.redeem(b"unknown") is None
        assert len(issued) == 0

    SimNetwork().run(scenario)


# The engines


class Visits:
    """Connections of one client to one server, engine to engine."""

    def __init__(self, tls: ServerTls, engines: Pair, *, early_data: bool = False) -> None:
        self.kept, self.issued = ClientTickets(), ServerTickets(SETTINGS, early_data=early_data)
        self._tls, self._engines = tls, engines

    def resumption(self, *, early_data: bool) -> Resumption:
        made = Resumption(
            self.kept, "server", ClientTls.load(insecure=True), "localhost", SETTINGS, early_data=early_data
        )
        made.choose()
        return made

    def go(self, *, early_data: bool = False, early: bytes = b"") -> Lab:
        resumption = self.resumption(early_data=early_data)
        assert resumption.early_data == bool(early)
        lab = Lab(self._tls, self._engines, resumption=resumption, tickets=self.issued, early=early)
        lab.run()
        resumption.trust(lab.client.peer_chain or resumption.chain)
        resumption.greet("hello")
        return lab


@every_pair
def test_a_ticket_saves_the_certificate(server_tls: ServerTls, engines: Pair) -> None:
    visits = Visits(server_tls, engines)
    first, second = visits.go(), visits.go()
    assert [lab.client.resumed for lab in (first, second)] == [False, True]
    assert [lab.server.resumed for lab in (first, second)] == [False, True]
    assert first.client.peer_chain
    assert second.client.peer_chain == ()
    assert len(visits.kept) == len(visits.issued) == 1  # each used once, and another one given


@every_pair
def test_a_ticket_that_the_server_does_not_know_means_a_full_handshake(server_tls: ServerTls, engines: Pair) -> None:
    visits = Visits(server_tls, engines)
    visits.go()
    visits.issued = ServerTickets(SETTINGS)  # it was started again
    lab = visits.go()
    assert not lab.client.resumed
    assert lab.client.peer_chain


@both_engines
def test_a_ticket_that_the_engine_would_not_offer_means_a_full_handshake(server_tls: ServerTls, engines: Pair) -> None:
    """The engines look at the calendar, which may have been set meanwhile, and at the lifetime that the server said."""
    visits = Visits(server_tls, engines, early_data=True)
    visits.go()
    resumption = visits.resumption(early_data=True)
    resumption.ticket.not_valid_before += datetime.timedelta(days=1)
    lab = Lab(server_tls, engines, resumption=resumption, tickets=visits.issued)
    assert not resumption.early_data
    lab.run()
    assert lab.at_client.protocol is not None
    assert not lab.client.resumed


@both_engines
def test_canary_withhold_early_data(server_tls: ServerTls, engines: Pair) -> None:
    """A server that takes no early data says so in its tickets, or clients would try."""
    visits = Visits(server_tls, engines)
    visits.go()
    assert not visits.go(early_data=True).at_server.calls


@every_pair
def test_early_data_arrives_before_the_handshake_is_done(server_tls: ServerTls, engines: Pair) -> None:
    visits = Visits(server_tls, engines, early_data=True)
    visits.go()
    lab = visits.go(early_data=True, early=b"early")
    assert lab.at_server.calls == [("data", 0, b"early", False)]
    assert lab.server.resumed


@every_pair
def test_canary_send_again(server_tls: ServerTls, engines: Pair) -> None:
    """Early data that the server does not take is sent again with the end of the handshake, not a round trip later."""
    visits = Visits(server_tls, engines, early_data=True)
    visits.go()
    visits.issued = ServerTickets(SETTINGS, early_data=True)
    resumption = visits.resumption(early_data=True)
    lab = Lab(server_tls, engines, resumption=resumption, tickets=visits.issued, early=b"early")
    lab.server.deliver(lab.at_server)
    assert lab.at_server.calls == []
    lab.carry(lab.server, lab.client, ("192.0.2.2", 4433))
    lab.client.deliver(lab.at_client)
    lab.carry(lab.client, lab.server, ("192.0.2.1", 1000))
    lab.server.deliver(lab.at_server)
    assert lab.at_server.calls == [("data", 0, b"early", False)]


@both_engines
def test_a_client_that_is_not_heard_goes_on_with_its_hello(server_tls: ServerTls, engines: Pair) -> None:
    """qh3 asks for a key that is not there yet when it probes for the second time."""
    visits = Visits(server_tls, engines, early_data=True)
    visits.go()
    resumption = visits.resumption(early_data=True)
    now = 1000.0
    engine = make_engines(engines[0], SETTINGS).connect(
        ("192.0.2.2", 4433), server_name="localhost", now=now, resumption=resumption
    )
    stream = engine.open_stream(unidirectional=False)
    assert stream == 0
    engine.send(stream, b"early", fin=False)
    hellos = 0
    for _ in range(100):
        now += 0.1
        due = engine.timer()
        if due is not None and due <= now:
            engine.handle_timer(now)
        hellos += any(data[0] & 0xF0 == 0xC0 for data, _ in engine.transmit(now))
    assert hellos >= 4


# The transport


Scenario = Callable[["Place"], Awaitable[None]]


class Place:
    """A simulated network with a server, and dials to it."""

    def __init__(self, network: SimNetwork, engines: Pair, tls: ServerTls) -> None:
        self.network, self.engines, self.tls = network, engines, tls
        self.listener: QuicListener | None = None

    async def listen(self) -> None:
        with self.network.host("server"):
            if self.listener is not None:
                await self.listener.close()
            transport = QuicTransport(engine=self.engines[1])
            self.listener = await transport.listen(Address.parse(URL), accept=Recorder, tls=self.tls)

    async def dial(self, tls: ClientTls) -> tuple[bool, bytes | None]:
        """Return whether the handshake was resumed, and whose certificate the server has."""
        with self.network.host("client"):
            connection: Any = await QuicTransport(engine=self.engines[0]).dial(
                Address.parse(URL), accept=Recorder, tls=tls
            )
        await asyncio.sleep(1.0)
        connection.close(3000)
        await asyncio.sleep(1.0)
        return connection.resumed, connection.peer_certificate


def in_place(engines: Pair, tls: ServerTls, scenario: Scenario) -> None:
    async def run(network: SimNetwork) -> None:
        place = Place(network, engines, tls)
        await place.listen()
        await scenario(place)
        assert place.listener is not None
        with network.host("server"):
            await place.listener.close()

    SimNetwork(limit=None).run(run)


@every_pair
def test_who_connects_again_resumes_and_knows_the_certificate(
    engines: Pair, server_tls: ServerTls, client_tls: ClientTls, authority: Issued
) -> None:
    async def scenario(place: Place) -> None:
        first = await place.dial(client_tls)
        assert not first[0]
        assert first[1] is not None
        assert await place.dial(client_tls) == (True, first[1])
        assert await place.dial(ClientTls.load(ca=authority.pem)) == (True, first[1])  # the same decision, loaded anew
        assert place.listener is not None
        stats = place.listener.stats()
        assert (stats["handshakes_started"], stats["handshakes_resumed"], stats["early_connections"]) == (3, 2, 0)
        assert await place.dial(ClientTls.load(fingerprint=server_tls.fingerprint)) == (False, first[1])
        await place.listen()  # another server at the same place
        assert await place.dial(client_tls) == (False, first[1])

    in_place(engines, server_tls, scenario)


@both_engines
def test_a_certificate_that_expired_is_not_resumed(engines: Pair, authority: Issued, client_tls: ClientTls) -> None:
    leaf = issue("server", "server", by=authority, start=NOW - DAY, end=NOW + 600.0)
    tls = ServerTls.load(leaf.pem, leaf.key_pem)

    async def scenario(place: Place) -> None:
        await place.dial(client_tls)
        assert (await place.dial(client_tls))[0]
        await asyncio.sleep(700.0 + NOW - clock.wall())
        with pytest.raises(CertificateError, match="expired"):
            await place.dial(client_tls)
        assert len(client_tickets()) == 0

    in_place(engines, tls, scenario)


@both_engines
def test_a_server_may_have_to_show_its_certificate_again(engines: Pair, server_tls: ServerTls) -> None:
    tls = ClientTls.load(fingerprint=server_tls.fingerprint)

    async def scenario(place: Place) -> None:
        await place.dial(tls)
        again = ClientTls(fingerprints=tls.fingerprints, shows_again=True)
        assert not (await place.dial(again))[0]
        assert (await place.dial(tls))[0]

    in_place(engines, server_tls, scenario)


@both_engines
def test_a_server_that_is_not_trusted_leaves_no_ticket(engines: Pair, server_tls: ServerTls) -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(CertificateError):
            await place.dial(ClientTls.load(fingerprint="0" * 64))
        assert len(client_tickets()) == 0

    in_place(engines, server_tls, scenario)


@every_pair
def test_early_data_that_nobody_asked_for_ends_the_connection(
    engines: Pair, server_tls: ServerTls, client_tls: ClientTls
) -> None:
    """The server's tickets do not allow it, so no client of good will sends any."""

    class Forward(Recorder):
        def __init__(self, connection: Connection) -> None:
            super().__init__(connection)
            assert connection.early
            assert connection.open_stream() == 0
            connection.write(0, b"early")
            connection.flush()

    async def scenario(place: Place) -> None:
        await place.dial(client_tls)
        [[kept]] = client_tickets()._by_key.values()
        kept.allows_early_data, kept.ticket.max_early_data_size, kept.origin.greeting = True, 0xFFFFFFFF, "hello"
        with place.network.host("client"):
            connection: Any = await QuicTransport(engine=engines[0], early_data=True).dial(
                Address.parse(URL), accept=Forward, tls=client_tls
            )
        forward: Forward = connection.receiver
        assert "protocol violation" in (await forward.ended()).reason
        assert place.listener is not None
        assert place.listener.stats()["connections"] == 0

    in_place(engines, server_tls, scenario)
