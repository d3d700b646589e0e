"""The published time is corrected gently, jumps only where it must, and never goes back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.realtime import ClockMapping

SECOND = 1_000_000_000


def test_the_first_estimate_counts_at_once_and_is_no_jump() -> None:
    mapping = ClockMapping()
    assert mapping.to_session_ns(5) == 5
    assert not mapping.update(100, 1e15, 30.0)
    assert mapping.to_session_ns(100) == 100 + 10**15
    assert mapping.to_session_ns(100 + SECOND) == 100 + SECOND + 10**15 + 30_000
    assert mapping.to_session_ns(100 - SECOND) == 100 - SECOND + 10**15 - 30_000
    assert mapping.jump_count == 0


@pytest.mark.parametrize("error", [900_000, -900_000])
def test_a_small_error_is_slewed_away_at_200_ppm(error: int) -> None:
    mapping = ClockMapping()
    mapping.update(0, 0.0, 0.0)
    assert not mapping.update(0, float(error), 0.0)
    assert mapping.to_session_ns(0) == 0
    assert mapping.to_session_ns(SECOND) == SECOND + math.copysign(200_000, error)
    assert mapping.to_session_ns(4 * SECOND) == 4 * SECOND + math.copysign(800_000, error)
    assert mapping.to_session_ns(4_500_000_000) == 4_500_000_000 + error
    assert mapping.to_session_ns(60 * SECOND) == 60 * SECOND + error
    assert mapping.jump_count == 0


def test_an_estimate_that_agrees_changes_nothing() -> None:
    mapping = ClockMapping()
    mapping.update(0, 5.0, 0.0)
    assert not mapping.update(SECOND, 5.0, 0.0)
    assert mapping.to_session_ns(2 * SECOND) == 2 * SECOND + 5


def test_a_large_error_forwards_is_a_jump() -> None:
    mapping = ClockMapping()
    mapping.update(0, 0.0, 0.0)
    assert mapping.update(SECOND, 50e6, 0.0)
    assert mapping.to_session_ns(SECOND) == SECOND + 50_000_000
    assert mapping.jump_count == 1


def test_a_large_error_backwards_makes_time_crawl_until_the_truth_has_caught_up() -> None:
    mapping = ClockMapping()
    mapping.update(0, 0.0, 0.0)
    assert mapping.update(SECOND, -50e6, 0.0)
    times = [mapping.to_session_ns(SECOND + ms * 1_000_000) for ms in range(200)]
    assert times[0] == SECOND
    assert times == sorted(times)
    assert times[52] < SECOND + 10_000_000
    assert times[54] == SECOND + 4_000_000
    assert times[199] == SECOND + 149_000_000


def test_times_before_the_last_estimate_follow_what_is_known_now() -> None:
    mapping = ClockMapping()
    mapping.update(0, 0.0, 0.0)
    mapping.update(SECOND, -50e6, 0.0)
    assert mapping.to_session_ns(SECOND - 20_000_000) == SECOND - 20_000_000


def test_a_local_clock_that_goes_back_takes_session_time_with_it() -> None:
    mapping = ClockMapping()
    mapping.update(10 * SECOND, 0.0, 0.0)
    assert mapping.update(SECOND, -1e9, 0.0)
    assert mapping.to_session_ns(SECOND) == 0


def test_another_clock_begins_anew() -> None:
    mapping = ClockMapping()
    mapping.update(0, 1e12, 0.0)
    mapping.reset()
    assert not mapping.update(SECOND, 0.0, 0.0)
    assert mapping.to_session_ns(SECOND) == SECOND
    assert mapping.jump_count == 0


@pytest.mark.parametrize(("offset", "drift"), [(math.nan, 0.0), (math.inf, 0.0), (0.0, math.nan), (0.0, -math.inf)])
def test_what_is_no_finite_number_is_ignored(offset: float, drift: float) -> None:
    mapping = ClockMapping()
    mapping.update(0, 7.0, 0.0)
    assert not mapping.update(SECOND, offset, drift)
    assert mapping.to_session_ns(SECOND) == SECOND + 7


@pytest.mark.parametrize("drift", [-1e6, -3e6, -1e300, 1e300], ids=str)
def test_a_drift_that_no_clock_has_neither_stops_time_nor_turns_it_back(drift: float) -> None:
    mapping = ClockMapping()
    mapping.update(0, 0.0, drift)
    times = [mapping.to_session_ns(second * SECOND) for second in range(5)]
    assert times == sorted(set(times))
    assert mapping.to_local_ns(times[4]) == 4 * SECOND
    mapping.update(4 * SECOND, -50e6, drift)
    assert mapping.to_session_ns(4 * SECOND) < mapping.to_session_ns(4 * SECOND + SECOND // 100)


estimates = st.tuples(
    st.integers(0, 5 * SECOND),  # since the last one
    st.one_of(st.floats(-3e6, 3e6), st.floats(-1e10, 1e10)),
    st.floats(-500, 500),
)


@given(st.lists(estimates, min_size=1, max_size=20), st.lists(st.integers(0, SECOND), max_size=20))
def test_session_time_never_goes_back(updates: list[tuple[int, float, float]], pauses: list[int]) -> None:
    mapping = ClockMapping()
    local, last = 10**12, -(10**18)
    for number, (pause, offset, drift) in enumerate(updates):
        local += pause
        if number:
            assert mapping.to_session_ns(local) >= last
            last = mapping.to_session_ns(local)
        mapping.update(local, 1e15 + offset, drift)
        assert mapping.to_session_ns(local) >= last
        for more in pauses:
            local += more
            now = mapping.to_session_ns(local)
            assert now >= last
            last = now


@given(st.lists(estimates, min_size=1, max_size=5), st.lists(st.integers(-30 * SECOND, 30 * SECOND), max_size=20))
def test_both_conversions_are_inverse_but_for_rounding(
    updates: list[tuple[int, float, float]], times: list[int]
) -> None:
    mapping = ClockMapping()
    local = 10**12
    for pause, offset, drift in updates:
        local += pause
        mapping.update(local, 1e15 + offset, drift)
    for time in times:
        session = mapping.to_session_ns(local + time)
        assert abs(mapping.to_session_ns(mapping.to_local_ns(session)) - session) <= 2
        assert abs(mapping.to_local_ns(session) - (local + time)) <= 17  # at a 16th of the speed
