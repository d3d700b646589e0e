"""What is ordered with what: each promise of docs/topics/concepts.md, on a network that loses and overtakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from echostream import RpcClient, RpcServer, StreamReceiver, handler, listener, service, stream
from echostream.testing import Link, SimNetwork

BAD = Link(delay=0.02, jitter=0.05, loss=0.1, reorder=0.3, duplicate=0.1)
COUNT = 60
PIECE = bytes(700)
"""With it a call fills more than half a packet, and takes turns over the lanes."""


@service("log")
class Log:
    """Writes down what arrives."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @handler
    async def write(self, line: str, _padding: bytes = b"") -> int:
        self.lines.append(line)
        return len(self.lines)

    @handler
    async def copy(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in items:
            self.lines.append(f"item {number}")
            yield number

    @listener("log.*")
    async def on_event(self, line: str) -> None:
        self.lines.append(line)

    @stream("log.stream")
    async def on_stream(self, receiver: StreamReceiver[int]) -> None:
        async for number in receiver:
            self.lines.append(f"item {number}")
            await receiver.sender.send(number)


@asynccontextmanager
async def connected(network: SimNetwork, log: Log) -> AsyncGenerator[RpcClient]:
    with network.host("server"):
        server = RpcServer("quic://server:5000")
        server.register(log)
        await server.start()
    with network.host("client"):
        async with RpcClient.connect("quic://server:5000", fingerprint=server.fingerprint, timeout=60.0) as client:
            yield client
    with network.host("server"):
        await server.stop(grace=5.0)


@pytest.fixture(params=range(3))
def network(request: pytest.FixtureRequest) -> SimNetwork:
    return SimNetwork(seed=request.param, link=BAD)


async def numbers() -> AsyncIterator[int]:
    for number in range(COUNT):
        yield number


EXPECTED = [f"item {number}" for number in range(COUNT)]


def test_items_of_a_call_come_in_order_both_ways_and_its_end_after_them(network: SimNetwork) -> None:
    async def scenario(network: SimNetwork) -> list[int]:
        async with connected(network, log) as client:
            return [number async for number in client.proxy(Log).copy(numbers())]

    log = Log()
    assert network.run(scenario) == list(range(COUNT))
    assert log.lines == EXPECTED


def test_items_of_a_stream_come_in_order_both_ways_and_its_end_after_them(network: SimNetwork) -> None:
    async def scenario(network: SimNetwork) -> list[int]:
        async with connected(network, log) as client, client.open_stream("log.stream", returns=int) as sender:
            for number in range(COUNT):
                await sender.send(number)
            sender.end()
            return [number async for number in sender.receiver]

    log = Log()
    assert network.run(scenario) == list(range(COUNT))
    assert log.lines == EXPECTED


def test_events_of_one_name_come_in_order_and_all_of_them_before_a_close_that_follows(network: SimNetwork) -> None:
    async def scenario(network: SimNetwork) -> None:
        async with connected(network, log) as client:
            for line in EXPECTED:
                await client.emit("log.line", line)

    log = Log()
    network.run(scenario)
    assert log.lines == EXPECTED


def test_what_was_awaited_comes_before_what_is_begun_after_it(network: SimNetwork) -> None:
    async def scenario(network: SimNetwork) -> None:
        async with connected(network, log) as client:
            for number in range(COUNT // 3):
                padding = PIECE if number % 2 else b""
                await client.proxy(Log).write(f"{number} call", padding)
                await client.emit("log.line", f"{number} event after it", ack=True)
                await client.proxy(Log).write(f"{number} call after it", padding)

    log = Log()
    network.run(scenario)
    steps = ("call", "event after it", "call after it")
    assert log.lines == [f"{number} {step}" for number in range(COUNT // 3) for step in steps]


def test_calls_that_do_not_wait_for_each_other_all_come_once_and_may_overtake_one_another() -> None:
    async def scenario(network: SimNetwork) -> None:
        async with connected(network, log) as client:
            calls = [client.proxy(Log, timeout=60.0).write(line, PIECE) for line in EXPECTED]
            await asyncio.gather(*calls)

    overtaken = 0
    for seed in range(3):
        log = Log()
        SimNetwork(seed=seed, link=BAD).run(scenario)
        assert sorted(log.lines) == sorted(EXPECTED)
        overtaken += log.lines != EXPECTED
    assert overtaken, "the lanes do nothing"


def test_a_small_call_overtakes_a_large_one_and_events(network: SimNetwork) -> None:
    network.join("client", "server", Link(delay=0.02, bandwidth=200_000))

    async def scenario(network: SimNetwork) -> None:
        async with connected(network, log) as client:
            large = asyncio.ensure_future(client.proxy(Log).write("large", bytes(200_000)))
            await asyncio.sleep(0)
            await client.proxy(Log).write("small")
            await large

    log = Log()
    network.run(scenario)
    assert log.lines == ["small", "large"]
