"""The simulated network: real servers and clients in it, in virtual time, the same again for the same seed."""

from __future__ import annotations

import asyncio
import time

import pytest

from echostream import RpcClient, RpcServer, handler
from echostream.testing import FrameRecord, Link, SimDeadlockError, SimNetwork

LOSSY = Link(delay=0.02, jitter=0.05, loss=0.05, reorder=0.2, duplicate=0.02)


@handler("double")
async def double(number: int) -> int:
    return 2 * number


async def _talk(network: SimNetwork) -> float:
    with network.host("server"):
        server = RpcServer("quic://server:4433")
        server.register(double)
        await server.start()
    with network.host("phone"):
        async with RpcClient.connect("quic://server:4433", fingerprint=server.fingerprint, timeout=60.0) as client:
            calls = (client.request("double", number, returns=int, timeout=60.0) for number in range(100))
            assert await asyncio.gather(*calls) == [2 * number for number in range(100)]
    await server.stop()
    return network.loop.time()


def _trace(seed: int) -> list[FrameRecord]:
    network = SimNetwork(seed=seed, link=LOSSY)
    network.run(_talk)
    return list(network.trace)


def test_same_seed_gives_the_same_frame_trace() -> None:
    assert _trace(7) == _trace(7)
    assert _trace(7) != _trace(8)


def test_packets_are_lost_and_every_call_still_answers() -> None:
    network = SimNetwork(seed=3, link=LOSSY)
    network.run(_talk)
    assert network.link_state("phone", "server").lost > 0


def test_waiting_takes_no_time() -> None:
    async def scenario(network: SimNetwork) -> float:
        await asyncio.sleep(3600)
        return network.loop.time()

    before = time.monotonic()
    assert SimNetwork().run(scenario) == pytest.approx(3600)
    assert time.monotonic() - before < 1


def test_waiting_for_nothing_is_told() -> None:
    async def scenario(network: SimNetwork) -> None:
        await network.loop.create_future()

    with pytest.raises(SimDeadlockError, match="every task waits and nothing is scheduled"):
        SimNetwork().run(scenario)


def test_failure_names_the_seed() -> None:
    async def scenario(_network: SimNetwork) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        SimNetwork(seed=11).run(scenario)
    assert "seed=11" in caught.value.__notes__[0]
