"""The drift is learned from calm directions, and from what disturbs it nothing is learned."""

from __future__ import annotations

from random import Random

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
