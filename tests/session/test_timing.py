"""Where the time of a call goes: what both sides say of it, against what the simulated network did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from echostream import (
    Call,
    CallTiming,
    LoggingMiddleware,
    Request,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    Status,
    handler,
    service,
)
from echostream.errors import LocalProtocolError
from echostream.session.chains import RequestNext
from echostream.session.clock import OwnClock
from echostream.session.timing import TimedCall, timing_of
from echostream.testing import Link, SimNetwork
from echostream.transport.ancillary import IS_LINUX
from echostream.types import clock
from tests.session.world import duo

URL = "quic://server:4433"


@service("kitchen")
class Kitchen:
    @handler
    async def cook(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "soup"

    @handler
    async def burn(self) -> None:
        raise RpcError(Status.ABORTED, "smoke")


async def timed(session: Session | RpcClient, seconds: float = 0.0) -> CallTiming:
    call = session.call(session.proxy(Kitchen, timing=True).cook, seconds)
    assert await call == "soup"
    return await call.timing()


def simulate(act: Callable[[RpcServer, RpcClient, SimNetwork], Awaitable[None]], out: Link, back: Link) -> None:
    async def scenario(network: SimNetwork) -> None:
        network.host("phone").offset = 1234.5
        network.host("phone").drift_ppm = 40.0
        network.join("phone", "server", out, back=back)
        with network.host("server"):
            server = RpcServer(URL)
            server.register(Kitchen())
            await server.start()
        with network.host("phone"):
            async with RpcClient.connect(URL, fingerprint=server.fingerprint) as client:
                client.register(Kitchen())
                await act(server, client, network)
        with network.host("server"):
            await server.stop()

    SimNetwork(seed=5).run(scenario)


def test_a_call_is_split_into_its_ways_and_its_handler() -> None:
    async def act(server: RpcServer, client: RpcClient, network: SimNetwork) -> None:
        begin = network.now
        found = await timed(client, 0.3)
        assert network.now - begin >= 0.36
        assert found.network_out == pytest.approx(0.03, abs=0.01)
        assert found.network_back == pytest.approx(0.03, abs=0.001)
        assert found.handler == pytest.approx(0.3, abs=0.001)
        assert 0 <= found.queue < 0.001
        assert 0.029 < found.error_bound < 0.04
        assert found.total == pytest.approx(0.36, abs=0.01)

    simulate(act, Link(delay=0.03), Link(delay=0.03))


def test_ways_that_differ_are_wrong_by_no_more_than_the_bound() -> None:
    async def act(server: RpcServer, client: RpcClient, network: SimNetwork) -> None:
        await client.clock.wait_locked()
        for _ in range(5):
            begin = network.now
            found = await timed(client)
            assert abs(found.network_out - 0.08) < found.error_bound
            assert abs(found.network_back - 0.01) < found.error_bound
            assert found.total == pytest.approx(network.now - begin, abs=0.001)

    simulate(act, Link(delay=0.08), Link(delay=0.01))


def test_a_server_times_its_calls_of_a_client_whose_clock_is_known() -> None:
    async def act(server: RpcServer, client: RpcClient, network: SimNetwork) -> None:
        [session] = server.sessions
        with network.host("server"):
            call = session.call(session.proxy(Kitchen, timing=True).cook, 0.0)
            await call
            with pytest.raises(LocalProtocolError, match="a client can answer once its clock is locked"):
                await call.timing()
        await client.clock.wait_locked()
        with network.host("server"):
            found = await timed(session, 0.1)
        assert found.network_out == pytest.approx(0.03, abs=0.01)
        assert found.handler == pytest.approx(0.1, abs=0.001)
        assert 0.029 < found.error_bound < 0.04, "the client tells how wrong its stamps can be"

    simulate(act, Link(delay=0.03), Link(delay=0.03))


def test_who_waits_for_another_call_is_in_the_queue() -> None:
    """Both come in one packet, and the first holds the loop for 50 ms by the server's clock."""

    async def act(server: RpcServer, client: RpcClient, network: SimNetwork) -> None:
        @service("hall")
        class Hall:
            @handler
            async def hold(self) -> None:
                network.host("server").offset += 0.05

        server.register(Hall())
        await client.clock.wait_locked()
        first = client.call(client.proxy(Hall).hold)
        second = client.call(client.proxy(Kitchen, timing=True).cook, 0.0)
        await asyncio.gather(first, second)
        found = await second.timing()
        assert found.queue == pytest.approx(0.05, abs=0.001)
        assert found.network_out == pytest.approx(0.03, abs=0.01)
        assert found.handler == pytest.approx(0.0, abs=0.001)

    simulate(act, Link(delay=0.03), Link(delay=0.03))


