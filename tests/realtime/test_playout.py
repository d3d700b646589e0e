"""Playout: every receiver is where session time says, by speeds that nobody hears."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.errors import ConfigurationError
from echostream.realtime import PlayoutController, PlayoutSettings, PlayoutState, PlayoutStep
from tests.protocol.strategies import deterministic

SECOND = 1_000_000_000
MS = 1_000_000
BLOCK = 20 * MS
DELAY = 60 * MS


class Output:
    """An output that does what the controller says, on a device with a drift, told the right time."""

    def __init__(self, drift_ppm: float = 0.0, **arguments: Any) -> None:
        self.controller = PlayoutController(DELAY, **arguments)
        self.drift = drift_ppm * 1e-6
        self.now = 100 * SECOND
        self.position = 0.0
        self.steps: list[PlayoutStep] = []

    @property
    def error(self) -> float:
        """Nanoseconds ahead of the target."""
        return self.position - self.controller.target_ns(self.now)

    def play(self, seconds: float, *, wrong_ns: Callable[[int], int] = lambda _: 0) -> Iterator[float]:
        """Play; give the error at the beginning of each block."""
        for _ in range(round(seconds * SECOND / BLOCK)):
            step = self.controller.update(self.now + wrong_ns(self.now), round(self.position))
            self.steps.append(step)
            self.position += step.jump_ns
            yield self.error
            self.position += BLOCK * step.speed
            self.now += round(BLOCK / (1 + self.drift))

    def run(self, seconds: float, **arguments: Any) -> list[float]:
        return list(self.play(seconds, **arguments))


# Being in step


def test_the_first_sound_is_exactly_where_it_belongs_and_at_the_right_pitch() -> None:
    output = Output()
    assert output.run(1) == [0.0] * 50
    assert output.steps[0] == PlayoutStep(1.0, 100 * SECOND - DELAY, 5 * MS)
    assert set(output.steps[1:]) == {PlayoutStep(1.0)}


@pytest.mark.parametrize("drift_ppm", [-100.0, 60.0, 100.0])
def test_a_device_that_drifts_is_never_more_than_105_us_off_and_soon_right(drift_ppm: float) -> None:
    output = Output(drift_ppm)
    errors = output.run(60)
    assert max(map(abs, errors)) < 105_000 * abs(drift_ppm) / 100 + 2000
    assert max(map(abs, errors[1500:])) < 1000
    assert abs(output.controller.stats().drift_ppm + drift_ppm) < 0.1
    assert output.controller.stats().resync_count == 0


def test_a_device_that_is_slower_than_can_be_made_up_for_is_resynchronised_at_times() -> None:
    output = Output(-700.0)
    errors = output.run(60)
    assert max(map(abs, errors)) < 5_100_000
    assert output.controller.stats().resync_count == 2
    assert abs(output.controller.stats().drift_ppm) <= 500


def test_after_the_start_the_speed_changes_slowly() -> None:
    output = Output(80.0)
    output.run(40)
    output.run(20, wrong_ns=lambda _: 2 * MS)  # the clock was wrong by 2 ms
    speeds = [step.speed for step in output.steps[2000:]]
    assert max(abs(b - a) for a, b in pairwise(speeds)) < 50e-6 * 0.0201
    output.run(60, wrong_ns=lambda _: 2 * MS)
    assert abs(output.error - 2 * MS) < 20_000


def test_an_error_under_the_limit_is_played_away_without_a_jump() -> None:
    output = Output()
    output.run(1)
    output.position += 4.9 * MS
    errors = output.run(60)
    assert output.controller.stats().resync_count == 0
    assert min(errors) > -0.1 * 4.9 * MS  # at its limit the loop learns nothing wrong
    assert abs(errors[-1]) < 20_000
    assert min(step.speed for step in output.steps) == pytest.approx(1 - 500e-6)


# Jumps


@pytest.mark.parametrize("off", [-6 * MS, 6 * MS, -3600 * SECOND, 3600 * SECOND])
def test_a_large_error_is_jumped_over_once(off: int) -> None:
    output = Output(30.0)
    output.run(40)
    output.position += off
    before = output.steps[-1].speed
    errors = output.run(1)
    jumps = [step for step in output.steps[1:] if step.jump_ns]
    assert len(jumps) == 1
    assert jumps[0].jump_ns == pytest.approx(-off, abs=2000)
    assert jumps[0].crossfade_ns == 5 * MS
    assert max(map(abs, errors[3:])) < 5000
    assert jumps[0].speed == pytest.approx(before, abs=1e-6)  # what was learnt of the drift is kept
    assert output.controller.stats().resync_count == 1


def test_one_or_two_wild_measurements_move_nothing() -> None:
    output = Output()
    output.run(10)
    for _ in range(2):
        output.run(0.04, wrong_ns=lambda _: 80 * MS)
        assert max(map(abs, output.run(0.2))) < 1000
    assert output.controller.stats().resync_count == 0


def test_a_machine_that_slept_is_in_step_three_blocks_later() -> None:
    output = Output()
    output.run(35)
    output.now += 600 * SECOND
    errors = output.run(1)
    assert errors[0] == -600 * SECOND
    assert errors[2:] == [0.0] * 48


def test_nothing_is_learnt_from_a_pause_of_the_device() -> None:
    output = Output()
    output.run(5)
    output.now += 2 * SECOND
    output.position += 2 * SECOND + 3 * MS
    [step] = [output.controller.update(output.now, round(output.position))]
    assert step == PlayoutStep(1.0)


# The life of an output


def test_before_the_clock_has_locked_nothing_is_corrected() -> None:
    controller = PlayoutController(DELAY)
    assert [controller.update(None, 5) for _ in range(3)] == [PlayoutStep(1.0)] * 3
    assert controller.stats().state is PlayoutState.WAITING
    assert controller.update(SECOND, 5).jump_ns == SECOND - DELAY - 5
    assert controller.stats().state is PlayoutState.PLAYING


@pytest.mark.parametrize("bound_ns", [1e6, math.inf, math.nan])
def test_playing_starts_when_the_clock_is_good_or_does_not_become_better_soon(bound_ns: float) -> None:
    controller, patience = PlayoutController(DELAY), PlayoutSettings().start_patience_ns
    for now in (SECOND, SECOND + patience - 1):
        assert controller.update(now, 5, bound_ns=bound_ns) == PlayoutStep(1.0)
        assert controller.state is PlayoutState.WAITING
    assert controller.update(SECOND + patience, 5, bound_ns=bound_ns).jump_ns == SECOND + patience - DELAY - 5
    controller.restart()
    assert controller.update(2 * SECOND, 5, bound_ns=bound_ns).jump_ns == 2 * SECOND - DELAY - 5  # not again
    assert PlayoutController(DELAY).update(SECOND, 5, bound_ns=0.9e6).jump_ns == SECOND - DELAY - 5


def test_a_clock_that_goes_back_is_not_waited_for() -> None:
    controller = PlayoutController(DELAY)
    controller.update(9 * SECOND, 5, bound_ns=math.inf)
    assert controller.update(SECOND, 5, bound_ns=math.inf).jump_ns == SECOND - DELAY - 5


def test_when_the_lock_is_lost_the_last_speed_is_kept() -> None:
    output = Output(90.0)
    output.run(40)
    step = output.controller.update(None, 0)
    assert step == PlayoutStep(output.steps[-1].speed)
    assert step.speed == pytest.approx(1 - 90e-6, abs=1e-6)


def test_a_pause_ends_in_step_and_at_the_right_speed() -> None:
    output = Output(90.0)
    output.run(40)
    output.controller.pause()
    assert output.controller.update(output.now, round(output.position)) == PlayoutStep(1.0)
    output.controller.restart()
    assert output.controller.stats().state is PlayoutState.PAUSED
    output.now += 5 * SECOND
    output.controller.resume()
    errors = output.run(2)
    assert max(map(abs, errors)) < 5000
    assert output.controller.stats().resync_count == 0
    output.controller.resume()
    assert output.controller.stats().state is PlayoutState.PLAYING


def test_a_seek_aligns_anew_and_is_no_resynchronisation() -> None:
    output = Output()
    output.controller.restart()
    assert output.controller.stats().state is PlayoutState.WAITING
    output.run(1)
    output.controller.restart()
    output.position += 3 * MS
    assert output.run(0.02) == [0.0]
    assert output.controller.stats().resync_count == 0


# Delays


def test_a_device_that_is_late_by_itself_reads_so_much_earlier() -> None:
    output = Output(device_latency_ns=150 * MS)
    output.run(0.1)
    assert output.position + 150 * MS != output.now  # it reads ahead of...
    assert output.position == output.now - DELAY + 150 * MS  # ...the others
    output.controller.device_latency_ns = 100 * MS
    assert output.controller.device_latency_ns == 100 * MS
    output.run(0.1)
    assert output.position == output.now - DELAY + 100 * MS
    assert output.controller.stats().resync_count == 0


def test_the_delay_of_a_group_moves_by_200_us_in_a_second() -> None:
    output = Output()
    output.run(40)
    begin = output.now + SECOND
    output.controller.move_delay(DELAY + MS, begin)
    assert [output.controller.delay_ns(begin + second * SECOND) - DELAY for second in (-1, 0, 1, 4, 5, 9)] == [
        0, 0, 200_000, 800_000, 1_000_000, 1_000_000,
    ]  # fmt: skip
    errors = output.run(30)
    assert max(map(abs, errors)) < 500_000
    assert abs(errors[-1]) < 50_000
    output.controller.move_delay(DELAY, output.now)
    assert output.controller.delay_ns(output.now + SECOND) == DELAY + 800_000


def test_receivers_stay_together_while_the_delay_moves() -> None:
    outputs = [Output(drift) for drift in (-50.0, 0.0, 70.0)]
    for output in outputs:
        output.run(40)
        output.controller.move_delay(DELAY + 2 * MS, 141 * SECOND)
    errors = [output.run(20) for output in outputs]
    assert max(max(moment) - min(moment) for moment in zip(*errors, strict=True)) < 30_000


# What cannot be


@pytest.mark.parametrize("bad", [1 << 62, -(1 << 62), 10**30, float("nan"), float("inf")])
def test_stamps_of_no_clock_are_counted_and_change_nothing(bad: Any) -> None:
    output = Output(40.0)
    output.run(40)
    last = PlayoutStep(output.steps[-1].speed)
    assert output.controller.update(bad, 0) == last
    assert output.controller.update(0, bad) == last
    assert output.controller.stats().ignored_count == 2
    assert max(map(abs, output.run(1))) < 1000


def test_time_that_stands_still_or_goes_back_is_counted() -> None:
    output = Output()
    output.run(1)
    for _ in range(10):
        output.controller.update(output.now, round(output.position))
    output.controller.update(output.now - MS, round(output.position) - MS)
    assert output.controller.stats().ignored_count == 10
    assert output.run(1)[-1] == 0.0


def test_another_clock_is_followed_wherever_it_is() -> None:
    output = Output()
    output.run(1)
    output.now -= 50 * SECOND
    assert output.run(1)[-1] == 0.0
    assert output.controller.stats().resync_count == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PlayoutController(-1), "delay_ns: -1 must be in 0 to 60000000000 ns"),
        (lambda: PlayoutController(0.1), "delay_ns: 0.1 must be in 0 to 60000000000 ns"),  # type: ignore[arg-type]
        (lambda: PlayoutController(0).move_delay(10**12, 0), "delay_ns: 1000000000000 must be in 0 to 60000000000 ns"),
        (
            lambda: PlayoutController(0).move_delay(0, 1 << 63),
            f"from_ns: {1 << 63} must be in {-(1 << 62)} to {1 << 62} ns",
        ),
        (
            lambda: PlayoutController(0, device_latency_ns=10**10),
            "device_latency_ns: 10000000000 must be in -5000000000 to 5000000000 ns",
        ),
        (lambda: PlayoutSettings(max_ppm=0), "max_ppm: 0 must be in 1 to 20000"),
        (lambda: PlayoutSettings(hold_rate=float("nan")), "hold_rate: nan must be in 0.001 to 5"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.message == text


def test_its_state_is_shown() -> None:
    output = Output()
    assert repr(output.controller) == "<PlayoutController waiting +0 us +0.0 ppm>"
    output.run(1)
    output.position += 0.1 * MS
    output.run(0.02)
    assert repr(output.controller) == "<PlayoutController playing +100 us -70.2 ppm>"
    assert output.controller.state is PlayoutState.PLAYING
    assert output.controller.stats().error_ns == 100_000
    assert output.controller.stats().speed_ppm == pytest.approx(-70.2, abs=0.1)


# Whatever is measured

measurements = st.lists(
    st.tuples(st.integers(0, 100 * MS) | st.integers(-SECOND, 10 * SECOND), st.integers(-4_900_000, 4_900_000)),
    max_size=200,
)


@deterministic
@given(measurements)
def test_the_speed_stays_in_its_limits_and_small_errors_cause_no_jump(moments: list[tuple[int, int]]) -> None:
    controller = PlayoutController(DELAY)
    now = 100 * SECOND
    controller.update(now, now - DELAY)
    for gone, error in moments:
        now += gone
        step = controller.update(now, controller.target_ns(now) + error)
        assert abs(step.speed - 1) <= 500.0001e-6
        assert step.jump_ns == 0
    assert abs(controller.stats().drift_ppm) <= 500


@deterministic
@given(st.lists(st.tuples(st.integers(0, 10 * SECOND), st.none() | st.integers(0, 60 * SECOND)), max_size=50))
def test_the_target_never_goes_back(moments: list[tuple[int, int | None]]) -> None:
    controller = PlayoutController(DELAY)
    now, target = 0, controller.target_ns(0)
    for gone, delay in moments:
        now += gone
        assert controller.target_ns(now) >= target
        target = controller.target_ns(now)
        if delay is not None:
            controller.move_delay(delay, now)
            assert controller.target_ns(now) == target
