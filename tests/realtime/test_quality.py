"""Counts and estimates of a received stream."""

from __future__ import annotations

import pytest

from echostream.realtime.quality import QualityMeter, StreamQuality
from echostream.realtime.sequence import Arrival, SequenceTracker

MS = 1_000_000
SECOND = 1_000 * MS
FRAME = 10 * MS


def feed(meter: QualityMeter, transits_ms: list[float], first: int = 0, size_bytes: int = 100) -> None:
    """Items every 10 ms, under way for so long."""
    for at, transit_ms in enumerate(transits_ms, first):
        meter.arrived(at, at * FRAME, at * FRAME + round(transit_ms * MS), size_bytes)


def test_a_meter_that_saw_nothing_tells_zeros() -> None:
    assert QualityMeter().snapshot(0) == StreamQuality()


def test_counts_are_those_of_the_sequence_and_of_its_owner() -> None:
    meter = QualityMeter(SequenceTracker(first=0))
    assert [meter.arrived(at, None, at)[0] for at in (1, 3, 3, 2, 900_000)] == [
        Arrival.NEW, Arrival.NEW, Arrival.DUPLICATE, Arrival.REORDERED, Arrival.STRAY,
    ]  # fmt: skip
    meter.late, meter.dropped, meter.invalid = 4, 5, 6
    told = meter.snapshot(SECOND)
    assert (told.received, told.lost, told.duplicated, told.reordered, told.strays) == (3, 1, 1, 1, 1)
    assert (told.late, told.dropped, told.invalid) == (4, 5, 6)
    meter.ended(10)
    assert (meter.snapshot(SECOND).lost, meter.snapshot(SECOND).lost_for_good) == (7, 0)


def test_bytes_are_those_of_all_items_that_came_once() -> None:
    meter = QualityMeter()
    feed(meter, [5.0] * 3000)
    feed(meter, [5.0] * 10, first=2990)
    assert (meter.snapshot(60 * SECOND).received_bytes, meter.snapshot(60 * SECOND).bytes_per_second) == (300_000, 0)


def test_what_comes_twice_is_no_traffic_and_no_jitter() -> None:
    meter = QualityMeter()
    meter.synchronised = True
    feed(meter, [5.0] * 10)
    meter.arrived(3, 3 * FRAME, 3 * FRAME + 50 * MS, 100)
    told = meter.snapshot(SECOND)
    assert (told.duplicated, told.items_per_second, told.bytes_per_second) == (1, 10, 1_000)
    assert (told.jitter_ns, told.mean_jitter_ns, told.latency_max_ns) == (0, 0, 5 * MS)


def test_jitter_is_that_of_the_rfc_and_its_mean() -> None:
    meter = QualityMeter()
    feed(meter, [5.0, 9.0] * 500)
    told = meter.snapshot(10 * SECOND)
    assert told.jitter_ns == pytest.approx(4 * MS)
    assert told.mean_jitter_ns == pytest.approx(4 * MS)
    assert told.latency_ns is told.latency_min_ns is told.latency_max_ns is None


def test_the_first_step_of_jitter_is_a_sixteenth() -> None:
    meter = QualityMeter()
    feed(meter, [5.0, 21.0])
    assert meter.jitter_ns == 1 * MS


def test_latency_is_told_where_the_clocks_are_one() -> None:
    meter = QualityMeter()
    meter.synchronised = True
    feed(meter, [2.0, 4.0, 9.0])
    told = meter.snapshot(SECOND)
    assert (told.latency_ns, told.latency_min_ns, told.latency_max_ns) == (5 * MS, 2 * MS, 9 * MS)


def test_a_clock_that_locks_is_no_jitter() -> None:
    meter = QualityMeter()
    feed(meter, [4_000.0] * 50)
    meter.synchronised = True
    meter.synchronised = True
    feed(meter, [3.0] * 50, 50)
    told = meter.snapshot(SECOND)
    assert meter.synchronised
    assert (told.jitter_ns, told.mean_jitter_ns, told.latency_ns) == (0, 0, 3 * MS)


@pytest.mark.parametrize("before", [100_000 * SECOND, -100_000 * SECOND], ids=["was ahead", "was behind"])
def test_a_clock_that_locks_spoils_no_estimate_of_what_comes_after(before: int) -> None:
    meter = QualityMeter()
    for at in range(50):
        meter.arrived(at, at * FRAME, before + at * FRAME, 1_000)
    meter.synchronised = True
    feed(meter, [3.0] * 3_000, 50)
    told = meter.snapshot(30_500 * MS)
    assert told.items_per_second == pytest.approx(100, rel=0.02)
    assert told.bytes_per_second == pytest.approx(10_000, rel=0.02)
    assert told.received_bytes == 50_000 + 300_000


def test_times_may_be_below_zero() -> None:
    meter = QualityMeter()
    for at in range(100):
        meter.arrived(at, None, -500 * SECOND + at * FRAME)
    assert meter.snapshot(-499 * SECOND).items_per_second == 100


def test_estimates_are_of_the_last_ten_seconds() -> None:
    meter = QualityMeter()
    meter.synchronised = True
    feed(meter, [5.0, 45.0] * 500, size_bytes=1_000)
    feed(meter, [7.0, 8.0] * 550, 1_000, size_bytes=10)
    told = meter.snapshot(21 * SECOND)
    assert told.latency_max_ns == 8 * MS
    assert told.mean_jitter_ns == pytest.approx(MS, rel=0.1)
    assert told.items_per_second == pytest.approx(100, rel=0.02)
    assert told.bytes_per_second == pytest.approx(1_000, rel=0.02)
    silent = meter.snapshot(40 * SECOND)
    assert (silent.items_per_second, silent.mean_jitter_ns, silent.latency_ns) == (0, 0, None)
    assert silent.received == 2_100


def test_estimates_go_back_ten_whole_seconds_and_the_one_that_has_begun() -> None:
    meter = QualityMeter()
    meter.arrived(0, None, 900 * MS)
    meter.arrived(1, None, 10_500 * MS)
    assert meter.snapshot(10_999 * MS).items_per_second == pytest.approx(2 / 10.099)
    assert meter.snapshot(11_000 * MS).items_per_second == 1


def test_rates_of_a_young_stream_are_those_of_its_first_second() -> None:
    meter = QualityMeter()
    feed(meter, [0.0] * 50)
    assert meter.snapshot(500 * MS).items_per_second == 50


@pytest.mark.parametrize("stated", [-(1 << 63), (1 << 63) - 1, 0], ids=["past", "future", "zero"])
def test_a_timestamp_far_from_all_others_is_no_jitter_and_no_latency(stated: int) -> None:
    begin = 1_000_000 * SECOND
    meter = QualityMeter()
    meter.synchronised = True
    for at in range(100):
        meter.arrived(at, stated if at == 50 else begin + at * FRAME, begin + at * FRAME + 2 * MS)
    told = meter.snapshot(begin + SECOND)
    assert (told.jitter_ns, told.mean_jitter_ns, told.latency_max_ns) == (0, 0, 2 * MS)
    assert told.received == 100


def test_an_arrival_stamped_before_the_last_counts_as_now() -> None:
    meter = QualityMeter()
    meter.arrived(0, None, 50 * SECOND, 10)
    meter.arrived(1, None, 10 * SECOND, 10)
    assert meter.snapshot(50 * SECOND).items_per_second == 2
