"""Media time: a sample and its time belong together for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.errors import ConfigurationError
from echostream.realtime import MediaClock
from tests.protocol.strategies import deterministic


def test_a_second_has_its_samples() -> None:
    clock = MediaClock(48_000, 7)
    assert [clock.to_session_ns(sample) for sample in (0, 48_000, -48_000)] == [7, 1_000_000_007, -999_999_993]
    assert [clock.to_sample(time) for time in (7, 20_840, 20_841, 6)] == [0, 0, 1, -1]


def test_nothing_adds_up_over_a_year() -> None:
    year = 365 * 86_400
    assert MediaClock(44_100, 0).to_session_ns(year * 44_100) == year * 1_000_000_000


@deterministic
@given(st.integers(1, 1_000_000), st.integers(-(10**18), 10**18), st.integers(-(10**13), 10**13))
def test_the_first_nanosecond_of_a_sample_is_its_own(rate: int, origin: int, sample: int) -> None:
    clock = MediaClock(rate, origin)
    begin = clock.to_session_ns(sample)
    assert (clock.to_sample(begin - 1), clock.to_sample(begin)) == (sample - 1, sample)


@pytest.mark.parametrize("rate", [0, -48_000, 1_000_001])
def test_a_rate_that_cannot_be_is_refused(rate: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MediaClock(rate, 0)
    assert caught.value.message == f"rate_hz: {rate} must be in 1 to 1000000"
