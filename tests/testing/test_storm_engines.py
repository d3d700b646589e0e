"""The storm of test_storm.py, smaller and in every pairing of the QUIC engines, with a certificate of fixed size.

The engines draw their own randomness; an Ed25519 signature has the same length each time, so that the same seed sends
the same number of packets and gives the same frame trace.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from echostream import RpcClient, RpcServer
from echostream.session.api import Conversation
from echostream.testing import Link, SimNetwork
from tests.testing.test_storm import PATIENCE, Storm, chunk
from tests.transport.authority import key_pem, self_signed
from tests.transport.lab import Pair, every_pair

STORM = Link(delay=0.01, jitter=0.05, loss=0.05, reorder=0.2, duplicate=0.05)
CALLS, EVENTS, CHUNKS = 100, 20, 16
FAST_SEEDS, SLOW_SEEDS = range(2), range(2, 20)


@pytest.fixture(scope="module")
def identity() -> bytes:
    """PEM of a certificate and its key."""
    key = ed25519.Ed25519PrivateKey.generate()
    return self_signed(key, "server") + key_pem(key)


async def call(client: Conversation) -> None:
    orders = client.proxy(Storm, timeout=PATIENCE)
    answers = await asyncio.gather(*(orders.double(number) for number in range(CALLS)))
    assert answers == [2 * number for number in range(CALLS)]


async def emit(client: Conversation) -> None:
    acks = await asyncio.gather(
        *(client.emit("storm.step", number, ack=True, timeout=PATIENCE) for number in range(EVENTS))
    )
    assert {(ack.listeners, ack.failed) for ack in acks} == {(1, 0)}


async def send(client: Conversation) -> None:
    async with client.open_stream("storm.bytes", timeout=PATIENCE, close_timeout=PATIENCE) as sender:
        for number in range(CHUNKS):
            await sender.send(chunk(number))


def run_storm(seed: int, engines: Pair, identity: bytes, *, move_at: float | None = None) -> SimNetwork:
    async def scenario(network: SimNetwork) -> None:
        served = Storm()
        with network.host("server"):
            server = RpcServer("quic://server:4433", engine=engines[1], certificate=identity)
            server.register(served)
            await server.start()
        with network.host("client"):
            async with RpcClient.connect(
                "quic://server:4433", fingerprint=server.fingerprint, timeout=PATIENCE, engine=engines[0]
            ) as client:
                if move_at is not None:
                    network.loop.call_later(move_at - network.now, network.host("client").move)
                await asyncio.gather(call(client), emit(client), send(client))
        await server.stop()
        assert served.calls == Counter(range(CALLS)), "every call ran exactly once"
        assert served.steps == list(range(EVENTS)), "every event was heard exactly once and in order"
        whole = hashlib.sha256(b"".join(chunk(number) for number in range(CHUNKS)))
        assert (served.received.digest(), served.streams_ended) == (whole.digest(), 1)

    async def leaving_nothing(network: SimNetwork) -> None:
        await scenario(network)
        assert network.leaks() == []

    network = SimNetwork(seed=seed, link=STORM)
    network.run(leaving_nothing)
    return network


@every_pair
@pytest.mark.parametrize("seed", FAST_SEEDS)
def test_everything_arrives_once_and_in_order(seed: int, engines: Pair, identity: bytes) -> None:
    run_storm(seed, engines, identity)


@pytest.mark.slow
@every_pair
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_everything_arrives_once_and_in_order_for_many_seeds(seed: int, engines: Pair, identity: bytes) -> None:
    run_storm(seed, engines, identity)


@every_pair
@pytest.mark.parametrize("seed", range(3))
def test_a_client_that_moves_meanwhile_loses_nothing(seed: int, engines: Pair, identity: bytes) -> None:
    network = run_storm(seed, engines, identity, move_at=0.5)
    assert network.host("client").address.startswith("10.1.")


@every_pair
def test_the_same_seed_gives_the_same_frames_at_the_same_time(engines: Pair, identity: bytes) -> None:
    assert run_storm(7, engines, identity).trace == run_storm(7, engines, identity).trace
