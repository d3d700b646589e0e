"""What was written and not sent: bounded for each connection and for all, and given up where it does not move."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from echostream import Limits, RpcClient, RpcServer, handler, service
from echostream.errors import CloseCode
from echostream.protocol.account import Account
from echostream.session.backlog import Backlog
from echostream.session.deadlines import DeadlineWheel
from echostream.session.turns import Turns
from echostream.testing import Link, SimNetwork
from tests.session.world import duo, frozen

KIB = 1 << 10
LIMITS = Limits(
    max_unsent_bytes=100 * KIB, max_total_unsent_bytes=300 * KIB, high_watermark_bytes=32 * KIB,
    low_watermark_bytes=8 * KIB, stall_timeout=6.0,
)  # fmt: skip


class _Connection:
    """Holds what it is told to."""

    def __init__(self) -> None:
        self.unsent: dict[int, int] = {}
        self.unacknowledged = False

    def unsent_bytes(self, stream_id: int) -> int:
        return self.unsent.get(stream_id, 0)

    def has_undelivered(self) -> bool:
        return self.unacknowledged or any(self.unsent.values())

    def acknowledged(self) -> object:
        return None if self.unacknowledged else object()


class _Desk:
    """A backlog and what it said."""

    def __init__(self, account: Account) -> None:
        self.connection = _Connection()
        self.ended: list[str] = []
        self.went_on = 0
        loop = asyncio.get_running_loop()
        self.wheel = DeadlineWheel(loop)
        self.large = Turns(loop, 1)
        self.backlog = Backlog(
            self.connection,  # type: ignore[arg-type]
            account.open(LIMITS.max_unsent_bytes),
            LIMITS,
            self.wheel,
            self.large,
            loop,
            go_on=self._go_on,
            end=self.ended.append,
        )

    def _go_on(self) -> None:
        self.went_on += 1

    def write(self, size: int, *, sent: int = 0, stream_id: int = 0) -> None:
        """As the driver does."""
        backlog = self.backlog
        backlog.written_bytes += size
        backlog.streams[stream_id] = None
        self.connection.unsent[stream_id] = self.connection.unsent.get(stream_id, 0) + size - sent
        if backlog.written_bytes >= backlog.count_at:
            backlog.count()

    def send(self, size: int, stream_id: int = 0) -> None:
        self.connection.unsent[stream_id] -= size


def simulated(scenario: Callable[[_Desk], Any]) -> None:
    async def run(_network: SimNetwork) -> None:
        desk = _Desk(Account(LIMITS.max_total_unsent_bytes))
        await scenario(desk)
        desk.backlog.close()
        assert not len(desk.wheel)
        desk.wheel.close()

    SimNetwork().run(run)


def test_writers_wait_above_the_limit_until_half_is_left() -> None:
    async def scenario(desk: _Desk) -> None:
        desk.write(70 * KIB)
        assert not desk.backlog.full
        desk.write(40 * KIB, stream_id=4)
        desk.backlog.count()
        assert (desk.backlog.full, desk.backlog.unsent_bytes) == (True, 110 * KIB)
        desk.send(50 * KIB)
        await asyncio.sleep(0.2)  # nothing gives rise to a count but its own timer
        assert (desk.backlog.full, desk.went_on) == (True, 0)
        desk.send(20 * KIB)
        await asyncio.sleep(0.2)
        assert (desk.backlog.full, desk.went_on) == (False, 1)
        assert set(desk.backlog.streams) == {4}
        assert not desk.ended

    simulated(scenario)


def test_twice_the_limit_ends_the_connection_once() -> None:
    async def scenario(desk: _Desk) -> None:
        for _ in range(5):
            desk.write(70 * KIB)
        await asyncio.sleep(0)
        assert desk.ended == [f"{210 * KIB} bytes wait to be sent to it, limit {100 * KIB} (max_unsent_bytes)"]
        desk.backlog.count()
        desk.backlog.expire()

    simulated(scenario)


def test_one_large_payload_may_be_far_above_the_limit() -> None:
    async def scenario(desk: _Desk) -> None:
        await desk.large.claim(500 * KIB)
        desk.write(500 * KIB)
        await asyncio.sleep(0)
        assert (desk.backlog.full, desk.ended) == (True, [])
        desk.write(220 * KIB, stream_id=4)
        await asyncio.sleep(0)
        assert len(desk.ended) == 1

    simulated(scenario)


def test_above_the_common_limit_only_those_wait_that_have_more_than_their_part() -> None:
    async def run(_network: SimNetwork) -> None:
        account = Account(LIMITS.max_total_unsent_bytes)
        desks = [_Desk(account) for _ in range(5)]
        for desk in desks[:3]:
            desk.write(95 * KIB)
        desks[3].write(10 * KIB)
        desks[4].write(10 * KIB)
        for desk in desks:
            desk.backlog.count()
        assert [desk.backlog.full for desk in desks] == [True, True, True, False, False]
        desks[0].send(95 * KIB)
        await asyncio.sleep(0.3)
        assert not any(desk.backlog.full for desk in desks[3:])
        assert not desks[0].backlog.full
        for desk in desks:
            desk.backlog.close()
            desk.wheel.close()
        assert (account.held, account.shares) == (0, 0)

    SimNetwork().run(run)


def test_a_peer_that_takes_nothing_is_given_up_after_the_timeout() -> None:
    async def scenario(desk: _Desk) -> None:
        desk.write(50, sent=10)
        await asyncio.sleep(5.9)
        assert not desk.ended
        await asyncio.sleep(1.2)
        assert desk.ended == ["it took nothing of 40 bytes for 6 s (stall_timeout)"]

    simulated(scenario)


def test_a_peer_that_acknowledges_nothing_is_given_up_after_the_timeout() -> None:
    async def scenario(desk: _Desk) -> None:
        desk.connection.unacknowledged = True
        desk.write(50, sent=10)
        for _ in range(7):
            await asyncio.sleep(1)
            desk.send(5)  # probes
        assert desk.ended == ["it acknowledged nothing for 6 s (stall_timeout)"]

    simulated(scenario)


def test_a_slow_peer_is_not_given_up_and_the_timer_rests_when_all_was_sent() -> None:
    async def scenario(desk: _Desk) -> None:
        desk.write(50)
        for _ in range(9):
            await asyncio.sleep(5)
            desk.send(5)
        assert not desk.ended
        assert desk.backlog.is_watched
        desk.send(5)
        await asyncio.sleep(2)
        assert not desk.backlog.is_watched
        assert not len(desk.wheel)
        desk.write(1)
        assert desk.backlog.is_watched

    simulated(scenario)


# With all that is around it


@service("books")
class Books:
    @handler
    async def page(self, size: int) -> bytes:
        return bytes(size)

    @handler
    async def pages(self, count: int, size: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(size)


@asynccontextmanager
async def library(network: SimNetwork, limits: Limits, engine: str = "aioquic") -> AsyncGenerator[RpcServer]:
    with network.host("server"):
        server = RpcServer("quic://server:5000", limits=limits, engine=engine)
        server.register(Books())
        await server.start()
    yield server
    with network.host("server"):
        await server.stop(grace=0.0)


def connect(server: RpcServer) -> Any:
    return RpcClient.connect("quic://server:5000", fingerprint=server.fingerprint, timeout=60.0, engine="aioquic")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(100):
        while not condition():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.05)


async def ask_for_much(client: RpcClient, size: int, count: int) -> list[Any]:
    pages = (client.proxy(Books, timeout=300.0).page(size) for _ in range(count))
    return await asyncio.gather(*pages, return_exceptions=True)


def test_writers_of_many_streams_wait_for_each_other_and_all_arrives_at_last() -> None:
    async def read(client: RpcClient) -> int:
        return sum([len(page) async for page in client.proxy(Books).pages(40, 1000)])

    async def scenario(network: SimNetwork) -> None:
        network.join("server", "client", Link(delay=0.01, bandwidth=1_000_000, queue_bytes=100_000))
        async with library(network, LIMITS) as server:
            with network.host("client"):
                async with connect(server) as client:
                    reading = asyncio.gather(*(read(client) for _ in range(40)))
                    [session] = server.sessions
                    most, waited = 0, False
                    while not reading.done():
                        waited |= session.peer.backlog.full
                        session.peer.backlog.count()
                        most = max(most, session.peer.backlog.unsent_bytes)
                        await asyncio.sleep(0.02)
                    assert await reading == [40_000] * 40
                    assert waited
                    assert most < 2 * LIMITS.max_unsent_bytes

    SimNetwork().run(scenario)


def test_answers_that_nobody_can_take_wait_with_their_calls_and_all_arrive_at_last() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.join("server", "client", Link(delay=0.01, bandwidth=500_000, queue_bytes=100_000))
        async with library(network, LIMITS) as server:
            with network.host("client"):
                async with connect(server) as client:
                    asking = asyncio.ensure_future(ask_for_much(client, 20_000, 60))
                    await until(lambda: len(server.sessions))
                    [session] = server.sessions
                    most = 0
                    while not asking.done():
                        session.peer.backlog.count()
                        most = max(most, session.peer.backlog.unsent_bytes)
                        await asyncio.sleep(0.05)
                    assert [len(page) for page in await asking] == [20_000] * 60
                    assert 32 * KIB < most < 150 * KIB

    SimNetwork().run(scenario)


def test_answers_far_above_the_limit_arrive_one_after_another() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.join("server", "client", Link(delay=0.01, bandwidth=10_000_000, queue_bytes=1_000_000))
        async with library(network, LIMITS) as server:
            with network.host("client"):
                async with connect(server) as client:
                    pages = await ask_for_much(client, 600 * KIB, 3)
                    assert [len(page) for page in pages] == [600 * KIB] * 3

    SimNetwork().run(scenario)


def grants_nothing(client: RpcClient) -> None:
    """Let a client's engine open no window again: its peer may send what it was allowed at the beginning."""
    quic = client.session.peer.connection._engine._quic  # type: ignore[attr-defined]
    quic._write_connection_limits = quic._write_stream_limits = lambda *args, **options: None


