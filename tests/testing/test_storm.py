"""Everything at once on a bad network, for many seeds: what was promised happens exactly once and in order.

A failure prints its seed, the virtual time and the command that replays it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from echostream import Context, RpcClient, RpcServer, StreamReceiver, handler, listener, service, stream
from echostream.session.api import Conversation
from echostream.testing import Link, SimNetwork

STORM = Link(delay=0.02, jitter=0.05, loss=0.05, reorder=0.2, duplicate=0.05)
CALLS, EVENTS = 200, 50
CHUNK_BYTES, CHUNKS = 4096, 64
PATIENCE = 120.0
"""Virtual seconds."""

FAST_SEEDS, SLOW_SEEDS = range(5), range(5, 100)
ENGINES = ("aioquic",)


@service("storm")
class Storm:
    """Remembers what arrived."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.steps: list[int] = []
        self.received = hashlib.sha256()
        self.streams_ended = 0

    @handler
    async def double(self, number: int) -> int:
        self.calls[number] += 1
        if number % 10 == 0:
            await asyncio.sleep(0.1)
        return 2 * number

    @handler
    async def count(self, until: int) -> AsyncIterator[int]:
        for number in range(until):
            yield number

    @listener("storm.step")
    async def on_step(self, number: int, ctx: Context) -> None:
        if number % 7 == 0:
            await asyncio.sleep(0.02)
        self.steps.append(number)

    @stream("storm.bytes")
    async def on_bytes(self, receiver: StreamReceiver[bytes]) -> None:
        async for item in receiver:
            self.received.update(item)
        self.streams_ended += 1


def chunk(number: int) -> bytes:
    return hashlib.shake_128(b"%d" % number).digest(CHUNK_BYTES)


async def call(client: Conversation) -> None:
    orders = client.proxy(Storm, timeout=PATIENCE)
    answers = await asyncio.gather(*(orders.double(number) for number in range(CALLS)))
    assert answers == [2 * number for number in range(CALLS)]
    assert [number async for number in orders.count(100)] == list(range(100))


async def emit(client: Conversation) -> None:
    acks = await asyncio.gather(
        *(client.emit("storm.step", number, ack=True, timeout=PATIENCE) for number in range(EVENTS))
    )
    assert {(ack.listeners, ack.failed) for ack in acks} == {(1, 0)}


async def send(client: Conversation) -> None:
    async with client.open_stream("storm.bytes", timeout=PATIENCE, close_timeout=PATIENCE) as sender:
        for number in range(CHUNKS):
            await sender.send(chunk(number))


async def storm(network: SimNetwork, engine: str) -> None:
    served = Storm()
    with network.host("server"):
        server = RpcServer("quic://server:4433", engine=engine)
        server.register(served)
        await server.start()
    with network.host("client"):
        async with RpcClient.connect(
            "quic://server:4433", fingerprint=server.fingerprint, timeout=PATIENCE, engine=engine
        ) as client:
            await asyncio.gather(call(client), emit(client), send(client))
    await server.stop()

    assert served.calls == Counter(range(CALLS)), "every call ran exactly once"
    assert served.steps == list(range(EVENTS)), "every event was heard exactly once and in order"
    whole = hashlib.sha256(b"".join(chunk(number) for number in range(CHUNKS)))
    assert (served.received.digest(), served.streams_ended) == (whole.digest(), 1)


def run_storm(seed: int, engine: str) -> SimNetwork:
    async def scenario(network: SimNetwork) -> None:
        await storm(network, engine)
        assert network.leaks() == []

    network = SimNetwork(seed=seed, link=STORM)
    network.run(scenario)
    return network


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", FAST_SEEDS)
def test_everything_arrives_once_and_in_order(seed: int, engine: str) -> None:
    network = run_storm(seed, engine)
    for sender, receiver in (("client", "server"), ("server", "client")):
        state = network.link_state(sender, receiver)
        assert min(state.lost, state.duplicated) > 0, "it stormed"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_everything_arrives_once_and_in_order_for_many_seeds(seed: int, engine: str) -> None:
    run_storm(seed, engine)


def test_a_storm_repeats() -> None:
    assert run_storm(1, "aioquic").trace == run_storm(1, "aioquic").trace
