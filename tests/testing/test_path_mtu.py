"""Paths that carry less than the packets that are sent, in every pairing of the engines.

Such a path tells nobody ("black hole"): what is too large is lost, here from the start, or from one moment on.
"""

from __future__ import annotations

import asyncio

import pytest

from echostream import RpcClient, RpcServer, handler, service
from echostream.session.api import Conversation
from echostream.testing import Link, SimNetwork
from tests.testing.storm import STORM, storm
from tests.testing.test_blackouts import either_engine
from tests.transport.lab import Pair, both_engines, every_client, every_pair
from tests.transport.relay import Relay

WIDE = Link(delay=0.01)


@service("echo")
class Echo:
    @handler
    async def echo(self, data: bytes) -> bytes:
        return data


async def chat(client: Conversation) -> None:
    """Small packets, which pass and are acknowledged all the time."""
    echo = client.proxy(Echo, timeout=30.0)
    while True:
        assert await echo.echo(b"hi") == b"hi"
        await asyncio.sleep(0.005)


async def carry_much(network: SimNetwork, engines: Pair, *, mtu: int, from_start: bool, chatting: bool) -> None:
    """100 kB to and fro; the path becomes narrow."""
    narrow = WIDE.with_(mtu=mtu)
    with network.host("server"):
        server = RpcServer("quic://server:4433", engine=engines[1])
        server.register(Echo())
        await server.start()
    if from_start:
        network.join("client", "server", narrow)
    with network.host("client"):
        url = "quic://server:4433"
        async with RpcClient.connect(url, engine=engines[0], fingerprint=server.fingerprint) as client:
            talk = asyncio.create_task(chat(client)) if chatting else None
            assert await client.proxy(Echo).echo(b"hi") == b"hi"
            network.join("client", "server", narrow)
            assert await client.proxy(Echo).echo(bytes(100_000)) == bytes(100_000)
            started = network.now
            assert await client.proxy(Echo).echo(bytes(100_000)) == bytes(100_000)
            assert network.now - started < 0.5  # known by now
            if talk is not None:
                talk.cancel()
    await server.stop()


def run(engines: Pair, *, mtu: int, from_start: bool = False, chatting: bool = False) -> None:
    async def scenario(network: SimNetwork) -> None:
        await carry_much(network, engines, mtu=mtu, from_start=from_start, chatting=chatting)

    SimNetwork(seed=1, link=WIDE).run(scenario)


@every_pair
@pytest.mark.parametrize("from_start", [True, False], ids=["from_start", "later"])
@pytest.mark.parametrize("chatting", [True, False], ids=["chatting", "quiet"])
def test_a_narrow_path_is_used_as_it_is(engines: Pair, *, from_start: bool, chatting: bool) -> None:
    run(engines, mtu=1300, from_start=from_start, chatting=chatting)


@every_pair
def test_a_path_may_become_as_narrow_as_ipv6_allows(engines: Pair) -> None:
    run(engines, mtu=1232)


@every_client
def test_a_path_that_carries_the_least_is_enough_for_a_server_of_aioquic(engines: Pair) -> None:
    run(engines, mtu=1200, from_start=True)


@either_engine
@pytest.mark.parametrize("seed", [0, 84, 121, 123])
def test_a_path_becomes_narrow_in_a_storm(seed: int, engine: str) -> None:
    async def scenario(network: SimNetwork) -> None:
        async def narrow() -> None:
            while not network.trace:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.1)
            await asyncio.sleep(seed % 10 * 0.05)
            network.join("client", "server", STORM.with_(mtu=1300))

        weather = asyncio.create_task(narrow())
        try:
            await storm(network, (engine, engine))
        finally:
            weather.cancel()

    SimNetwork(seed=seed, link=STORM).run(scenario)


@pytest.mark.slow
@both_engines
async def test_a_narrow_path_between_real_sockets_is_used_as_it_is(engines: Pair) -> None:
    """Packets to the same machine are of 8,952 bytes at first."""
    server = RpcServer("quic://127.0.0.1:0", engine=engines[1])
    server.register(Echo())
    async with server, Relay(server.addresses[0]) as relay:
        relay.mtu = 1300
        async with RpcClient.connect(relay.url, engine=engines[0], ca="dev") as client:
            for _ in range(2):
                assert await client.proxy(Echo).echo(bytes(50_000)) == bytes(50_000)
        for packets in (relay.from_client, relay.from_server):
            assert max(map(len, packets)) > 1300
            assert max(map(len, packets[-20:])) <= 1300
