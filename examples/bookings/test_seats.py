"""How a service is tested: from a plain method to a bad network, and ten minutes that take no time."""

import asyncio

import pytest

from echostream import DeadlineExceededError, RpcClient, RpcError, RpcServer, Status
from echostream.testing import ClientFactory, ServerFactory, SimNetwork, connect_in_memory

from .seats import HOLD_SECONDS, Database, Payments, SeatChanged, Seats, Taken, get_database, get_payments, make_server


class FakePayments(Payments):
    async def charge(self, name: str, cents: int) -> str:
        if name == "bert":
            raise ConnectionResetError("the bank hung up")
        return f"{name} paid {cents / 100:.2f}"


@pytest.fixture
def server() -> RpcServer:  # not started: the tests say where it runs
    server = make_server()
    server.dependency_overrides[get_payments] = FakePayments
    return server


# A handler is a method: call it, and give it what it would be given.


async def test_a_seat_that_nobody_holds_is_not_sold() -> None:
    seats = Seats(RpcServer())
    with pytest.raises(Taken, match="A1 is not held for ann"):
        await seats.book("A1", "ann", db=Database(), bank=FakePayments())


# The whole way through arguments, errors and permissions, without a network.


async def test_a_seat_is_booked_once(server: RpcServer) -> None:
    async with connect_in_memory(server) as client:
        seats = client.proxy(Seats)
        assert await seats.hold("A1", "ann") == HOLD_SECONDS
        with pytest.raises(Taken, match="A1 is taken"):  # the class crosses the wire
            await seats.hold("A1", "bert")
        assert await seats.book("A1", "ann") == "ann paid 45.00"


async def test_only_the_box_office_knows_the_takings(server: RpcServer) -> None:
    full = Database()
    full.booked |= {"A1", "A2"}
    server.dependency_overrides[get_database] = lambda: full
    async with connect_in_memory(server, credentials="secret") as office:
        assert await office.proxy(Seats).takings() == 9000
    async with connect_in_memory(server) as guest:
        with pytest.raises(RpcError) as refused:
            await guest.proxy(Seats).takings()
        assert refused.value.code is Status.PERMISSION_DENIED


async def test_what_the_bank_does_wrong_is_seen_here(server: RpcServer) -> None:
    async with connect_in_memory(server) as client:
        await client.proxy(Seats).hold("A1", "bert")
        with pytest.raises(ConnectionResetError, match="hung up"):  # a client elsewhere sees INTERNAL
            await client.proxy(Seats).book("A1", "bert")


# The fixtures of the plugin: made in one line, closed at the end of the test.


async def test_everybody_hears_of_a_seat(server: RpcServer, es_server: ServerFactory, es_client: ClientFactory) -> None:
    await es_server(server)
    ann, bert = await es_client(server), await es_client(server)
    heard: asyncio.Queue[SeatChanged] = asyncio.Queue()
    bert.on(SeatChanged, heard.put_nowait)
    await ann.proxy(Seats).hold("A1", "ann")
    assert await heard.get() == SeatChanged(seat="A1", free=False)


# A test with es_network runs inside a simulation: QUIC, losses and all, and time that does not wait.


async def test_a_seat_is_free_again_after_ten_minutes(
    server: RpcServer, es_network: SimNetwork, es_server: ServerFactory, es_client: ClientFactory
) -> None:
    client = await es_client(await es_server(server))
    seats = client.proxy(Seats)
    await seats.hold("A1", "ann")
    await asyncio.sleep(HOLD_SECONDS - 1)
    with pytest.raises(Taken):
        await seats.hold("A1", "bert")
    await asyncio.sleep(2)
    await seats.hold("A1", "bert")


@pytest.mark.es_network(delay=0.05, jitter=0.05, loss=0.1)
async def test_ten_people_who_want_one_seat(
    server: RpcServer, es_network: SimNetwork, es_server: ServerFactory
) -> None:
    await es_server(server)

    async def hold(name: str) -> bool:
        with es_network.host(name):
            async with RpcClient.connect(server.addresses[0], fingerprint=server.fingerprint, timeout=60.0) as client:
                try:
                    return await client.proxy(Seats, timeout=60.0).hold("A1", name) > 0
                except Taken:
                    return False

    assert sum(await asyncio.gather(*(hold(f"guest{number}") for number in range(10)))) == 1


async def test_a_guest_in_a_tunnel_is_told_in_time(
    server: RpcServer, es_network: SimNetwork, es_server: ServerFactory, es_client: ClientFactory
) -> None:
    client = await es_client(await es_server(server))
    es_network.partition("client")
    with pytest.raises(DeadlineExceededError):
        await client.proxy(Seats, timeout=5.0).hold("A1", "ann")
    es_network.heal()
    assert await client.proxy(Seats, timeout=30.0).hold("A2", "ann") == HOLD_SECONDS  # the session is the same
