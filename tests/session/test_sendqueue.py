"""The queue before the network: bounded by number, bytes and age, and who gives way."""

from __future__ import annotations

import math

from echostream.protocol.frames import DatagramItemFrame
from echostream.session.sendqueue import QueuedItem, SendQueue


def made(*, max_items: int = 3, max_bytes: int = 100, max_age: float = math.inf) -> SendQueue:
    return SendQueue(max_items=max_items, max_bytes=max_bytes, max_age=max_age)


def put(queue: SendQueue, sequence: int, size: int = 10, now: float = 0.0) -> None:
    queue.put(QueuedItem(DatagramItemFrame(1, sequence, bytes(size))), now)


def left(queue: SendQueue, now: float = 0.0) -> list[int]:
    found = []
    while (item := queue.take(now)) is not None:
        found.append(item.frame.sequence)
    return found


def test_items_leave_in_order() -> None:
    queue = made()
    for number in range(3):
        put(queue, number)
    assert (len(queue), queue.bytes) == (3, 30)
    assert repr(queue) == "<SendQueue 3 items of 30 bytes, 0 stale, 0 dropped>"
    peeked = queue.peek(0.0)
    assert peeked is not None
    assert peeked.frame.sequence == 0
    assert left(queue) == [0, 1, 2]
    assert (len(queue), queue.bytes, queue.peek(0.0)) == (0, 0, None)


def test_there_is_room_for_a_number_of_items_and_of_bytes_and_for_a_large_one_alone() -> None:
    queue = made()
    assert queue.has_room(1000)
    put(queue, 0, 60)
    assert (queue.has_room(40), queue.has_room(41)) == (True, False)
    put(queue, 1, 0)
    put(queue, 2, 0)
    assert not queue.has_room(0)


def test_the_oldest_goes_when_it_has_to() -> None:
    queue = made()
    queue.drop_oldest()
    for number in range(3):
        put(queue, number)
    queue.drop_oldest()
    assert (queue.dropped, queue.stale, left(queue)) == (1, 0, [1, 2])


def test_what_waited_too_long_is_dropped_and_counted_apart() -> None:
    queue = made(max_age=0.5)
    put(queue, 0, now=1.0)
    put(queue, 1, now=1.2)
    assert queue.peek(1.4) is not None
    assert (left(queue, 1.5), queue.stale, queue.dropped) == ([1], 1, 0)
    put(queue, 2, now=2.0)
    assert (left(queue, 9.0), queue.stale, queue.bytes) == ([], 2, 0)


def test_what_is_forgotten_counts_for_nothing() -> None:
    queue = made()
    put(queue, 0)
    queue.clear()
    assert (len(queue), queue.bytes, queue.dropped, queue.stale) == (0, 0, 0, 0)
