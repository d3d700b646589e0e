"""Storms with many seeds: a hundred on each engine, and some in both crossings.

A failure prints its seed, the virtual time and the command that replays it.
"""

from __future__ import annotations

import pytest

from echostream.testing import SimNetwork
from tests.testing.storm import STORM, Load, Storm, storm
from tests.transport.lab import PAIRS, Pair, every_pair

one_engine = pytest.mark.parametrize("engines", [PAIRS[0], PAIRS[3]])
both_crossings = pytest.mark.parametrize("engines", PAIRS[1:3])

SMALL = Load(calls=100, items=10, events=20, chunks=16)


def run_storm(
    seed: int,
    engines: Pair,
    *,
    load: Load | None = None,
    served: Storm | None = None,
    move_at: float | None = None,
) -> SimNetwork:
    async def scenario(network: SimNetwork) -> None:
        await storm(network, engines, load=load, served=served, move_at=move_at)
        assert network.leaks() == []

    network = SimNetwork(seed=seed, link=STORM)
    network.run(scenario)
    return network


@every_pair
@pytest.mark.parametrize("seed", range(3))
def test_everything_arrives_once_and_in_order(seed: int, engines: Pair) -> None:
    network = run_storm(seed, engines)
    for sender, receiver in (("client", "server"), ("server", "client")):
        state = network.link_state(sender, receiver)
        assert min(state.lost, state.duplicated) > 0, "it stormed"


@pytest.mark.slow
@one_engine
@pytest.mark.parametrize("seed", range(3, 100))
def test_everything_arrives_once_and_in_order_for_many_seeds(seed: int, engines: Pair) -> None:
    run_storm(seed, engines)


@pytest.mark.slow
@both_crossings
@pytest.mark.parametrize("seed", range(3, 20))
def test_everything_arrives_once_and_in_order_between_the_engines(seed: int, engines: Pair) -> None:
    run_storm(seed, engines, load=SMALL)


@every_pair
@pytest.mark.parametrize("seed", [0, 1, 3, 8, 9, 15, 19])  # a server of qh3 has lost some of them
def test_a_client_that_moves_meanwhile_loses_nothing(seed: int, engines: Pair) -> None:
    network = run_storm(seed, engines, move_at=0.5)
    assert network.host("client").address.startswith("10.1.")


@every_pair
def test_the_same_seed_gives_the_same_frames_at_the_same_time(engines: Pair) -> None:
    assert run_storm(7, engines, load=SMALL).trace == run_storm(7, engines, load=SMALL).trace


@every_pair
def test_a_seed_that_fails_says_how_to_see_it_again(engines: Pair, request: pytest.FixtureRequest) -> None:
    served = Storm()
    served.steps.append(-1)  # as if an event had been heard that nobody sent
    with pytest.raises(AssertionError, match="every event was heard exactly once") as caught:
        run_storm(5, engines, load=SMALL, served=served)
    [note] = caught.value.__notes__
    assert note.startswith("in a simulation: seed=5, at ")
    assert note.endswith(f'replay: python -m pytest "{request.node.nodeid}"')
