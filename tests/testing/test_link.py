"""What a link does, as arithmetic: each effect alone, and the same fate for the same packet."""

from __future__ import annotations

from itertools import pairwise
from statistics import correlation, mean

import pytest

from echostream import ConfigurationError
from echostream.testing import Arrival, Link, LinkState

WIFI = (0.000757, 0.000917, 0.00094, 0.000973, 0.001013, 0.001284, 0.002771, 0.016412, 0.172287)
"""Seconds at the quantiles, measured on a good Wi-Fi."""
COUNT = 20_000


def carried(link: Link, count: int = COUNT, *, seed: str = "1", gap: float = 1.0) -> list[list[Arrival]]:
    state = LinkState(link, seed)
    return [state.carry(bytes(100), number * gap) for number in range(count)]


def delays(link: Link, *, gap: float = 1.0) -> list[float]:
    return [arrivals[0].at - number * gap for number, arrivals in enumerate(carried(link, gap=gap)) if arrivals]


def test_plain_link_only_delays() -> None:
    state = LinkState(Link(delay=0.25), "1")
    assert state.carry(b"abc", 1.0) == [Arrival(1.25, b"abc")]
    assert (state.sent, state.lost, state.duplicated, state.corrupted, state.overflowed) == (1, 0, 0, 0, 0)


def test_jitter_is_uniform_above_the_delay() -> None:
    found = delays(Link(delay=0.1, jitter=0.2))
    assert 0.1 <= min(found) < 0.11
    assert 0.29 < max(found) <= 0.3
    assert mean(found) == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize("correlated", [0.0, 0.7])
def test_a_table_of_delays_is_followed(correlated: float) -> None:
    found = sorted(delays(Link(delay_table=WIFI, correlation=correlated, reorder=1.0)))
    for share, expected in zip((0.05, 0.25, 0.5, 0.75, 0.95), WIFI[2:7], strict=True):
        assert found[int(share * COUNT)] == pytest.approx(expected, rel=0.08)
    assert WIFI[0] <= found[0] <= found[-1] <= WIFI[-1]


def test_delays_that_hang_together() -> None:
    def neighbours(link: Link) -> float:
        found = delays(link)
        return correlation(found[1:], found[:-1])

    assert abs(neighbours(Link(jitter=0.1))) < 0.03
    assert neighbours(Link(jitter=0.1, correlation=0.7)) == pytest.approx(0.68, abs=0.04)


def test_losses_alone_and_in_a_row() -> None:
    for link in (Link(loss=0.05), Link(loss=0.05, burst=4.0)):
        lost = [not arrivals for arrivals in carried(link, gap=0.01)]
        starts = sum(now and not before for before, now in pairwise([False, *lost]))
        assert sum(lost) / COUNT == pytest.approx(0.05, abs=0.01)
        assert sum(lost) / starts == pytest.approx(link.burst, rel=0.15)


def test_a_row_of_losses_ends_where_nothing_is_sent() -> None:
    lost = [not arrivals for arrivals in carried(Link(loss=0.1, burst=20.0), gap=1.1)]
    starts = sum(now and not before for before, now in pairwise([False, *lost]))
    assert sum(lost) / starts == pytest.approx(1 / 0.9, rel=0.05)


@pytest.mark.parametrize(("loss", "arrived"), [(0.0, 100), (1.0, 0)])
def test_nothing_and_everything_is_lost(loss: float, arrived: int) -> None:
    assert sum(map(len, carried(Link(loss=loss, burst=1000.0), 100))) == arrived


def test_only_what_may_be_overtaken_is() -> None:
    ordered = [arrivals[0].at for arrivals in carried(Link(jitter=0.1), 1000, gap=0.001)]
    assert ordered == sorted(ordered)
    mixed = [arrivals[0].at for arrivals in carried(Link(jitter=0.1, reorder=0.3), 1000, gap=0.001)]
    assert mixed != sorted(mixed)


def test_copies_and_damage_are_counted() -> None:
    state = LinkState(Link(delay=0.1, duplicate=0.3, corrupt=0.3), "1")
    arrivals = [state.carry(b"abcdef", 0.0) for _ in range(1000)]
    assert sum(len(found) == 2 for found in arrivals) == state.duplicated
    assert sum(found[0].data != b"abcdef" for found in arrivals) == state.corrupted
    assert 250 < min(state.duplicated, state.corrupted) <= max(state.duplicated, state.corrupted) < 350
    for found in arrivals:
        assert sum(a != b for a, b in zip(found[0].data, b"abcdef", strict=True)) <= 1
        assert found[-1].at >= found[0].at


def test_an_empty_packet_cannot_be_damaged() -> None:
    assert LinkState(Link(delay=0.0, corrupt=1.0), "1").carry(b"", 0.0) == [Arrival(0.0, b"")]


def test_bandwidth_and_its_queue() -> None:
    state = LinkState(Link(delay=0.0, bandwidth=1000.0, queue_bytes=250), "1")
    found = [state.carry(bytes(100), 0.0) for _ in range(5)]
    assert [arrivals[0].at for arrivals in found if arrivals] == pytest.approx([0.1, 0.2, 0.3])
    assert (state.lost, state.overflowed) == (2, 2)
    assert state.carry(bytes(100), 10.0)[0].at == pytest.approx(10.1)


def test_a_cut_and_a_packet_too_large() -> None:
    state = LinkState(Link(delay=0.0, mtu=100), "1")
    assert state.carry(bytes(101), 0.0) == []
    state.is_cut = True
    assert state.carry(bytes(1), 0.0) == []
    assert state.lost == 2


def test_the_fate_of_a_packet_depends_on_seed_and_number_alone() -> None:
    link = Link(delay=0.1, jitter=0.1, loss=0.1, duplicate=0.1, reorder=0.5)
    assert carried(link, 200) == carried(link, 200) != carried(link, 200, seed="2")
    other = LinkState(Link(), "1")
    for number in range(100):
        other.carry(bytes(7), number)
    other.link = link
    # After another life the same packets are lost.
    assert [bool(other.carry(bytes(100), n)) for n in range(100, 200)] == [bool(a) for a in carried(link, 200)[100:]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loss": 1.5}, "1.5 is out of range, expected 0 to 1"),
        ({"correlation": -0.1}, "-0.1 is out of range, expected 0 to 1"),
        ({"delay": -1.0}, "-1.0 is negative"),
        ({"burst": 0.5}, "0.5 is out of range, expected 1 or more"),
        ({"burst": 1.5, "loss": 0.5}, "1.5 is too short for a loss of 0.5"),
        ({"bandwidth": 0.0}, "0.0 must be above 0, or None for no limit"),
        ({"delay_table": (1.0,)}, "has 1 values, expected 9"),
        ({"delay_table": WIFI[::-1]}, "must rise and be above 0"),
        ({"delay_table": (0.0, *WIFI[1:])}, "must rise and be above 0"),
    ],
)
def test_a_link_that_cannot_be(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Link().with_(**changes)
    assert text in str(caught.value)
