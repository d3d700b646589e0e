"""The token bucket: bursts, what comes back, debts, and pieces larger than the bucket."""

from __future__ import annotations

import pytest

from echostream.bucket import TokenBucket


def test_a_rate_has_a_burst_and_comes_back() -> None:
    limit = TokenBucket(10, burst=3)
    assert [limit.take(5.0) for _ in range(5)] == [True, True, True, False, False]
    assert [limit.take(5.15) for _ in range(2)] == [True, False]
    assert [limit.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_with_debt_nothing_passes_under_a_flood() -> None:
    limit = TokenBucket(10, burst=3, debt=10)
    passed = sum(limit.take(number / 100) for number in range(500))
    assert passed == 3
    assert not limit.take(5.5)
    assert limit.take(6.3)


def test_a_token_that_is_put_back_can_be_taken_again_and_none_is_gained_so() -> None:
    limit = TokenBucket(10, burst=1)
    assert limit.take(0.0)
    limit.give_back()
    limit.give_back()
    assert [limit.take(0.0), limit.take(0.0)] == [True, False]


def test_who_spends_at_once_waits_as_long_as_the_rate_asks() -> None:
    limit = TokenBucket(1000, burst=500)
    assert limit.wait(1.0, 500) == 0.0
    limit.spend(500)
    assert limit.wait(1.0, 200) == pytest.approx(0.2)
    assert limit.wait(1.1, 200) == pytest.approx(0.1)


def test_what_is_larger_than_the_bucket_waits_until_it_is_full_and_pays_all_of_it() -> None:
    limit = TokenBucket(1000, burst=500)
    assert limit.wait(0.0, 2000) == 0.0
    limit.spend(2000)
    assert limit.wait(0.0, 1) == pytest.approx(1.501)
    assert limit.wait(1.6, 1) == 0.0
