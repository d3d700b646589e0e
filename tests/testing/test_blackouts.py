"""A link that is gone more than half of the time: a session outlives it, because probes go on often enough."""

from __future__ import annotations

import asyncio

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from echostream import ConnectError, RpcClient, RpcServer
from echostream.testing import SimNetwork
from echostream.transport.quic import engine_aioquic_connection
from echostream.types import random_source
from tests.testing.storm import STORM, storm
from tests.transport.lab import HAS_QH3


async def blackouts(network: SimNetwork) -> None:
    """Once the client is in, cut it off, again and again."""
    while not network.trace:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.1)
    while True:
        await asyncio.sleep(random_source.uniform(0.2, 1.5))
        network.partition("client")
        await asyncio.sleep(random_source.uniform(0.1, 2.5))
        network.heal()


def run_storm(seed: int, engine: str) -> None:
    async def scenario(network: SimNetwork) -> None:
        weather = asyncio.create_task(blackouts(network))
        try:
            await storm(network, (engine, engine))
        finally:
            weather.cancel()

    SimNetwork(seed=seed, link=STORM).run(scenario)


either_engine = pytest.mark.parametrize(
    "engine", ["aioquic", pytest.param("qh3", marks=[] if HAS_QH3 else [pytest.mark.skip("qh3 is not installed")])]
)


@either_engine
@pytest.mark.parametrize("seed", range(5))
def test_everything_arrives_in_spite_of_blackouts(seed: int, engine: str) -> None:
    run_storm(seed, engine)


@pytest.mark.slow
@either_engine
@pytest.mark.parametrize("seed", [*range(5, 50), 228, 234, 254])  # the last took two minutes with pauses that stay long
def test_everything_arrives_in_spite_of_blackouts_for_many_seeds(seed: int, engine: str) -> None:
    run_storm(seed, engine)


@either_engine
@pytest.mark.parametrize(("patience", "arrives"), [(60.0, True), (10.0, False)])
def test_a_patient_client_waits_for_a_link_that_comes_back(engine: str, patience: float, arrives: bool) -> None:
    async def scenario(network: SimNetwork) -> None:
        with network.host("server"):
            server = RpcServer("quic://server:4433", engine=engine)
            await server.start()
        network.partition("server")
        network.loop.call_later(20.0, network.heal)
        with network.host("client"):
            connecting = RpcClient.connect(
                "quic://server:4433", fingerprint=server.fingerprint, timeout=patience, engine=engine
            )
            if arrives:
                async with connecting:
                    assert network.now > 20.0
            else:
                with pytest.raises(ConnectError):
                    await connecting
        await server.stop()

    SimNetwork(seed=1).run(scenario)


def test_canary_begin_probes_again() -> None:
    quic = QuicConnection(configuration=QuicConfiguration(is_client=True))
    assert quic._loss._pto_count == 0
    assert not quic._loss.handshake_confirmed
    for confirmed, counts in ((False, ((2, 2), (3, 3), (4, 3))), (True, ((3, 3), (4, 0)))):
        quic._loss.handshake_confirmed = confirmed
        for count, after in counts:
            quic._loss._pto_count = count
            engine_aioquic_connection._begin_probes_again(quic)
            assert quic._loss._pto_count == after
