"""What waits in a jitter buffer."""

from __future__ import annotations

from echostream.realtime.sequence import WINDOW
from echostream.realtime.waiting import NEVER, Played, Waiting

FRAME = 10


def waiting(*indices: int, capacity: int = 10, capacity_bytes: int = 1_000) -> Waiting:
    made = Waiting(capacity, capacity_bytes)
    for at, index in enumerate(indices):
        made.put(Played(index, index * FRAME, at, b"12345"))
    return made


def test_the_lowest_index_comes_first_in_any_order() -> None:
    made = waiting(5, 3, 9, 4)
    assert (len(made), made.size_bytes, made.span_ns) == (4, 20, 60)
    assert [made.take().index for _ in range(4)] == [3, 4, 5, 9]
    assert (len(made), made.size_bytes, made.span_ns, made.first) == (0, 0, 0, None)


def test_it_begins_anew_lower_or_higher_when_it_was_empty() -> None:
    for index in (100, 1):
        made = waiting(50)
        made.clear()
        assert made.first is None
        made.put(Played(index, 0, 0, b""))
        assert made.first is not None
        assert made.first.index == index


def test_it_is_overfull_by_items_or_by_bytes() -> None:
    assert not waiting(1, 2, capacity=2, capacity_bytes=10).is_overfull
    assert waiting(1, 2, 3, capacity=2).is_overfull
    assert waiting(1, 2, capacity_bytes=9).is_overfull


def test_there_is_room_for_one_more_up_to_both_bounds_and_always_for_one_alone() -> None:
    assert Waiting(1, 1).has_room(1_000_000)
    assert waiting(1, capacity=2, capacity_bytes=10).has_room(5)
    assert not waiting(1, capacity=2, capacity_bytes=10).has_room(6)
    assert not waiting(1, 2, capacity=2).has_room(0)


def test_the_highest_index_comes_last_in_any_order() -> None:
    assert Waiting(1, 1).last is None
    last = waiting(5, 9, 4).last
    assert last is not None
    assert last.index == 9


def test_missing_is_what_three_later_ones_overtook() -> None:
    assert waiting(4, 7, 8, 9).missing(2, 99) == [3, 5, 6]
    assert waiting(4, 7, 8).missing(2, 99) == [3]
    assert waiting(4, 7, 8, 9).missing(NEVER, 99) == [5, 6]


def test_missing_counts_later_ones_only_from_before_an_instant() -> None:
    made = waiting(4, 7, 8, 9)
    assert made.missing(2, 3) == [3, 5, 6]
    assert made.missing(2, 2) == [3]
    assert made.missing(2, 1) == []


def test_nothing_is_missing_where_nothing_waits() -> None:
    assert Waiting(1, 1).missing(NEVER, 0) == []
    assert Waiting(1, 1).missing(5, 0) == []


def test_missing_looks_back_so_far_and_no_further() -> None:
    assert len(waiting(50_000, 50_001, 50_002).missing(0, 99)) == WINDOW - 3
