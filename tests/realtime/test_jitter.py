"""The jitter buffer: order, turns, gaps, states, and everything that can be wrong with what comes."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.realtime.order import Case, faults, random_case
from echostream.realtime.jitter import Fate, JitterBuffer, State
from echostream.realtime.quality import QualityMeter, StreamQuality
from echostream.realtime.waiting import Gap, Played
from tests.protocol.strategies import deterministic

MS = 1_000_000
SECOND = 1_000 * MS
FRAME = 10 * MS
LATENCY = 50 * MS
TRANSIT = 7 * MS
WRAP = 1 << 32


def group(**options: Any) -> JitterBuffer:
    return JitterBuffer(FRAME, **{"latency_ns": LATENCY, "late_ns": 5 * MS, **options})


def push(buffer: JitterBuffer, *frames: int, transit_ns: int = TRANSIT, at_ns: int | None = None) -> list[Fate]:
    """Push frames: number, timestamp and arrival follow from each."""
    return [
        buffer.push(frame % WRAP, frame * FRAME, frame * FRAME + transit_ns if at_ns is None else at_ns, b"%d" % frame)
        for frame in frames
    ]


def pop(buffer: JitterBuffer, now_ns: int) -> list[int | str]:
    """Pop all: the number of an item, "gap" and its number for a gap."""
    given: list[int | str] = []
    while (each := buffer.pop(now_ns)) is not None:
        frame = each.timestamp_ns // FRAME
        given.append(frame if isinstance(each, Played) else f"gap {frame}")
    return given


def counts(buffer: JitterBuffer, *names: str) -> tuple[int, ...]:
    stats = buffer.stats()
    return tuple(getattr(stats, name) for name in names)


def state(buffer: JitterBuffer) -> State:
    return buffer.state


# Turns


def test_an_item_has_its_turn_exactly_one_latency_after_its_timestamp() -> None:
    buffer = group()
    assert state(buffer) is State.PRIMING
    assert buffer.pop(0) is None
    assert push(buffer, 3) == [Fate.QUEUED]
    turn_ns = 3 * FRAME + LATENCY
    assert buffer.next_ns(0) == turn_ns
    assert buffer.pop(turn_ns - 1) is None
    item = buffer.pop(turn_ns)
    assert isinstance(item, Played)
    assert (item.index, item.timestamp_ns, item.arrival_ns, item.payload) == (3, 3 * FRAME, 3 * FRAME + TRANSIT, b"3")
    assert item.play_at_ns == turn_ns
    assert state(buffer) is State.PLAYING
    assert repr(buffer) == "<JitterBuffer PLAYING, 0 items, delay 50.0 ms>"


def test_a_margin_hands_out_earlier_and_plays_at_the_same_time() -> None:
    buffer = group(margin_ns=20 * MS)
    push(buffer, 0)
    assert buffer.next_ns(0) == LATENCY - 20 * MS
    item = buffer.pop(LATENCY - 20 * MS)
    assert item is not None
    assert item.play_at_ns == LATENCY
    assert buffer.wanted_latency_ns == TRANSIT + buffer.target_delay_ns + 20 * MS


def test_a_new_latency_of_the_group_moves_the_turns() -> None:
    buffer = group()
    push(buffer, 0, 1)
    assert pop(buffer, LATENCY) == [0]
    buffer.latency_ns = LATENCY + 5 * MS
    assert buffer.latency_ns == buffer.playout_delay_ns == LATENCY + 5 * MS
    assert pop(buffer, LATENCY + FRAME) == []
    assert pop(buffer, LATENCY + FRAME + 5 * MS) == [1]


def test_the_room_follows_a_latency_that_grows() -> None:
    buffer = group()
    buffer.latency_ns = 2 * SECOND
    push(buffer, *range(300), at_ns=0)
    assert counts(buffer, "buffered", "dropped") == (300, 0)
    buffer.latency_ns = LATENCY
    push(buffer, 300, at_ns=0)
    assert counts(buffer, "buffered", "dropped") == (64, 237)
    buffer.latency_ns = 2 * SECOND
    push(buffer, 301, at_ns=0)
    buffer.push(302, 0, 302 * FRAME, b"")
    buffer.push(303, 500 * FRAME, 303 * FRAME, b"")
    assert counts(buffer, "bad_timestamps") == (1,), "behind a hole it may be as early as there is room"
    fixed = group(capacity=5)
    fixed.latency_ns = 2 * SECOND
    push(fixed, *range(10), at_ns=0)
    assert len(fixed) == 5


def test_a_latency_below_nothing_is_refused() -> None:
    buffer = group()
    with pytest.raises(ValueError, match="a delay of -5 ns: latency_ns and max_delay_ns are above 0"):
        buffer.latency_ns = -5
    assert buffer.latency_ns == LATENCY


def test_an_adaptive_one_plays_after_the_least_delay_and_the_target() -> None:
    buffer = JitterBuffer(FRAME)
    assert buffer.latency_ns is None
    push(buffer, 0)
    assert buffer.playout_delay_ns == TRANSIT + buffer.target_delay_ns == TRANSIT + 20 * MS
    assert pop(buffer, 27 * MS) == [0]


def test_an_adaptive_one_needs_no_common_clock() -> None:
    buffer = JitterBuffer(FRAME)
    far = -(10**6) * SECOND
    for frame in range(100):
        push(buffer, frame, transit_ns=far)
    assert pop(buffer, far + 20 * MS) == [0]
    assert counts(buffer, "bad_timestamps", "late") == (0, 0)


def test_a_first_item_that_was_slow_gives_way_to_the_next() -> None:
    buffer = JitterBuffer(FRAME)
    push(buffer, 0, transit_ns=300 * MS)
    push(buffer, 30, transit_ns=0, at_ns=300 * MS)
    assert pop(buffer, 300 * MS) == []
    assert counts(buffer, "dropped") == (1,)
    assert pop(buffer, 320 * MS) == [30]


# Order


def test_items_are_given_in_order_and_once() -> None:
    buffer = group()
    fates = push(buffer, 0, 2, 1, 2, 0, 3)
    assert fates == [Fate.QUEUED, Fate.QUEUED, Fate.QUEUED, Fate.DUPLICATE, Fate.DUPLICATE, Fate.QUEUED]
    assert pop(buffer, LATENCY + 3 * FRAME) == [0, 1, 2, 3]
    assert counts(buffer, "received", "played", "duplicated", "reordered", "lost", "concealed") == (4, 4, 2, 1, 0, 0)


def test_numbers_may_wrap() -> None:
    buffer = group()
    begin = WRAP - 2
    push(buffer, *range(begin, begin + 4))
    assert pop(buffer, (begin + 3) * FRAME + LATENCY) == list(range(begin, begin + 4))


@deterministic
@given(st.integers(0, 1 << 30).map(lambda seed: random_case(random.Random(seed))))
def test_any_order_copies_losses_and_delays_give_the_right_output_and_counts(case: Case) -> None:
    assert faults(case) == []


@deterministic
@given(
    first=st.integers(0, WRAP - 1),
    order=st.integers(1, 40).flatmap(lambda count: st.permutations(range(count))),
    lost=st.sets(st.integers(0, 39)),
    copies=st.lists(st.integers(0, 39), max_size=10),
)
def test_any_permutation_within_the_window_is_put_right(
    first: int, order: list[int], lost: set[int], copies: list[int]
) -> None:
    sent = [frame for frame in order if frame not in lost]
    sent += [frame for frame in copies if frame in sent]
    at_ns = 400 * MS  # all arrive one after another, when the last was sent
    arrivals = tuple((at_ns + at - frame * FRAME, frame) for at, frame in enumerate(sent))
    assert faults(Case(first, arrivals, latency_ns=at_ns + len(sent))) == []


# Gaps


def test_a_lost_frame_is_a_gap_in_its_turn_when_later_ones_prove_it() -> None:
    buffer = group()
    push(buffer, 0, 2, 3, 4)
    assert pop(buffer, LATENCY) == [0]
    assert buffer.next_ns(LATENCY) == LATENCY + FRAME
    gap = buffer.pop(LATENCY + FRAME)
    assert gap == Gap(1, FRAME, FRAME, LATENCY + FRAME)
    assert state(buffer) is State.CONCEALING
    assert pop(buffer, LATENCY + 2 * FRAME) == [2]
    assert counts(buffer, "lost", "concealed", "skipped") == (1, 1, 0)


def test_one_that_may_still_come_is_waited_for_a_little() -> None:
    buffer = group()
    push(buffer, 0, 2)
    assert pop(buffer, LATENCY + FRAME + 5 * MS - 1) == [0]
    assert push(buffer, 1, at_ns=LATENCY + FRAME + 5 * MS - 1) == [Fate.QUEUED]
    assert pop(buffer, LATENCY + FRAME + 5 * MS - 1) == [1]
    assert counts(buffer, "concealed", "late") == (0, 0)


def test_one_that_comes_after_its_gap_is_late() -> None:
    buffer = group()
    push(buffer, 0, 2)
    assert pop(buffer, LATENCY + FRAME + 5 * MS) == [0, "gap 1"]
    assert push(buffer, 1) == [Fate.LATE]
    assert pop(buffer, LATENCY + 2 * FRAME) == [2]
    assert push(buffer, 1, 0) == [Fate.DUPLICATE, Fate.DUPLICATE]
    assert counts(buffer, "late", "concealed", "lost", "received") == (1, 1, 0, 3)


def test_a_device_gets_an_item_or_a_gap_whenever_it_asks_for_a_frame() -> None:
    for latency_ns in (None, LATENCY):
        buffer = JitterBuffer(FRAME, latency_ns=latency_ns)
        asked = []
        for frame in range(400):
            if frame % 7 != 5:
                push(buffer, frame)
            asked.append(buffer.pop(frame * FRAME + TRANSIT + MS))  # once, at any moment of the frame
        begin = next(at for at, given in enumerate(asked) if given is not None)
        frames = [given.index for given in asked if given is not None]
        assert frames == list(range(400 - begin))
        assert [given.index for given in asked if isinstance(given, Gap)] == [
            frame for frame in frames if frame % 7 == 5
        ]


def test_waiting_never_delays_the_next_item() -> None:
    buffer = JitterBuffer(2 * MS, latency_ns=LATENCY, late_ns=5 * MS)
    for frame in (0, 2):
        buffer.push(frame, frame * 2 * MS, frame * 2 * MS, b"")
    assert buffer.pop(LATENCY) is not None
    assert isinstance(buffer.pop(LATENCY + 4 * MS), Gap)
    assert isinstance(buffer.pop(LATENCY + 4 * MS), Played)


def test_usual_reordering_is_given_time_before_a_loss_is_proved() -> None:
    buffer = group(latency_ns=500 * MS)
    for frame in range(1, 40, 2):  # each even one comes 30 ms after its successor
        push(buffer, frame, transit_ns=0)
        push(buffer, frame - 1, transit_ns=FRAME + 30 * MS)
    push(buffer, 41, 42, 43, at_ns=440 * MS)
    assert buffer.missing(440 * MS) == []
    assert buffer.missing(500 * MS) == [40]


def test_a_gap_waits_for_usual_reordering_where_its_caller_can_wait() -> None:
    """Three later ones came: a loss, once they have been there for as long as reordering takes."""
    for there_ms, proved in ((20, False), (120, True)):
        buffer = group(latency_ns=500 * MS)
        for frame in range(1, 40, 2):  # each even one comes 30 ms after its successor
            push(buffer, frame, transit_ns=0)
            push(buffer, frame - 1, transit_ns=FRAME + 30 * MS)
        turn_ns = 40 * FRAME + 500 * MS
        pop(buffer, turn_ns - MS)
        push(buffer, 41, 42, 43, at_ns=turn_ns - there_ms * MS)
        assert buffer.next_ns(turn_ns) == turn_ns + (0 if proved else 5 * MS)


def test_what_is_missing_is_told_for_recovery_and_may_be_pushed_in_time() -> None:
    buffer = group()
    push(buffer, 0, 3, 4, 5)
    assert buffer.missing(5 * FRAME + TRANSIT) == [1, 2]
    assert push(buffer, 1, at_ns=5 * FRAME + TRANSIT) == [Fate.QUEUED]
    assert buffer.missing(8 * FRAME) == []  # it may be as late as that one
    assert buffer.missing(20 * FRAME) == [2]
    assert pop(buffer, LATENCY + 3 * FRAME) == [0, 1, "gap 2", 3]
    assert buffer.missing(LATENCY + 3 * FRAME) == []


def test_an_empty_buffer_gives_gaps_by_time_and_then_nothing() -> None:
    buffer = group(rebuffer_ns=30 * MS)
    push(buffer, 0)
    assert pop(buffer, LATENCY + FRAME + 4 * MS) == [0]
    assert pop(buffer, LATENCY + FRAME + 5 * MS) == ["gap 1"]
    assert buffer.next_ns(0) == LATENCY + 2 * FRAME + 5 * MS
    assert pop(buffer, LATENCY + 3 * FRAME + 5 * MS) == ["gap 2", "gap 3"]
    assert pop(buffer, LATENCY + 4 * FRAME + 5 * MS) == []
    assert state(buffer) is State.REBUFFER
    assert buffer.next_ns(0) is None
    push(buffer, 10)
    assert pop(buffer, LATENCY + 10 * FRAME) == [10]
    assert state(buffer) is State.PLAYING
    assert counts(buffer, "concealed", "skipped", "lost") == (3, 6, 9)


def test_a_long_loss_before_later_items_ends_in_silence_and_their_turn() -> None:
    buffer = group(rebuffer_ns=30 * MS, latency_ns=SECOND)
    push(buffer, 0, *range(50, 55))
    given = [each for now in range(100, 155) for each in pop(buffer, now * FRAME)]
    assert given == [0, "gap 1", "gap 2", "gap 3", 50, 51, 52, 53, 54]
    assert counts(buffer, "concealed", "skipped", "lost") == (3, 46, 49)


def test_a_pause_of_the_sender_is_neither_lost_nor_concealed() -> None:
    buffer = group(rebuffer_ns=30 * MS)
    push(buffer, 0)
    assert pop(buffer, LATENCY) == [0]
    assert [pop(buffer, LATENCY + frame * FRAME + 5 * MS) for frame in (1, 2, 3, 4)][:3] == [
        ["gap 1"],
        ["gap 2"],
        ["gap 3"],
    ]
    after_ns = 60 * SECOND
    assert buffer.push(1, after_ns, after_ns + TRANSIT, b"") is Fate.QUEUED
    item = buffer.pop(after_ns + LATENCY)
    assert isinstance(item, Played)
    assert item.timestamp_ns == after_ns
    assert counts(buffer, "lost", "concealed", "skipped", "bad_timestamps") == (0, 0, 0, 0)


def test_a_file_that_is_sent_ahead_pauses_and_goes_on_without_loss() -> None:
    buffer = JitterBuffer(FRAME, latency_ns=SECOND)
    given = []
    for pause_ns, frames, ahead_ns in ((0, range(300), 200 * MS), (60 * SECOND, range(300, 600), 900 * MS)):
        for frame in range(frames.start, frames.stop + 250):
            now_ns = pause_ns + frame * FRAME - ahead_ns
            if frame in frames:
                assert buffer.push(frame, pause_ns + frame * FRAME, now_ns, b"") is Fate.QUEUED
            while (each := buffer.pop(now_ns)) is not None:
                given += [each.index] if isinstance(each, Played) else []
    assert given == list(range(600))
    assert counts(buffer, "bad_timestamps", "late", "lost", "concealed", "skipped") == (0, 0, 0, 0, 0)


def test_a_hole_of_the_sender_with_items_behind_it_is_silence() -> None:
    buffer = group()
    push(buffer, 0)
    for index, frame in ((1, 4), (2, 5)):
        buffer.push(index, frame * FRAME, frame * FRAME, b"")
    assert pop(buffer, LATENCY + 4 * FRAME - 1) == [0]
    assert buffer.next_ns(0) == LATENCY + 4 * FRAME
    assert pop(buffer, LATENCY + 5 * FRAME) == [4, 5]


# Falling behind


def test_a_caller_that_was_away_goes_on_with_what_has_its_turn() -> None:
    buffer = group()
    push(buffer, 0)
    assert pop(buffer, LATENCY) == [0]
    push(buffer, *range(1, 60))
    assert pop(buffer, LATENCY + 50 * FRAME) == [50]
    assert counts(buffer, "dropped", "skipped", "concealed") == (49, 49, 0)


def test_a_caller_that_is_a_little_behind_gets_everything() -> None:
    buffer = group()
    push(buffer, 0)
    assert pop(buffer, LATENCY) == [0]
    push(buffer, *range(1, 20))
    assert pop(buffer, LATENCY + 19 * FRAME) == list(range(1, 20))


def test_after_an_outage_a_group_plays_what_is_in_time() -> None:
    buffer = group()
    push(buffer, 0)
    assert pop(buffer, LATENCY) == [0]
    for frame in range(1, 60):
        pop(buffer, LATENCY + frame * FRAME + 5 * MS)
    assert state(buffer) is State.REBUFFER
    at_ns = 60 * FRAME + LATENCY
    assert push(buffer, *range(1, 65), at_ns=at_ns) == [Fate.LATE] * 59 + [Fate.QUEUED] * 5
    assert [each for frame in range(60, 65) for each in pop(buffer, LATENCY + frame * FRAME)] == [60, 61, 62, 63, 64]
    assert counts(buffer, "late", "concealed", "skipped") == (59, 20, 39)


def test_after_a_pause_that_no_timestamp_tells_of_an_adaptive_one_plays_at_once() -> None:
    buffer = JitterBuffer(FRAME)
    push(buffer, *range(100))
    now_ns = 0
    while now_ns < 2 * SECOND:
        now_ns += FRAME
        pop(buffer, now_ns)
    assert state(buffer) is State.REBUFFER
    given = []
    for frame in range(100, 122):  # as if no time had passed
        push(buffer, frame, transit_ns=SECOND)
        given += pop(buffer, frame * FRAME + SECOND)
    assert given == list(range(100, 120))


def test_what_was_queued_in_an_outage_raises_no_delay_for_good() -> None:
    buffer = JitterBuffer(FRAME)
    for frame in range(500):
        stalled = 200 <= frame < 255
        push(buffer, frame, transit_ns=max(TRANSIT, (255 - frame) * FRAME) if stalled else TRANSIT)
        pop(buffer, frame * FRAME + TRANSIT if not stalled else 255 * FRAME)
    assert buffer.playout_delay_ns <= TRANSIT + 30 * MS


# Control


def test_paused_it_gives_nothing_and_stays_in_step() -> None:
    buffer = group()
    push(buffer, 0)
    assert pop(buffer, LATENCY) == [0]
    buffer.pause()
    for frame in range(1, 2_000):
        push(buffer, frame)
        assert buffer.pop(frame * FRAME + TRANSIT) is None
    assert buffer.next_ns(0) is None
    assert len(buffer) <= 6
    buffer.resume()
    begin = 1_994  # its time is now: 50 ms later than it was sent, when the last one came
    assert [each for at in range(begin, begin + 3) for each in pop(buffer, at * FRAME + LATENCY)] == [
        1_994,
        1_995,
        1_996,
    ]
    assert counts(buffer, "skipped", "concealed", "lost") == (0, 0, 0)


def test_paused_without_anybody_asking_it_keeps_the_newest() -> None:
    buffer = group(capacity=10)
    push(buffer, *range(1_000))
    buffer.pause()
    push(buffer, *range(1_000, 2_000))
    assert len(buffer) == 10
    buffer.resume()
    assert state(buffer) is State.PRIMING
    assert pop(buffer, 1_999 * FRAME + LATENCY) == list(range(1_994, 2_000))
    assert counts(buffer, "skipped") == (0,)


def test_flushed_it_begins_with_what_comes_next() -> None:
    buffer = group()
    push(buffer, 0, 1, 3)
    assert pop(buffer, LATENCY) == [0]
    buffer.flush()
    assert (state(buffer), len(buffer)) == (State.PRIMING, 0)
    assert push(buffer, 2) == [Fate.LATE]
    for index, frame in ((4, 900), (5, 901)):  # a seek: the sender goes on elsewhere
        assert buffer.push(index, frame * FRAME, frame * FRAME, b"") is Fate.QUEUED
    assert pop(buffer, LATENCY + 901 * FRAME) == [900, 901]
    assert counts(buffer, "dropped", "late", "concealed", "skipped") == (2, 1, 0, 0)


def test_an_empty_one_may_be_flushed() -> None:
    buffer = group()
    buffer.flush()
    push(buffer, 0)
    assert pop(buffer, LATENCY) == [0]


def test_restarted_it_believes_any_numbers_and_timestamps() -> None:
    buffer = group()
    push(buffer, 5_000, 5_001)
    assert pop(buffer, 5_000 * FRAME + LATENCY) == [5_000]
    buffer.restart()
    push(buffer, 3, 4, at_ns=6_000 * FRAME)
    assert counts(buffer, "received", "dropped", "late", "restarts") == (4, 1, 2, 0)  # long past for a group
    adaptive = JitterBuffer(FRAME)
    push(adaptive, 5_000)
    adaptive.restart()
    push(adaptive, 3, at_ns=6_000 * FRAME)
    assert pop(adaptive, 6_000 * FRAME + adaptive.target_delay_ns) == [3]


# Bounds


def test_more_items_than_there_is_room_for_push_out_the_oldest() -> None:
    buffer = group(capacity=3)
    push(buffer, *range(5), at_ns=0)
    assert len(buffer) == 3
    assert [each for at in range(5) for each in pop(buffer, LATENCY + at * FRAME)] == [2, 3, 4]
    assert counts(buffer, "dropped", "buffered") == (2, 0)


def test_more_bytes_than_there_is_room_for_push_out_the_oldest() -> None:
    buffer = group(capacity_bytes=2_000)
    for frame in range(4):
        buffer.push(frame, frame * FRAME, 0, bytes(900))
    assert counts(buffer, "buffered", "buffered_bytes", "dropped") == (2, 1_800, 2)


def test_the_room_follows_from_the_delay() -> None:
    ahead = JitterBuffer(FRAME, latency_ns=10 * SECOND)
    push(ahead, *range(2_100), at_ns=0)
    assert len(ahead) == 2_000
    push(small := JitterBuffer(SECOND), *range(100), at_ns=0)
    assert len(small) == 64


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frame_ns": 0}, "frame_ns is 0, at least 1 is needed: how long an item lasts"),
        ({"frame_ns": FRAME, "latency_ns": -1}, "a delay of -1 ns: latency_ns and max_delay_ns are above 0"),
        ({"frame_ns": FRAME, "max_delay_ns": 0}, "a delay of 0 ns: latency_ns and max_delay_ns are above 0"),
        ({"frame_ns": FRAME, "capacity": 0}, "room for 0 items and 16777216 bytes: both are above 0"),
        ({"frame_ns": FRAME, "capacity": 1, "capacity_bytes": 0}, "room for 1 items and 0 bytes: both are above 0"),
    ],
)
def test_what_no_buffer_can_be_made_of_is_named(options: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        JitterBuffer(**cast("Any", options))


# What should not come


@pytest.mark.parametrize("field", range(3))
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "soon"], ids=repr)
def test_what_is_no_number_is_refused_and_counted(field: int, value: object) -> None:
    buffer = group()
    fields: list[Any] = [0, 0, 0]
    fields[field] = value
    seq, timestamp_ns, arrival_ns = fields
    assert buffer.push(seq, timestamp_ns, arrival_ns, b"") is Fate.INVALID
    assert counts(buffer, "invalid", "received") == (1, 0)


def test_numbers_of_another_kind_are_taken() -> None:
    buffer = group()
    assert buffer.push(cast("Any", 0.0), cast("Any", 0.0), cast("Any", True), b"") is Fate.QUEUED
    assert pop(buffer, LATENCY) == [0]


def test_a_jump_of_the_numbers_drops_one_and_begins_anew() -> None:
    buffer = group()
    push(buffer, *range(10))
    fates = [buffer.push(frame + 1_000_000, frame * FRAME, frame * FRAME + TRANSIT, b"") for frame in (10, 11, 12)]
    assert fates == [Fate.STRAY, Fate.QUEUED, Fate.QUEUED]
    assert [each for at in range(10, 14) for each in pop(buffer, LATENCY + at * FRAME)] == [11, 12]
    assert counts(buffer, "strays", "restarts", "lost", "dropped", "skipped") == (1, 1, 0, 10, 0)


@pytest.mark.parametrize("stated", [-(1 << 63), (1 << 63) - 1, 0, 3_600 * SECOND], ids=str)
@pytest.mark.parametrize("latency_ns", [None, LATENCY], ids=["adaptive", "group"])
def test_one_wild_timestamp_disturbs_nothing(stated: int, latency_ns: int | None) -> None:
    buffer = JitterBuffer(FRAME, latency_ns=latency_ns)
    given = []
    for frame in range(1_000, 1_100):
        timestamp_ns = stated if frame == 1_050 else frame * FRAME
        assert buffer.push(frame, timestamp_ns, frame * FRAME + TRANSIT, b"") is Fate.QUEUED
        given += pop(buffer, frame * FRAME + TRANSIT)
    assert given == list(range(1_000, 1_000 + len(given)))
    assert len(given) >= 90
    assert counts(buffer, "bad_timestamps", "late", "dropped", "concealed") == (1, 0, 0, 0)


def test_equal_timestamps_are_played_one_after_the_other() -> None:
    buffer = group()
    given = []
    for frame in range(200):
        buffer.push(frame, 0, frame * FRAME + TRANSIT, b"")
        given += pop(buffer, frame * FRAME + TRANSIT)
    assert given == list(range(195))
    assert counts(buffer, "bad_timestamps", "late") == (199, 0)


@pytest.mark.parametrize("latency_ns", [None, LATENCY], ids=["adaptive", "group"])
def test_timestamps_that_go_back_for_good_are_followed(latency_ns: int | None) -> None:
    buffer = JitterBuffer(FRAME, latency_ns=latency_ns)
    given: list[int | str] = []
    back = 0
    for frame in range(2_000, 2_400):
        back = 1_000 * FRAME if frame >= 2_200 else 0
        buffer.push(frame, frame * FRAME - back, frame * FRAME + TRANSIT, b"")
        given += pop(buffer, frame * FRAME + TRANSIT)
    moved = [each for each in given if isinstance(each, int) and each < 2_000]
    if latency_ns is None:  # a group has no place for them: they were due long ago
        assert moved == list(range(1_202, 1_202 + len(moved)))
        assert len(moved) > 190
    else:
        assert moved == []
        assert counts(buffer, "late")[0] > 190
    assert counts(buffer, "bad_timestamps") == (3,)


@deterministic
@given(
    st.lists(
        st.tuples(
            st.integers(0, WRAP - 1) | st.integers(0, 30),
            st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 30).map(lambda frame: frame * FRAME),
            st.integers(0, 60).map(lambda at: at * FRAME) | st.integers(0, 1 << 63),
            st.sampled_from(["push", "push", "push", "pop", "pause", "resume", "flush", "restart", "stats"]),
        ),
        max_size=60,
    ),
    st.sampled_from([None, LATENCY]),
)
def test_whatever_comes_every_item_has_one_fate(steps: list[tuple[int, int, int, str]], latency_ns: int | None) -> None:
    buffer = JitterBuffer(FRAME, latency_ns=latency_ns, capacity=8)
    indices = []
    for seq, timestamp_ns, at_ns, verb in steps:
        if verb == "push":
            buffer.push(seq, timestamp_ns, at_ns, b"12")
        elif verb == "pop":
            for _ in range(100):
                each = buffer.pop(at_ns)
                if each is None:
                    break
                indices += [each.index] if isinstance(each, Played) else []
            else:
                pytest.fail("it never ends")
        elif verb == "restart":
            buffer.restart()
            indices.clear()
        else:
            getattr(buffer, verb)()
        assert len(buffer) <= 8
        when = buffer.next_ns(at_ns)
        assert when is None or when > -(1 << 66)
    assert indices == sorted(set(indices))
    stats = buffer.stats()
    assert stats.received == stats.played + stats.late + stats.dropped + stats.buffered
    assert stats.buffered_bytes == 2 * stats.buffered


# What it tells


def test_stats_tell_what_waits_and_what_is_wanted() -> None:
    buffer = JitterBuffer(FRAME, latency_ns=LATENCY, meter=QualityMeter())
    buffer.meter.synchronised = True
    assert buffer.stats() == StreamQuality(
        state="PRIMING", target_delay_ns=20 * MS, playout_delay_ns=LATENCY, wanted_latency_ns=20 * MS
    )
    push(buffer, 0, 1, 4)
    stats = buffer.stats()
    assert (stats.state, stats.buffered, stats.buffered_bytes, stats.buffered_ns) == ("PRIMING", 3, 3, 5 * FRAME)
    assert (stats.latency_ns, stats.jitter_p95_ns) == (TRANSIT, MS)
    assert stats.wanted_latency_ns == TRANSIT + 20 * MS
    assert stats.lost == 2
