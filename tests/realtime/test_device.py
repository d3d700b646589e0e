"""The clock of a sound device, found through noisy reports; and the device that is only arithmetic."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.errors import ConfigurationError
from echostream.realtime import DeviceClock, VirtualDevice
from tests.protocol.strategies import deterministic

SECOND = 1_000_000_000
MS = 1_000_000


def errors(clock: DeviceClock, device: VirtualDevice, random: Random, *, seconds: float, noise: float) -> list[int]:
    """Report a block of 10 ms after another; return how wrong the clock then was about each."""
    found = []
    for frame in range(0, int(seconds * 48_000), 480):
        clock.add(device.heard_ns(frame) + round(random.gauss(0.0, noise)), frame)
        found.append(clock.local_ns(frame) - device.heard_ns(frame))
    return found


# DeviceClock


@pytest.mark.parametrize("drift_ppm", [-200.0, -60.0, 0.0, 100.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_reports_that_are_off_by_150_us_show_the_device_within_35_us(drift_ppm: float, seed: int) -> None:
    device = VirtualDevice(48_000, started_ns=5 * SECOND, drift_ppm=drift_ppm)
    clock = DeviceClock(48_000)
    found = errors(clock, device, Random(seed), seconds=30, noise=150e3)
    assert max(map(abs, found[100:])) < 150_000
    assert max(map(abs, found[1000:])) < 35_000
    assert abs(clock.drift_ppm - drift_ppm) < 3
    assert (clock.step_count, clock.ignored_count) == (0, 0)
    assert repr(clock) == f"<DeviceClock 48000 Hz {clock.drift_ppm:+.1f} ppm>"


def test_before_the_first_average_the_mean_of_the_reports_counts() -> None:
    clock = DeviceClock(48_000)
    clock.add(1000, 0)
    assert clock.local_ns(0) == 1000
    clock.add(10 * MS + 3000, 480)
    assert (clock.local_ns(0), clock.local_ns(480), clock.drift_ppm) == (2000, 10 * MS + 2000, 0.0)


def test_a_dozen_reports_are_enough_to_begin_by_and_stay_enough() -> None:
    clock, locked = DeviceClock(48_000), []
    for number in range(200):
        clock.add(number * 10 * MS, number * 480)
        locked.append(clock.locked)
    assert locked == [False] * 11 + [True] * 189


def test_one_wild_report_moves_nothing() -> None:
    clock = DeviceClock(48_000)
    errors(clock, VirtualDevice(48_000, started_ns=0), Random(1), seconds=5, noise=0.0)
    before = clock.local_ns(480_000)
    clock.add(before + 40 * MS, 480_000)
    assert clock.local_ns(480_000) == before
    assert (clock.step_count, clock.ignored_count) == (0, 1)


def test_wild_reports_that_contradict_each_other_move_nothing() -> None:
    clock = DeviceClock(48_000)
    errors(clock, VirtualDevice(48_000, started_ns=0), Random(1), seconds=5, noise=0.0)
    before = clock.local_ns(480_000)
    for i in range(10):
        clock.add(before + (-1) ** i * 40 * MS, 480_000)
    assert clock.local_ns(480_000) == before
    assert (clock.step_count, clock.ignored_count) == (0, 10)


def test_a_device_that_stood_still_is_known_after_eight_reports() -> None:
    clock = DeviceClock(48_000)
    device = VirtualDevice(48_000, started_ns=0, drift_ppm=50.0)
    errors(clock, device, Random(1), seconds=20, noise=0.0)
    for frame in range(960_000, 960_000 + 8 * 480, 480):
        clock.add(device.heard_ns(frame) + 30 * MS, frame)
    assert abs(clock.local_ns(964_000) - device.heard_ns(964_000) - 30 * MS) < 1000
    assert clock.step_count == 1
    assert abs(clock.drift_ppm - 50.0) < 0.1


def test_noise_of_a_device_that_reports_whole_periods_is_averaged_out() -> None:
    device, clock, random = VirtualDevice(48_000, started_ns=0, drift_ppm=-30.0), DeviceClock(48_000), Random(3)
    for frame in range(0, 60 * 48_000, 480):
        clock.add(device.heard_ns(frame) + random.randrange(-10 * MS, 10 * MS), frame)
    assert abs(clock.local_ns(frame) - device.heard_ns(frame)) < 500_000
    assert clock.step_count == 0


@pytest.mark.parametrize(("local", "frame"), [(1 << 62, 0), (0, 1 << 62), (float("nan"), 0), (0, float("inf"))])
def test_reports_of_no_device_are_counted_and_left_out(local: int, frame: int) -> None:
    clock = DeviceClock(48_000)
    clock.add(local, frame)
    clock.add(1000, 0)
    assert (clock.local_ns(0), clock.ignored_count) == (1000, 1)


def test_a_report_of_a_frame_long_past_is_counted_and_left_out() -> None:
    clock = DeviceClock(48_000)
    errors(clock, VirtualDevice(48_000, started_ns=0), Random(1), seconds=5, noise=0.0)
    clock.add(-10 * MS, -480)
    assert clock.ignored_count == 1


@deterministic
@given(st.lists(st.tuples(st.integers(-(10**19), 10**19), st.integers(-(10**19), 10**19)), max_size=60))
def test_whatever_a_device_reports_the_clock_answers(reports: list[tuple[int, int]]) -> None:
    clock = DeviceClock(48_000)
    for local, frame in reports:
        clock.add(local, frame)
    assert isinstance(clock.local_ns(0), int)


@pytest.mark.parametrize("rate", [0, 999, 1_000_001, float("nan")])
def test_a_rate_that_no_device_has_is_refused(rate: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DeviceClock(rate)
    assert caught.value.message == f"rate_hz: {rate} must be in 1000 to 1000000"


# VirtualDevice


def test_a_device_plays_by_its_own_clock() -> None:
    device = VirtualDevice(48_000, started_ns=SECOND, drift_ppm=100.0)
    assert [device.played(time) for time in (0, SECOND, 11 * SECOND)] == [0, 0, 480_048]
    assert device.heard_ns(480_048) == 11 * SECOND


def test_a_device_takes_what_fits() -> None:
    device = VirtualDevice(48_000, started_ns=0, buffer_frames=960)
    assert (device.write(700, 0), device.write(700, 0), device.write(1, 0), device.write(-1, 0)) == (700, 260, 0, 0)
    assert (device.buffered(10 * MS), device.room(10 * MS)) == (480, 480)
    assert device.write(960, 10 * MS) == 480
    assert device.underrun_count == 0


def test_a_device_without_anything_to_play_plays_silence_and_goes_on() -> None:
    device = VirtualDevice(48_000, started_ns=0, buffer_frames=960)
    assert device.next_frame(MS) == 48  # not an underrun: nothing had begun
    device.write(432, MS)
    assert device.next_frame(30 * MS) == 1440
    device.write(480, 30 * MS)
    assert device.next_frame(30 * MS) == 1920
    assert (device.underrun_count, device.underrun_frames, device.buffered(30 * MS)) == (1, 960, 480)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"drift_ppm": 10_001.0}, "drift_ppm: 10001.0 must be in -10000 to 10000"),
        ({"drift_ppm": float("nan")}, "drift_ppm: nan must be in -10000 to 10000"),
        ({"buffer_frames": 0}, "buffer_frames: 0 must be at least 1"),
    ],
)
def test_a_device_that_cannot_be_is_refused(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        VirtualDevice(48_000, started_ns=0, **arguments)  # type: ignore[arg-type]
    assert caught.value.message == text
