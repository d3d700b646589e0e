"""The adaptive delay: what pays, how it moves."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from random import Random

import pytest

from echostream.realtime.delay import LATE_COST_NS, PRIOR, DelayHistogram, DelayTarget

MS = 1_000_000
FRAME = 10 * MS


def target(**options: int) -> DelayTarget:
    return DelayTarget(**{"min_ns": 10 * MS, "max_ns": 500 * MS, **options})


def feed(made: DelayTarget, delays_ms: list[float], begin: int = 0) -> None:
    """Items every 10 ms, with these delays above 7 ms."""
    for at, delay_ms in enumerate(delays_ms, begin):
        made.add(7 * MS + round(delay_ms * MS), at * FRAME + round(delay_ms * MS))


def test_the_cheapest_delay_covers_what_is_worth_it() -> None:
    made = DelayHistogram(500 * MS)
    for at in range(20 * PRIOR):
        made.add(400 * MS if at % 2_000 == 0 else 3 * MS if at % 100 == 0 else 0)
    assert made.cheapest_ns(LATE_COST_NS) == 4 * MS  # 1 % costs 200 ms, 0.05 % only 10
    assert made.cheapest_ns(100 * LATE_COST_NS) == 401 * MS
    assert made.cheapest_ns(0) == 0


def test_the_cheapest_delay_of_nothing_is_none() -> None:
    made = DelayHistogram(500 * MS)
    assert made.cheapest_ns(LATE_COST_NS) == 0
    assert made.quantile_ns(0.95) == 0


def test_quantiles_are_told_to_the_next_millisecond() -> None:
    made = DelayHistogram(500 * MS)
    for delay in range(100):
        made.add(delay * MS)
    assert (made.quantile_ns(0.0), made.quantile_ns(1.0)) == (1 * MS, 100 * MS)
    assert 50 * MS <= made.quantile_ns(0.5) <= 51 * MS


def test_a_delay_above_the_longest_counts_as_that() -> None:
    made = DelayHistogram(50 * MS)
    made.add(1 << 62)
    assert made.quantile_ns(1.0) == 52 * MS


def test_old_delays_are_forgotten_and_numbers_stay_small() -> None:
    made = DelayHistogram(500 * MS, forget=0.5)
    for at in range(200):
        made.add(100 * MS if at < 100 else 0)
    assert made.quantile_ns(0.999) == MS
    assert made.total < 1e16
    assert made.count == 200


def test_weights_are_those_of_the_formula_whatever_is_done_to_keep_them_small() -> None:
    """Each item weighs `forget` times as much as the next one, and those before the first as `PRIOR` of the first."""
    random, made, seen = Random(1), DelayHistogram(20 * MS, forget=0.9), list[int]()
    for count in range(1, 701):
        seen.append(random.randrange(20))
        made.add(seen[-1] * MS)
        if count % 50:
            continue
        weights = [sum(0.9 ** (count - at) for at, each in enumerate(seen, 1) if each == ms) for ms in range(20)]
        below = list(accumulate(weights))
        for share in (0.1, 0.5, 0.9, 0.99):
            assert made.quantile_ns(share) == (1 + bisect_left(below, share * below[-1])) * MS
        scale = 200 * MS / (below[-1] + PRIOR * 0.9**count)
        costs = [ms * MS + (below[-1] - (below[ms - 1] if ms else 0.0)) * scale for ms in range(21)]
        assert costs[made.cheapest_ns(200 * MS) // MS] == pytest.approx(min(costs))


def test_a_steady_network_brings_the_target_to_its_least() -> None:
    made = target(start_ns=60 * MS)
    assert made.target_ns == 60 * MS
    feed(made, [0.0] * 99)
    assert made.target_ns == 60 * MS  # not before it knows a second of them
    feed(made, [0.0] * 50, 99)
    assert made.target_ns == 10 * MS
    assert (made.base_ns, made.delay_ns) == (7 * MS, 17 * MS)


def test_the_target_stays_within_its_bounds() -> None:
    made = target(max_ns=30 * MS)
    feed(made, [0.0, 29.5] * 200)
    assert made.target_ns == 30 * MS
    feed(made, [0.0, 900.0] * 200, 400)
    assert made.target_ns == 30 * MS  # what no delay covers raises none


def test_the_delay_grows_at_once_and_shrinks_slowly_while_somebody_listens() -> None:
    made = target()
    feed(made, [0.0] * 300)
    made.free = False
    feed(made, [40.0, 0.0] * 50, 300)
    high = made.delay_ns
    assert high >= 7 * MS + 40 * MS
    made.add(7 * MS - 20 * MS, 402 * FRAME + 1_000 * MS)  # the last one came at 402
    assert made.delay_ns == high - MS
    made.free = True
    made.add(7 * MS - 20 * MS, 403 * FRAME + 1_000 * MS)
    assert made.delay_ns == made.base_ns + made.target_ns


def test_the_delay_never_exceeds_its_bound_above_the_least() -> None:
    made = target(max_ns=100 * MS)
    made.add(5_000 * MS, 0)
    made.free = False
    made.add(0, FRAME)
    assert made.delay_ns == 100 * MS


def test_the_least_is_that_of_the_last_two_seconds() -> None:
    made = target()
    made.add(5 * MS, 0)
    for at in range(1, 400):
        made.add(9 * MS, at * FRAME)
        assert made.base_ns == (5 * MS if at < 200 else 9 * MS)
    assert made.relative_ns == 0


@pytest.mark.parametrize("seconds", [3, 3_600])
def test_after_a_long_silence_the_least_is_what_comes(seconds: int) -> None:
    made = target()
    made.add(5 * MS, 0)
    made.add(50 * MS, seconds * 1_000 * MS)
    assert made.base_ns == 50 * MS


def test_an_arrival_that_is_stamped_before_the_last_counts_as_now() -> None:
    made = target()
    made.add(5 * MS, 10_000 * MS)
    made.add(3 * MS, 0)
    assert made.base_ns == 3 * MS


def test_a_restart_forgets_the_least_and_keeps_what_is_above() -> None:
    made = target()
    feed(made, [0.0, 30.0] * 200)
    before = made.target_ns
    assert before >= 30 * MS
    made.restart()
    made.add(900 * MS, 10_000 * MS)
    assert (made.base_ns, made.target_ns) == (900 * MS, before)
