"""Turns: a bounded amount, first come first served."""

from __future__ import annotations

import asyncio

import pytest

from echostream.errors import ConnectionLostError
from echostream.session.turns import Turns


def _turns(limit: int = 10) -> Turns:
    return Turns(asyncio.get_running_loop(), limit)


async def _started(turns: Turns, *sizes: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(turns.claim(size)) for size in sizes]
    await asyncio.sleep(0)
    return tasks


async def test_what_fits_goes_at_once_and_the_rest_waits_in_order() -> None:
    turns = _turns()
    await turns.claim(6)
    six, five, one = await _started(turns, 6, 5, 1)
    assert not any(task.done() for task in (six, five, one))  # one would fit, and does not overtake
    turns.release(6)
    await six
    await asyncio.sleep(0)
    assert not five.done()
    turns.release(6)
    await asyncio.gather(five, one)
    assert turns.claimed_bytes == 6
    turns.release(6)
    assert turns.claimed_bytes == 0


async def test_a_piece_larger_than_the_whole_goes_alone() -> None:
    turns = _turns()
    await turns.claim(100)
    (small,) = await _started(turns, 1)
    assert not small.done()
    turns.release(100)
    await small
    turns.release(1)


async def test_who_gives_up_makes_way_for_smaller_ones_behind() -> None:
    turns = _turns()
    await turns.claim(6)
    large, small = await _started(turns, 9, 2)
    large.cancel()
    await asyncio.wait_for(small, 1)
    with pytest.raises(asyncio.CancelledError):
        await large
    assert turns.claimed_bytes == 8


async def test_a_turn_that_came_too_late_is_handed_on() -> None:
    turns = _turns()
    await turns.claim(10)
    first, second = await _started(turns, 10, 10)
    turns.release(10)
    first.cancel()  # in the same turn of the loop in which its turn came
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    assert turns.claimed_bytes == 10


async def test_who_was_cancelled_in_the_turn_in_which_room_is_made_is_passed_over() -> None:
    turns = _turns()
    await turns.claim(10)
    first, second = await _started(turns, 10, 10)
    first.cancel()
    turns.release(10)
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    assert turns.claimed_bytes == 10


async def test_those_who_wait_can_be_told_of_the_end() -> None:
    turns = _turns()
    await turns.claim(10)
    first, second = await _started(turns, 1, 1)
    for waiter in turns.take_waiters():
        waiter.set_exception(ConnectionLostError("gone"))
    second.cancel()  # both at once
    with pytest.raises(ConnectionLostError, match="gone"):
        await first
    with pytest.raises(asyncio.CancelledError):
        await second
    assert turns.take_waiters() == []
    turns.release(10)
    assert turns.claimed_bytes == 0
