"""Which of several servers is tried first."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from echostream.discovery import choice
from echostream.discovery.choice import strategy
from echostream.discovery.service import ServiceInfo
from echostream.errors import ConfigurationError

SERVERS = [ServiceInfo("orders", f"orders-{port}", ("10.0.0.1",), port, load=port % 3) for port in range(1, 7)]


def first_of(name: str, servers: list[ServiceInfo] = SERVERS) -> ServiceInfo:
    ordered = strategy(cast("Any", name))(servers)
    assert sorted(ordered, key=lambda info: info.port) == sorted(servers, key=lambda info: info.port)  # none is lost
    return ordered[0]


def test_the_first_that_answered() -> None:
    assert first_of("first") is SERVERS[0]


def test_random_takes_each_about_as_often() -> None:
    taken = Counter(first_of("random").port for _ in range(600))
    assert set(taken) == set(range(1, 7))
    assert max(taken.values()) < 200


def test_least_loaded_takes_any_of_the_emptiest() -> None:
    assert {first_of("least-loaded").port for _ in range(100)} == {3, 6}


def test_sticky_stays_where_it_is_and_moves_only_when_its_server_goes() -> None:
    mine = first_of("sticky")
    assert all(first_of("sticky") is mine for _ in range(10))
    others = [info for info in SERVERS if info is not mine]
    second = first_of("sticky", others)
    assert second is not mine
    for gone in others:
        left = [info for info in SERVERS if info is not gone]
        assert first_of("sticky", left) is mine


def test_different_processes_stick_to_different_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = set()
    for process in range(60):
        monkeypatch.setattr(choice, "_PROCESS_KEY", str(process))
        taken.add(first_of("sticky").port)
    assert taken == set(range(1, 7))


def test_a_function_is_a_strategy() -> None:
    assert strategy(lambda servers: servers[3:])(SERVERS)[0] is SERVERS[3]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="'best' is no strategy, expected 'first', 'random', 'least-loaded'"):
        strategy(cast("Any", "best"))
