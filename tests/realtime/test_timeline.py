"""Timestamps: which are believed, and what stands in for the others."""

from __future__ import annotations

import pytest

from echostream.realtime.timeline import Timeline

MS = 1_000_000
FRAME = 10 * MS
TRANSIT = 5 * MS


def timeline() -> Timeline:
    """One that has seen frame 0."""
    made = Timeline(FRAME)
    assert made.believe(0, 0, TRANSIT) == 0
    return made


def test_timestamps_in_step_are_believed_whenever_they_arrive() -> None:
    made = timeline()
    assert [made.believe(1, FRAME, 9_000 * MS), made.believe(5, 5 * FRAME, 9_000 * MS)] == [FRAME, 5 * FRAME]
    assert made.believe(3, 3 * FRAME, 9_001 * MS) == 3 * FRAME  # overtaken
    assert made.bad == 0


def test_a_hole_of_a_sender_that_paused_is_believed() -> None:
    made = timeline()
    assert made.believe(1, 60_000 * MS, 60_000 * MS + TRANSIT) == 60_000 * MS
    assert made.bad == 0


@pytest.mark.parametrize("later_ms", [-100, 0, 700, 30_000])
def test_behind_a_hole_an_item_may_be_later_than_usual_and_hardly_earlier(later_ms: int) -> None:
    made = timeline()
    assert made.believe(1, 60_000 * MS, (60_000 + later_ms) * MS + TRANSIT) == 60_000 * MS
    assert made.believe(2, 60_010 * MS, 60_010 * MS + TRANSIT) == 60_010 * MS
    assert made.bad == 0


def test_one_that_runs_ahead_may_come_that_much_earlier() -> None:
    for early_ns, bad in ((2_000 * MS, 0), (100 * MS, 1)):
        made = Timeline(FRAME, early_ns=early_ns)
        made.believe(0, 0, TRANSIT)
        made.believe(1, 60_000 * MS, 58_500 * MS)
        assert made.bad == bad


@pytest.mark.parametrize("stated", [0, -1, -(1 << 63), (1 << 63) - 1, 60_000 * MS], ids=str)
def test_one_that_agrees_with_nothing_is_replaced_and_counted(stated: int) -> None:
    made = timeline()
    assert made.believe(1, stated, FRAME + TRANSIT) == FRAME
    assert made.believe(2, 2 * FRAME, 2 * FRAME + TRANSIT) == 2 * FRAME
    assert (made.bad, made.moves) == (1, 0)


def test_equal_timestamps_are_replaced_for_ever() -> None:
    made = timeline()
    assert [made.believe(index, 0, index * FRAME + TRANSIT) for index in range(1, 50)] == [
        index * FRAME for index in range(1, 50)
    ]
    assert (made.bad, made.moves) == (49, 0)


def test_an_overtaken_one_with_a_bad_timestamp_stands_where_its_number_says() -> None:
    made = timeline()
    made.believe(4, 4 * FRAME, 4 * FRAME + TRANSIT)
    assert made.believe(2, 9 * FRAME, 4 * FRAME + TRANSIT) == 2 * FRAME
    assert made.believe(5, 5 * FRAME, 5 * FRAME + TRANSIT) == 5 * FRAME
    assert made.bad == 1


@pytest.mark.parametrize("jump", [-3_600_000 * MS, 3_600_000 * MS], ids=["back", "ahead"])
def test_three_in_a_row_that_agree_move_the_timeline(jump: int) -> None:
    made = timeline()
    believed = []
    for index in range(1, 6):
        believed.append(made.believe(index, jump + index * FRAME, index * FRAME + TRANSIT))
        assert made.moved is (index == 3)
    assert believed == [FRAME, 2 * FRAME, *(jump + index * FRAME for index in (3, 4, 5))]
    assert (made.bad, made.moves) == (3, 1)


def test_what_is_believed_rises_above_what_stood_in_for_another() -> None:
    made = timeline()
    assert made.believe(1, 60_000 * MS, FRAME + TRANSIT) == FRAME
    assert made.believe(2, FRAME // 2, 2 * FRAME + TRANSIT) == 2 * FRAME
    assert made.bad == 2


def test_claims_count_in_a_row_only() -> None:
    made = timeline()
    for index in range(1, 30):
        claim_ns = index * FRAME + (3_600_000 * MS if index % 3 else 0)
        assert made.believe(index, claim_ns, index * FRAME + TRANSIT) == index * FRAME
    assert (made.bad, made.moves) == (20, 0)


def test_claims_that_disagree_among_themselves_move_nothing() -> None:
    made = timeline()
    for index in range(1, 10):
        assert made.believe(index, 3_600_000 * MS * index, index * FRAME + TRANSIT) == index * FRAME
    assert made.moves == 0


def test_a_restart_believes_anything() -> None:
    made = timeline()
    made.restart()
    assert made.believe(1, 1 << 62, TRANSIT) == 1 << 62
    assert made.bad == 0
