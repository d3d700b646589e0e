"""The clock filter: what it makes of good probes, of bad ones, of steps and of restarts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.realtime.delays import PATHS, Path
from benches.realtime.trials import OURS, trial
from echostream.realtime import ClockFilter, Verdict

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000


class Far:
    """A remote clock and the way to it: probes without noise, but for what is asked for."""

    def __init__(self, clock: ClockFilter, offset: int = 5 * SECOND, drift_ppm: float = 0.0) -> None:
        self.clock = clock
        self.offset = offset
        self.drift = drift_ppm * 1e-6
        self.now = 1000 * SECOND

    def true(self, at: int) -> int:
        return self.offset + round((at - 1000 * SECOND) * self.drift)

    def probe(self, out: int = 100 * US, back: int = 100 * US, *, at: int | None = None) -> Verdict:
        t1 = self.now if at is None else at
        arrives, leaves = t1 + out, t1 + out + 30 * US
        t4 = leaves + back
        return self.clock.add(t1, arrives + self.true(arrives), leaves + self.true(leaves), t4)

    def burst(self, count: int = 8, *, pause: int = 2 * SECOND, out: int = 100 * US, back: int = 100 * US) -> None:
        begun = self.now
        for _ in range(count):
            self.probe(out, back)
            self.now += 4 * MS
        self.now = begun + pause


def test_nothing_is_known_before_the_first_probe() -> None:
    clock = ClockFilter()
    assert clock.offset_ns(0) == 0.0
    assert clock.error_bound_ns == math.inf
    assert clock.drift_ppm == 0.0
    assert clock.round_trip_ns == 0.0
    assert clock.sample_count == 0
    assert not clock.locked


def test_one_probe_gives_the_offset_and_half_the_round_trip_as_its_bound() -> None:
    clock = ClockFilter()
    far = Far(clock)
    assert far.probe(out=300 * US, back=100 * US) is Verdict.TAKEN
    assert clock.offset_ns(far.now) == far.offset + 100 * US
    assert 200 * US <= clock.error_bound_ns < 201 * US
    assert clock.round_trip_ns == 400 * US
    assert not clock.locked


def test_a_burst_locks_and_a_queue_in_one_direction_does_not_move_the_offset() -> None:
    clock = ClockFilter()
    far = Far(clock)
    for number in range(8):
        far.probe(out=100 * US + (number % 4) * MS)
        far.now += 4 * MS
    assert clock.locked
    assert clock.sample_count == 8
    assert clock.offset_ns(far.now) == pytest.approx(far.offset, abs=10 * US)


def test_the_drift_is_followed_and_carries_the_offset_on_between_probes() -> None:
    clock = ClockFilter()
    far = Far(clock, drift_ppm=-150.0)
    for _ in range(40):
        far.burst()
    assert clock.drift_ppm == pytest.approx(-150.0, abs=0.5)
    later = far.now + 10 * SECOND
    assert clock.offset_ns(later) == pytest.approx(far.true(later), abs=10 * US)
    assert clock.bound_ns(later) > clock.error_bound_ns


def test_the_bound_holds_on_a_path_whose_asymmetry_cannot_be_seen() -> None:
    clock = ClockFilter()
    far = Far(clock, drift_ppm=30.0)
    for _ in range(40):
        far.burst(out=5 * MS, back=100 * US)
        error = abs(clock.offset_ns(far.now) - far.true(far.now))
        assert error <= clock.bound_ns(far.now)
    assert 2.4 * MS < clock.error_bound_ns < 2.7 * MS


def test_the_window_is_bounded_and_forgets_the_oldest() -> None:
    clock = ClockFilter()
    far = Far(clock)
    far.burst(out=50 * US, back=50 * US)
    for _ in range(47):
        far.burst()
    assert (clock.sample_count, clock.round_trip_ns) == (384, 100 * US)
    far.burst()
    assert (clock.sample_count, clock.round_trip_ns) == (384, 200 * US)


@pytest.mark.parametrize(
    "stamps",
    [
        (0, 10, 9, 20),  # the answer left before the probe arrived
        (20, 10, 10, 0),  # it came back before it left
        (0, 10, 40, 20),  # the other side took longer than the whole round trip
        (0, 5, 6, 10_000_000_001),
        (1 << 62, 5, 6, 1 << 62),
        (0, 1 << 63, 1 << 63, 5),
        (7, 7, 7, 7),
        (math.nan, 5, 6, 10),
        (0, 5, math.inf, 10),
        (0, None, 6, 10),
        ("0", 5, 6, 10),
        (0, 5, 6j, 10),
    ],
)
def test_stamps_that_cannot_be_are_counted_and_change_nothing(stamps: tuple[Any, ...]) -> None:
    clock = ClockFilter()
    assert clock.add(*stamps) is Verdict.IGNORED
    far = Far(clock)
    far.burst()
    before = (clock.offset_ns(far.now), clock.error_bound_ns, clock.drift_ppm, clock.sample_count)
    assert clock.add(*stamps) is Verdict.IGNORED
    assert (clock.offset_ns(far.now), clock.error_bound_ns, clock.drift_ppm, clock.sample_count) == before
    assert clock.ignored_count == 2


@pytest.mark.parametrize("stamps", [(0, 5, 15, 10), (0, 5, 5, 10), (0, -7, -7, 1)], ids=str)
def test_stamps_that_can_just_be_are_taken(stamps: tuple[int, int, int, int]) -> None:
    """A way that takes no time, or a server that takes none."""
    assert ClockFilter().add(*stamps) is Verdict.TAKEN


def test_two_answers_may_come_at_once() -> None:
    clock = ClockFilter()
    assert [clock.add(t1, 5, 6, 20) for t1 in (0, 1)] == [Verdict.TAKEN] * 2


def test_a_burst_that_lost_two_is_enough_to_lock() -> None:
    clock = ClockFilter()
    far = Far(clock)
    locked = []
    for _ in range(6):
        far.probe()
        far.now += 4 * MS
        locked.append(clock.locked)
    assert locked == [False] * 5 + [True]


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_bound_is_as_far_as_the_further_end_of_what_is_proved(mirrored: bool) -> None:
    """One probe was quick on its way out, the other one back: both together prove -100 to 100 us."""
    clock = ClockFilter()
    far = Far(clock)
    for out, back in ((1000, 100), (100, 900)):
        far.probe(*((back * US, out * US) if mirrored else (out * US, back * US)))
        far.now += 4 * MS
    assert clock.error_bound_ns == pytest.approx(300 * US, abs=2 * US), "read before the offset is, too"
    assert clock.offset_ns(far.now) - far.offset == pytest.approx((1 if mirrored else -1) * 200 * US, abs=2 * US)


def test_what_old_probes_prove_fades_with_their_age() -> None:
    clock = ClockFilter()
    far = Far(clock)
    far.burst(out=50 * US, back=50 * US)
    young = clock.error_bound_ns
    for _ in range(10):
        far.burst(out=20 * MS, back=20 * MS)
    aged = clock.error_bound_ns
    assert 1.5 * MS < aged - young < 12 * MS, "the rate is known to 100 ppm at first, three times that for 20 s"


@pytest.mark.parametrize(("shift", "verdict"), [(280 * US, Verdict.TAKEN), (340 * US, Verdict.HELD)])
def test_what_excludes_the_estimate_by_more_than_200_us_is_held(shift: int, verdict: Verdict) -> None:
    clock = ClockFilter()
    far = Far(clock)
    for _ in range(40):
        far.burst()
    far.offset += shift
    assert far.probe() is verdict


def test_the_rate_is_learned_from_each_burst_as_soon_as_it_is_whole_or_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, learned = ClockFilter(), list[int]()
    far = Far(clock)
    monkeypatch.setattr(clock._drift, "take", lambda burst: learned.append(len(burst)))
    far.burst()
    assert learned == [8]
    for _ in range(3):
        far.burst(5)
    assert learned == [8, 5, 5]
    far.burst()
    assert learned == [8, 5, 5, 5, 8]


def test_a_probe_that_comes_twice_counts_once() -> None:
    clock = ClockFilter()
    assert clock.add(0, 5, 6, 10) is Verdict.TAKEN
    assert clock.add(0, 5, 6, 10) is Verdict.IGNORED
    assert clock.sample_count == 1


def test_whole_numbers_of_other_kinds_are_taken() -> None:
    class Whole:
        def __index__(self) -> int:
            return 6

    clock = ClockFilter()
    stamps: tuple[Any, ...] = (0.0, 5, Whole(), 10)
    assert clock.add(*stamps) is Verdict.TAKEN
    assert clock.offset_ns(5) == 0.5


def test_a_single_contradiction_is_left_out_and_counted() -> None:
    clock = ClockFilter()
    far = Far(clock)
    for _ in range(4):
        far.burst()
    far.offset += 50 * MS
    assert far.probe() is Verdict.HELD
    far.offset -= 50 * MS
    far.now += 4 * MS
    assert far.probe() is Verdict.TAKEN
    assert clock.offset_ns(far.now) == pytest.approx(far.offset, abs=US)
    assert (clock.outlier_count, clock.step_count) == (1, 0)


@pytest.mark.parametrize("step", [50 * MS, -50 * MS, 600 * SECOND, 10**17])
def test_four_in_a_row_that_agree_are_a_step_and_the_rate_is_kept(step: int) -> None:
    clock = ClockFilter()
    far = Far(clock, drift_ppm=30.0)
    for _ in range(20):
        far.burst()
    far.offset += step
    verdicts = []
    for _ in range(8):
        verdicts.append(far.probe())
        far.now += 4 * MS
    assert verdicts == [Verdict.HELD] * 3 + [Verdict.STEPPED] + [Verdict.TAKEN] * 4
    assert clock.locked
    assert clock.offset_ns(far.now) == pytest.approx(far.true(far.now), abs=20 * US)
    assert clock.drift_ppm == pytest.approx(30.0, abs=1)
    assert (clock.step_count, clock.outlier_count) == (1, 0)


def test_contradictions_that_do_not_agree_are_no_step() -> None:
    clock = ClockFilter()
    far = Far(clock)
    for _ in range(4):
        far.burst()
    for number in range(100):
        honest, far.offset = far.offset, far.offset + (number * 7919 % 1000 - 500) * SECOND + SECOND // 2
        assert far.probe() is Verdict.HELD
        far.offset = honest
        far.now += 4 * MS
    assert clock.step_count == 0
    assert clock.outlier_count == 99
    assert clock.offset_ns(far.now) == pytest.approx(far.offset, abs=US)


def test_a_local_clock_that_goes_back_is_a_step_too() -> None:
    clock = ClockFilter()
    far = Far(clock)
    for _ in range(4):
        far.burst()
    far.now -= 5 * SECOND
    far.offset += 5 * SECOND
    assert [far.probe(at=far.now + i * 4 * MS) for i in range(4)][-1] is Verdict.STEPPED
    assert clock.offset_ns(far.now) == pytest.approx(far.offset, abs=US)


def test_slow_first_probes_are_put_right_without_a_step() -> None:
    clock = ClockFilter()
    far = Far(clock)
    far.probe(out=400 * MS)
    far.now += 450 * MS
    far.burst()
    assert (clock.step_count, clock.outlier_count) == (0, 0)
    assert clock.offset_ns(far.now) == pytest.approx(far.offset, abs=100 * US)


def test_another_process_that_answers_has_another_clock() -> None:
    clock = ClockFilter()
    assert not clock.begin_epoch(1)
    far = Far(clock, drift_ppm=100.0)
    for _ in range(10):
        far.burst()
    assert not clock.begin_epoch(1)
    assert clock.locked
    assert clock.begin_epoch(2)
    assert (clock.sample_count, clock.drift_ppm, clock.locked) == (0, 0.0, False)
    far.offset = -(10**15)
    far.burst(pause=0)
    assert clock.offset_ns(far.now) == pytest.approx(far.true(far.now), abs=100 * US)
    assert (clock.step_count, clock.outlier_count) == (0, 0)


stamp: st.SearchStrategy[Any] = st.one_of(
    st.integers(), st.integers(-(1 << 63), 1 << 63), st.floats(), st.none(), st.text(max_size=3), st.booleans()
)


@given(st.lists(st.tuples(stamp, stamp, stamp, stamp), max_size=10))
def test_whatever_comes_in_nothing_breaks(probes: list[tuple[Any, Any, Any, Any]]) -> None:
    clock = ClockFilter()
    for probe in probes:
        clock.add(*probe)
        assert math.isfinite(clock.offset_ns(0))
        assert not math.isnan(clock.error_bound_ns)
        assert math.isfinite(clock.drift_ppm)
    assert clock.sample_count + clock.ignored_count <= len(probes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("path", [*PATHS.values(), replace(PATHS["Wi-Fi"], extra_out=2000.0)], ids=repr)
def test_the_truth_is_within_the_bound(path: Path, seed: int) -> None:
    looks = trial(path, seed, seconds=30, drift_ppm=200.0).looks
    assert sum(look.errors[OURS] > look.bound for look in looks) == 0
