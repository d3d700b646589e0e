"""Probes go out rarely as a heartbeat, and in bursts while somebody reads the clock."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from echostream.realtime import ProbeCadence

MS = 1_000_000


def leave(cadence: ProbeCadence, until_ms: float) -> list[float]:
    """Send every probe when it is due; return when, in milliseconds."""
    times: list[float] = []
    while cadence.next_ns <= until_ms * MS:
        now = cadence.next_ns
        times.append(now / MS)
        cadence.sent(now)
    return times


def bursts(times: list[float]) -> list[list[float]]:
    found: list[list[float]] = []
    for time in times:
        if found and time - found[-1][-1] < 50:
            found[-1].append(time)
        else:
            found.append([time])
    return found


def test_nobody_reads_and_one_probe_leaves_per_interval() -> None:
    cadence = ProbeCadence(0, Random(0).random, heartbeat_ns=10_000 * MS)
    assert not cadence.is_syncing
    assert leave(cadence, 35_000) == [10_000, 20_000, 30_000]


def test_a_reader_brings_bursts_that_are_fast_for_four_seconds_and_then_slow_down_to_one_each_two_seconds() -> None:
    cadence = ProbeCadence(0, Random(0).random)
    cadence.sync(100 * MS)
    found = bursts(leave(cadence, 60_000))[:-1]
    assert {len(burst) for burst in found} == {8}
    begun = [burst[0] for burst in found]
    assert begun[:16] == list(range(100, 3_900, 250))
    pauses = [b - a for a, b in pairwise(begun)]
    assert pauses == sorted(pauses)
    assert {pause for at, pause in zip(begun, pauses, strict=False) if at > 32_100} == {2_000}
    gaps = [b - a for burst in found for a, b in pairwise(burst)]
    assert 3 <= min(gaps) < 3.3
    assert 5.7 < max(gaps) <= 6


def test_a_second_reader_disturbs_nothing_and_a_step_brings_fast_bursts_again() -> None:
    cadence = ProbeCadence(0, Random(0).random)
    cadence.sync(0)
    leave(cadence, 9_000)
    due = cadence.next_ns
    cadence.sync(9_000 * MS)
    assert cadence.next_ns == due
    cadence.hurry(9_100 * MS)
    found = bursts(leave(cadence, 9_500))
    assert [burst[0] for burst in found] == [9_100, 9_350]


def test_after_the_last_reader_only_the_heartbeat_is_left() -> None:
    cadence = ProbeCadence(0, Random(0).random, heartbeat_ns=10_000 * MS)
    cadence.sync(0)
    cadence.sent(0)
    cadence.rest(1_000 * MS)
    assert not cadence.is_syncing
    assert leave(cadence, 12_000) == [11_000]
    cadence.rest(15_000 * MS)
    assert cadence.next_ns == 21_000 * MS


def test_what_a_busy_machine_missed_is_not_made_up_for() -> None:
    cadence = ProbeCadence(0, Random(0).random)
    cadence.sync(0)
    leave(cadence, 100)
    for _ in range(8):
        cadence.sent(60_000 * MS)
    found = bursts(leave(cadence, 65_000))
    assert [burst[0] for burst in found] == [62_000, 64_000]
