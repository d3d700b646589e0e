"""Sequence numbers: unwrapping, and exact counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.realtime.sequence import MAX_STEP, OVERTAKEN, WINDOW, Arrival, SequenceTracker
from tests.protocol.strategies import deterministic

WRAP = 1 << 32


def arrive(tracker: SequenceTracker, *sequences: int) -> list[Arrival]:
    return [tracker.arrived(sequence % WRAP)[0] for sequence in sequences]


def counts(tracker: SequenceTracker) -> dict[str, int]:
    names = ("received", "lost", "duplicated", "reordered", "restarts", "strays")
    return {name: getattr(tracker, name) for name in names if getattr(tracker, name)}


def test_numbers_in_order_are_new_and_keep_their_value() -> None:
    tracker = SequenceTracker()
    assert [tracker.arrived(sequence) for sequence in (7, 8, 9)] == [
        (Arrival.NEW, 7),
        (Arrival.NEW, 8),
        (Arrival.NEW, 9),
    ]
    assert counts(tracker) == {"received": 3}
    assert repr(tracker) == "<SequenceTracker at 9: 3 received, 0 lost>"


def test_indices_keep_rising_where_numbers_wrap() -> None:
    tracker = SequenceTracker()
    indices = [tracker.arrived(sequence % WRAP)[1] for sequence in range(3 * WRAP - 2, 3 * WRAP + 3)]
    assert indices == list(range(WRAP - 2, WRAP + 3))
    assert counts(tracker) == {"received": 5}


def test_one_overtaken_by_the_very_first_wrap_comes_before_it() -> None:
    tracker = SequenceTracker()
    assert [tracker.arrived(sequence) for sequence in (0, WRAP - 1)] == [(Arrival.NEW, 0), (Arrival.REORDERED, -1)]
    assert counts(tracker) == {"received": 2, "reordered": 1}


def test_sixteen_bits_wrap_sooner() -> None:
    tracker = SequenceTracker(bits=16)
    assert [tracker.arrived(sequence)[1] for sequence in (0xFFFF, 0x1_0000, 0x1_0001)] == [0xFFFF, 0x1_0000, 0x1_0001]


def test_what_may_only_be_overtaken_is_not_lost_for_good() -> None:
    tracker = SequenceTracker(first=0)
    assert tracker.lost_for_good == 0
    arrive(tracker, 1, OVERTAKEN - 1)
    assert (tracker.lost, tracker.lost_for_good) == (OVERTAKEN - 2, 0)
    arrive(tracker, OVERTAKEN, OVERTAKEN + 2)
    assert tracker.lost_for_good == 2, "0 and 2"
    arrive(tracker, 3)
    assert tracker.lost_for_good == 2
    tracker.ended(OVERTAKEN + 100)
    assert tracker.lost == OVERTAKEN + 100 - 5
    assert tracker.lost_for_good == 2, "the last ones may still come"


@deterministic
@given(st.permutations(range(40)), st.sets(st.integers(0, 39)), st.sampled_from((None, 0)))
def test_lost_for_good_never_falls_and_ends_where_lost_does(
    order: list[int], lost: set[int], first: int | None
) -> None:
    """Within blocks of 40 in any order no number is 64 or more behind the newest when it comes."""
    tracker = SequenceTracker(first=first)
    before = 0
    for block in range(3):
        for number in order:
            if number not in lost:
                tracker.arrived(40 * block + number)
            assert before <= tracker.lost_for_good <= tracker.lost
            before = tracker.lost_for_good
    arrive(tracker, *range(120, 120 + OVERTAKEN))
    assert tracker.lost_for_good == tracker.lost


def test_a_restart_gives_up_what_the_run_before_it_missed() -> None:
    tracker = SequenceTracker()
    arrive(tracker, 1, 3, 900_000, 900_001)
    assert (tracker.restarts, tracker.lost, tracker.lost_for_good) == (1, 1, 1)


def test_a_gap_is_lost_until_it_comes_late() -> None:
    tracker = SequenceTracker()
    arrive(tracker, 1, 4)
    assert counts(tracker) == {"received": 2, "lost": 2}
    assert arrive(tracker, 3) == [Arrival.REORDERED]
    assert counts(tracker) == {"received": 3, "lost": 1, "reordered": 1}


def test_a_second_copy_is_a_duplicate_wherever_it_comes() -> None:
    tracker = SequenceTracker()
    assert arrive(tracker, 1, 1, 2, 3, 2, 3)[1::2] == [Arrival.DUPLICATE, Arrival.NEW, Arrival.DUPLICATE]
    assert counts(tracker) == {"received": 3, "duplicated": 3}


def test_what_is_too_old_to_judge_is_a_stray() -> None:
    tracker = SequenceTracker()
    arrive(tracker, WINDOW)
    assert arrive(tracker, 1, 0, WINDOW) == [Arrival.REORDERED, Arrival.STRAY, Arrival.DUPLICATE]


def test_a_step_ahead_is_loss_up_to_a_limit() -> None:
    tracker = SequenceTracker()
    assert arrive(tracker, 0, MAX_STEP, 2 * MAX_STEP + 1) == [Arrival.NEW, Arrival.NEW, Arrival.STRAY]
    assert counts(tracker) == {"received": 2, "lost": MAX_STEP - 1, "strays": 1}


@pytest.mark.parametrize("jump", [100_000, -100_000, WRAP // 2], ids=["ahead", "back", "half-way round"])
def test_two_in_a_row_after_a_jump_are_a_restart_and_no_loss(jump: int) -> None:
    tracker = SequenceTracker()
    arrive(tracker, 500_000, 500_002)
    assert arrive(tracker, 500_000 + jump) == [Arrival.STRAY]
    found, index = tracker.arrived((500_001 + jump) % WRAP)
    assert found is Arrival.RESTARTED
    assert index > 500_002
    assert index % WRAP == (500_001 + jump) % WRAP
    assert arrive(tracker, 500_003 + jump, 500_001 + jump) == [Arrival.NEW, Arrival.DUPLICATE]
    assert counts(tracker) == {"received": 4, "lost": 2, "duplicated": 1, "restarts": 1, "strays": 1}


def test_strays_that_do_not_follow_each_other_restart_nothing() -> None:
    tracker = SequenceTracker()
    assert arrive(tracker, 0, 70_000, 70_000, 90_000, 1) == [Arrival.NEW, *[Arrival.STRAY] * 3, Arrival.NEW]
    assert counts(tracker) == {"received": 2, "strays": 3}


def test_loss_at_both_ends_counts_when_the_ends_are_known() -> None:
    tracker = SequenceTracker(first=10)
    assert (tracker.expected, tracker.lost) == (0, 0)
    arrive(tracker, 12, 13)
    assert tracker.lost == 2
    tracker.ended(6)
    assert (tracker.expected, tracker.lost) == (6, 4)


def test_a_restart_after_the_end_was_told_counts_what_comes_again() -> None:
    tracker = SequenceTracker()
    arrive(tracker, 0, 1)
    tracker.ended(4)
    tracker.restart()
    arrive(tracker, 7, 9)
    assert (tracker.expected, tracker.lost) == (7, 3)


def test_one_before_the_first_is_no_duplicate_of_it() -> None:
    tracker = SequenceTracker(first=10)
    assert arrive(tracker, 9, 10, 9) == [Arrival.REORDERED, Arrival.NEW, Arrival.DUPLICATE]
    assert counts(tracker) == {"received": 2, "duplicated": 1, "reordered": 1}


def test_what_it_remembers_is_bounded() -> None:
    tracker = SequenceTracker(window=64)
    arrive(tracker, *range(1_000))
    assert tracker._seen.bit_length() <= 64


def test_all_of_a_stream_may_be_lost() -> None:
    tracker = SequenceTracker()
    tracker.ended(5)
    assert tracker.lost == 5


def test_a_restart_on_demand_believes_any_number_and_keeps_the_counts() -> None:
    tracker = SequenceTracker()
    arrive(tracker, 5, 7)
    tracker.restart()
    assert tracker.highest is None
    assert arrive(tracker, 1_000_000, 1_000_002) == [Arrival.NEW, Arrival.NEW]
    assert counts(tracker) == {"received": 4, "lost": 2}


@deterministic
@given(
    first=st.integers(0, WRAP - 1),
    order=st.integers(1, 60).flatmap(lambda count: st.permutations(range(count))),
    lost=st.sets(st.integers(0, 59)),
    copies=st.lists(st.integers(0, 59), max_size=20),
)
def test_counts_are_exact_for_any_order_loss_and_copies(
    first: int, order: list[int], lost: set[int], copies: list[int]
) -> None:
    sent = [frame for frame in order if frame not in lost]
    sent += [frame for frame in copies if frame in sent]
    tracker = SequenceTracker()
    begun = None
    for at, frame in enumerate(sent):
        found, index = tracker.arrived((first + frame) % WRAP)
        begun = index - frame if begun is None else begun
        assert index == begun + frame
        assert found is (
            Arrival.DUPLICATE if frame in sent[:at]
            else Arrival.REORDERED if frame < max(sent[:at], default=frame)
            else Arrival.NEW
        )  # fmt: skip
    assert tracker.received == len(set(sent))
    assert tracker.duplicated == len(sent) - len(set(sent))
    assert tracker.lost == (max(sent) - min(sent) + 1 - len(set(sent)) if sent else 0)
