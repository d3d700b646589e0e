"""Where the time of a call goes: what both sides say of it, against what the simulated network did."""

from __future__ import annotations

import asyncio
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
from echostream.session.timing import timing_of
from echostream.testing import Link, SimNetwork
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

    simulate(act, Link(delay=0.03), Link(delay=0.03))


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