def acknowledges_nothing(client: RpcClient) -> None:
    """Let a client's engine acknowledge no packet; it goes on to send."""
    quic = client.session.peer.connection._engine._quic  # type: ignore[attr-defined]

    def forget(*, space: Any, **_options: Any) -> None:
        space.ack_at = None

    quic._write_ack_frame = forget


@pytest.mark.parametrize("engine", ["aioquic", "qh3"])
@pytest.mark.parametrize(
    ("stall", "count", "text"),
    [
        (grants_nothing, 300, "it took nothing of"),  # more than a stream's window of QUIC
        (
            acknowledges_nothing,
            10,
            "it (acknowledged nothing|took nothing of [0-9]+ bytes) for 6 s",
        ),  # more than a congestion window
        (acknowledges_nothing, 1, "it acknowledged nothing for 6 s"),
    ],
)
def test_a_stalled_client_is_given_up_with_a_reason_on_both_sides_and_nobody_else_is_disturbed(
    stall: Callable[[RpcClient], None], count: int, text: str, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(network: SimNetwork) -> None:
        async with library(network, LIMITS, engine) as server:
            with network.host("other"):
                other = await connect(server)
            with network.host("client"):
                client = await connect(server)
            stalled = server.sessions.get(client.session.id)
            assert stalled is not None
            stall(client)
            with network.host("client"):
                asking = asyncio.ensure_future(ask_for_much(client, 20_000 if count > 1 else 10, count))
            with network.host("other"):
                for _ in range(10):
                    assert len(await other.proxy(Books, timeout=0.5).page(1000)) == 1000
                    assert stalled.peer.backlog.unsent_bytes < 2 * LIMITS.max_unsent_bytes
                    await asyncio.sleep(1.0)
                await other.close()
            assert stalled.state == "closed"
            assert not stalled.tasks
            await asking
            lost = client.session.peer.lost
            assert lost is not None
            assert lost.close_code == CloseCode.SLOW
            assert re.search(f"closed by the peer: the peer does not keep up: {text}", lost.message)

    SimNetwork().run(scenario)
    assert re.search(f"is given up: {text}", caplog.text)


@pytest.mark.timeout(20)
async def test_a_peer_that_asks_and_never_reads_the_answers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Answers to probes cannot wait; the server's end is `here`, and nothing of what it sends arrives."""
    async with duo(way="down", limits=LIMITS) as ends:
        with frozen(ends):
            for nonce in range(1, 10_000):
                ends.there.peer.protocol.probe(nonce)
                ends.there.peer.touch()
                if nonce % 500 == 0:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                if ends.here.peer.lost is not None:
                    break
            lost = ends.here.peer.lost
            assert lost is not None
            assert lost.close_code == CloseCode.SLOW
            assert "bytes wait to be sent to it" in lost.message
        await ends.there.wait_closed()
    assert "is given up" in caplog.text