def test_what_an_answer_waits_for_who_called_is_no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = TimedCall.on_answered

    async def act(server: RpcServer, client: RpcClient, network: SimNetwork) -> None:
        def on_answered(call: TimedCall) -> None:
            answered(call)
            network.host("phone").offset += 0.05  # before the task of the call comes to its turn

        await client.clock.wait_locked()
        monkeypatch.setattr(TimedCall, "on_answered", on_answered)
        assert (await timed(client)).network_back == pytest.approx(0.03, abs=0.001)

    simulate(act, Link(delay=0.03), Link(delay=0.03))


async def test_what_a_packet_waits_for_the_program_is_in_the_queue() -> None:
    """Where the transport knows when it came; a packet that came after the call was read is not the call's."""
    async with duo(Kitchen()) as ends:
        connection = ends.there.peer.connection
        assert connection.arrived_ns == 0, "this transport does not know"
        assert (await timed(ends.here)).queue < 30
        connection.arrived_ns = clock.monotonic_ns() - 60 * 10**9
        assert (await timed(ends.here)).queue >= 60
        connection.arrived_ns = clock.monotonic_ns() + 60 * 10**9
        assert 0 <= (await timed(ends.here)).queue < 30


@pytest.mark.skipif(not IS_LINUX, reason="other systems do not say when a packet came")
async def test_the_kernel_says_how_long_a_packet_waited_for_the_program() -> None:
    """Both sides are in this program, which does nothing for 10 ms after the packet has left."""
    async with duo(Kitchen(), scheme="quic") as ends:
        release = ends.here.clock.hold()  # as long as it probes, the server has arrivals stamped
        await ends.here.clock.wait_locked()

        async def waited() -> float:
            call = ends.here.call(ends.here.proxy(Kitchen, timing=True).cook, 0.0)
            await asyncio.sleep(0)  # the call begins
            ends.here.peer.flush()
            time.sleep(0.01)  # noqa: ASYNC251 - this is what it is about
            await call
            return (await call.timing()).queue

        async with asyncio.timeout(5.0):
            while await waited() < 0.01:  # the kernel takes a while to begin with it
                pass
        release()


async def test_a_call_that_fails_is_timed_too() -> None:
    async with duo(Kitchen(), scheme="quic") as ends:
        call = ends.here.call(ends.here.proxy(Kitchen, timing=True).burn)
        with pytest.raises(RpcError, match="smoke"):
            await call
        found = await call.timing()
        assert found.handler >= 0
        assert found.error_bound < 1


async def test_middleware_on_both_sides_keeps_it() -> None:
    class Layer(LoggingMiddleware):
        async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
            await asyncio.sleep(0.01)
            return await call_next(request)

    server = RpcServer("memory://timing", middleware=[Layer()])
    server.register(Kitchen())
    async with server, RpcClient.connect("memory://timing", middleware=[LoggingMiddleware()]) as client:
        found = await timed(client)
        assert found.handler >= 0.009, "middleware is part of it"


async def test_who_did_not_ask_gets_none_and_sends_none() -> None:
    async with duo(Kitchen()) as ends:
        call = ends.here.call(ends.here.proxy(Kitchen).cook, 0.0)
        await call
        assert call.trailing_metadata == {}
        with pytest.raises(LocalProtocolError, match="the call is not timed: call a method of"):
            await call.timing()


async def test_a_call_without_an_answer_has_no_times() -> None:
    async with duo(Kitchen()) as ends:
        call: Call[str] = ends.here.call(ends.here.proxy(Kitchen, timing=True).cook, 60.0)
        call.cancel()
        with pytest.raises(LocalProtocolError, match="the call ended without an answer"):
            await call.timing()


@pytest.mark.parametrize(
    ("trailing", "text"),
    [
        ({}, "did not time this call"),
        ({"es-timing-bin": b"short"}, "did not time this call"),
        ({"es-timing-bin": bytes(7) + b"\2" + bytes(7) + b"\1" + bytes(16)}, "timed this call backwards"),
    ],
)
def test_what_the_other_side_says_is_checked(trailing: dict[str, str | bytes], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=text):
        timing_of(trailing, OwnClock(), 0, 10)
