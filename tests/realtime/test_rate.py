"""The drift is learned from calm directions, and from what disturbs it nothing is learned."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from echostream.realtime.rate import DriftFilter, RateFilter

SECOND = 1e9


def test_a_line_with_noise_gives_its_slope_and_says_how_far_that_may_be_off() -> None:
    random = Random(1)
    view = RateFilter()
    for n in range(60):
        view.take(n * 2 * SECOND, 40e-6 * n * 2 * SECOND + random.gauss(0, 20e3), 20e3**2)
    deviation = view.variance(0.0) ** 0.5
    assert 1e-8 < deviation < 3e-7
    assert view.rate == pytest.approx(40e-6, abs=3 * deviation)
    assert view.variance(600 * SECOND) > view.variance(0.0)


def test_what_is_not_later_teaches_nothing() -> None:
    view = RateFilter()
    view.take(SECOND, 0.0, 1.0)
    view.take(SECOND, 1e6, 1.0)
    view.take(0.0, -1e6, 1.0)
    assert (view.rate, view.offset) == (0.0, 0.0)


def test_measurements_that_surprise_more_than_they_should_cost_trust() -> None:
    calm, wild = RateFilter(), RateFilter()
    for n in range(40):
        calm.take(n * SECOND, 0.0, 1e3**2)
        wild.take(n * SECOND, (-1) ** n * 30e3, 1e3**2)
    assert wild.variance(0.0) > 100 * calm.variance(0.0)


def test_a_queue_barely_moves_a_view_of_one_direction() -> None:
    view = RateFilter(queued=True)
    for n in range(60):
        view.take(n * 2 * SECOND, 5e6 if n % 4 == 3 else 0.0, 20e3**2)
    assert abs(view.rate) < 0.5e-6
    assert abs(view.offset) < 50e3


def test_a_way_that_turns_out_quicker_shows_that_all_before_was_queued() -> None:
    view = RateFilter(queued=True)
    for n in range(5):
        view.take(n * 0.25 * SECOND, 8e6, 20e3**2)
    view.take(2 * SECOND, 0.0, 20e3**2)
    assert view.offset == 0.0
    assert abs(view.rate) < 1e-6
    for n in range(3, 63):
        view.take(n * SECOND, 0.0, 20e3**2)
    assert abs(view.rate) < 0.2e-6


def test_the_calmer_direction_says_most() -> None:
    random = Random(2)
    drift = DriftFilter()
    for n in range(40):
        at = n * 2 * SECOND
        true = -70e-6 * at
        drift.take(
            [
                (
                    at + k * 4e6,
                    true + 100e3 + random.expovariate(1 / 10e3),
                    true - 100e3 - random.expovariate(1 / 900e3),
                )
                for k in range(8)
            ]
        )
    assert drift.rate == pytest.approx(-70e-6, abs=0.4e-6)
    assert drift.variance(0.0) ** 0.5 < 0.5e-6


def test_a_single_probe_is_a_burst_too_and_a_step_leaves_the_rate_as_it_is() -> None:
    drift = DriftFilter()
    for n in range(100):
        drift.take([(n * SECOND, 100e3 + 50e-6 * n * SECOND, -100e3 + 50e-6 * n * SECOND)])
    assert drift.rate == pytest.approx(50e-6, abs=0.5e-6)
    drift.begin()
    drift.take([(200 * SECOND, 9e9, 8.9e9)])
    assert drift.rate == pytest.approx(50e-6, abs=0.5e-6)
    drift.reset()
    assert drift.rate == 0.0
    drift.take([(300 * SECOND, 7.0, -7.0)])
    assert drift.rate == 0.0, "none of its views remembers"


class Noted:
    """Stands for a view, and notes what it is told."""

    rate = 0.0

    def __init__(self) -> None:
        self.told: list[tuple[float, float, Any]] = []

    def take(self, at: float, offset: float, variance: float) -> None:
        self.told.append((at, offset, pytest.approx(variance)))

    def variance(self, passed: float) -> float:
        return 1.0


def noted() -> tuple[DriftFilter, Any, Any, Any]:
    """Return a filter, and its views: out, back, middle."""
    drift = DriftFilter()
    views: Any = Noted(), Noted(), Noted()
    drift._out, drift._back, drift._middle = views
    return drift, *views


def test_the_middle_is_that_of_the_quickest_trip_and_says_the_less_the_slower_that_was() -> None:
    drift, _, _, middle = noted()
    drift.take([(1.0, 5000.0, -100.0), (2.0, 130.0, -100.0), (3.0, 100.0, -9000.0)])
    drift.take([(11.0, 700.0, -600.0), (12.0, 600.0, -630.0)])
    assert middle.told == [
        (2.0, 15.0, (230 / 16) ** 2),
        (12.0, -15.0, ((1230 - 230) / 2) ** 2 + (230 / 16) ** 2),
    ]


def test_a_direction_is_that_of_its_quickest_probe_and_says_the_less_the_more_the_third_differs() -> None:
    drift, out, back, _ = noted()
    drift.take([(1.0, 900.0, -6400.0), (2.0, 100.0, -6500.0), (3.0, 150.0, -6460.0), (4.0, 110.0, -9000.0)])
    drift.take([(11.0, 1100.0, -6400.0), (12.0, 100.0, -6400.0)])
    drift.take([(21.0, 100.0, -6400.0)])
    trips = 6600 / 64, 6500 / 64  # of the quickest trip, which stands for noise where the probes show less
    noise = [trips[0], trips[0] + (4 * trips[0] - trips[0]) / 8]
    noise.append(noise[1] + (trips[1] - noise[1]) / 8)
    assert out.told == [(2.0, 100.0, trips[0] ** 2), (12.0, 100.0, 1000.0**2), (21.0, 100.0, noise[2] ** 2)]
    noise = [trips[0], trips[0] + (trips[1] - trips[0]) / 8]
    noise.append(noise[1] + (trips[1] - noise[1]) / 8)
    assert back.told == [(at, 6400.0, each**2) for at, each in zip((1.0, 11.0, 21.0), noise, strict=True)]


def test_a_rate_that_changes_is_followed_however_long_it_stood() -> None:
    view = RateFilter()
    offset = 0.0
    for n in range(3000):
        offset += (2e-6 if n >= 2000 else 0.0) * SECOND
        view.take(n * SECOND, offset, 100.0**2)
    assert view.rate == pytest.approx(2e-6, rel=0.01)


def test_three_views_of_the_same_probes_say_less_than_three_of_their_own_would() -> None:
    assert DriftFilter().variance(0.0) == pytest.approx(2 / 3 * 100e-6**2)
