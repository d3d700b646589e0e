"""Tests for echostream.transport.quic.paths: names for a peer's addresses, so that an engine validates them again."""

from __future__ import annotations

import pytest

from echostream.transport.quic.paths import MAX_LARGE_LOSSES, LargePackets, PathNames

HOME, AWAY, OTHER = ("192.0.2.1", 1), ("192.0.2.2", 2), ("2001:db8::3", 3, 0, 0)


class Engine:
    """Validates what it is told to, in at most three paths beyond the first."""

    def __init__(self) -> None:
        self.names = PathNames(3)
        self.active: tuple[str, int] | tuple[str, int, int, int] = HOME
        self.made: list[object] = [HOME]
        self.heard_at = self.now = 100.0

    def receive(self, address: tuple[str, int] | tuple[str, int, int, int], *, validate: bool = False) -> bool:
        self.now += 0.2
        name = self.names.name_of(address, self.active)
        has_path = name in self.made or len(self.made) < 4
        if name not in self.made and has_path:
            self.made.append(name)
        if validate and has_path:
            self.active = name
        if name == self.active:
            self.heard_at = self.now
        quiet = self.now - self.heard_at
        return self.names.heard(address, self.active, authentic=has_path, quiet=quiet, rtt=0.05, now=self.now)


def test_an_address_is_its_own_name_at_first() -> None:
    engine = Engine()
    assert engine.receive(AWAY, validate=True)
    assert engine.active == AWAY
    assert not engine.names
    assert engine.names.address_of(AWAY) == AWAY


def test_a_validation_without_an_end_is_begun_again_under_another_name() -> None:
    engine = Engine()
    assert all(engine.receive(AWAY) for _ in range(4))
    name = engine.names.name_of(AWAY, HOME)
    assert name == ("100::1", 1, 0, 0)
    assert engine.names
    assert engine.names.address_of(name) == AWAY
    assert engine.receive(AWAY, validate=True)
    assert engine.active == name
    assert all(engine.receive(AWAY) for _ in range(20))
    assert engine.names.name_of(AWAY, engine.active) == name


def test_a_validation_has_its_time_however_much_arrives() -> None:
    engine = Engine()
    for _ in range(50):
        engine.now -= 0.2
        assert engine.receive(AWAY)
    assert engine.names.name_of(AWAY, HOME) == AWAY


def test_a_slow_path_has_more() -> None:
    names = PathNames(3)
    names.name_of(AWAY, HOME)
    for now in (0.0, 1.0, 2.0, 3.0, 5.9):
        assert names.heard(AWAY, HOME, authentic=True, quiet=now, rtt=2.0, now=now)
        assert names.name_of(AWAY, HOME) == AWAY
    assert names.heard(AWAY, HOME, authentic=True, quiet=6.0, rtt=2.0, now=6.0)
    assert names.name_of(AWAY, HOME) != AWAY


def test_a_way_back_gets_a_new_name_where_the_engine_knows_the_address() -> None:
    engine = Engine()
    assert engine.receive(AWAY, validate=True)
    assert all(engine.receive(HOME) for _ in range(4))
    assert engine.receive(HOME, validate=True)
    assert engine.names.address_of(engine.active) == HOME


def test_forged_packets_change_nothing() -> None:
    names = PathNames(3)
    for index in range(100):
        address = ("203.0.113.1", index)
        assert names.name_of(address, HOME) == address
        for moment in range(5):
            assert names.heard(address, HOME, authentic=False, quiet=99.0, rtt=None, now=float(moment))
    assert not names
    assert names.heard(("203.0.113.1", 0), HOME, authentic=True, quiet=0.0, rtt=None, now=9.0)  # long forgotten


def test_a_move_too_many_is_said_once_the_old_path_is_silent() -> None:
    engine = Engine()
    for port in (10, 11, 12):
        assert engine.receive((AWAY[0], port), validate=True)
    said = [engine.receive(OTHER) for _ in range(20)]
    assert said.index(False) in (14, 15)  # 3 s
    assert engine.names.address_of(engine.active) == OTHER  # so that it hears why


def test_a_peer_that_is_still_heard_is_not_given_up() -> None:
    engine = Engine()
    for port in (10, 11, 12):
        assert engine.receive((AWAY[0], port), validate=True)
    for _ in range(50):
        assert engine.receive(OTHER)
        assert engine.receive((AWAY[0], 12))


def large(*numbers: int) -> list[tuple[int, int, int]]:
    """Packets that are out, as qh3 tells them."""
    return [(number, 1421, 1) for number in numbers]


def test_large_packets_are_taken_to_be_lost_when_none_arrived_again_and_again() -> None:
    packets = LargePackets()
    for turn in range(MAX_LARGE_LOSSES + 1):
        assert not packets.are_lost
        packets.look([(100 + turn, 100, 1), *large(2 * turn, 2 * turn + 1)], 3 * turn)
    assert packets.are_lost


def test_one_large_packet_that_arrived_begins_the_count_anew() -> None:
    packets = LargePackets()
    for turn in range(MAX_LARGE_LOSSES + 1):
        packets.look(large(2 * turn, 2 * turn + 1), 2 * turn)
    assert packets.are_lost
    packets.look(large(20), 2 * MAX_LARGE_LOSSES + 1)  # two are gone and one was lost
    assert not packets.are_lost


@pytest.mark.parametrize(("lost_count", "are_lost"), [(2, True), (1, False)])
def test_a_small_packet_that_arrives_tells_about_those_it_went_with(lost_count: int, *, are_lost: bool) -> None:
    packets = LargePackets()
    packets.suspect([*large(1, 2), (3, 30, 1)])
    packets.look([*large(1, 2), (3, 30, 1)], 0)  # nothing came yet
    assert not packets.are_lost
    packets.look([], lost_count)
    assert packets.are_lost == are_lost
