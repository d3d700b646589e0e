"""The timer wheel, on a loop whose time the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from echostream.session.deadlines import DeadlineWheel


class _Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Loop:
    """A loop with time and timers only."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[_Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(when, callback)
        self.timers.append(timer)
        return timer

    @property
    def armed(self) -> list[_Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def go_to(self, when: float) -> None:
        """Let time pass, firing what is due on the way."""
        while due := sorted((timer for timer in self.armed if timer.when <= when), key=lambda timer: timer.when):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].when)
            due[0].callback()
        self.now = when


@pytest.fixture
def loop() -> _Loop:
    return _Loop()


@pytest.fixture
def wheel(loop: _Loop) -> DeadlineWheel:
    return DeadlineWheel(loop)  # type: ignore[arg-type]


def test_a_deadline_fires_never_early_and_at_most_ten_milliseconds_late(loop: _Loop, wheel: DeadlineWheel) -> None:
    for step in range(100):
        when = 100.0 + step * 0.00137
        fired: list[float] = []
        wheel.add(when, lambda fired=fired: fired.append(loop.now))  # type: ignore[misc]
        loop.go_to(max(loop.now, when) + 0.011)
        assert len(fired) == 1
        assert 0.0 <= fired[0] - when <= 0.0111 or fired[0] - loop.now <= 0.0111
        assert fired[0] >= when


def test_a_removed_deadline_does_not_fire(loop: _Loop, wheel: DeadlineWheel) -> None:
    fired: list[str] = []
    entry = wheel.add(101.0, lambda: fired.append("a"))
    wheel.add(101.0, lambda: fired.append("b"))
    assert len(wheel) == 2
    wheel.remove(entry)
    assert len(wheel) == 1
    loop.go_to(102.0)
    assert fired == ["b"]
    wheel.remove(entry)
    assert len(wheel) == 0


def test_deadlines_share_one_timer_which_moves_forward_only_when_needed(loop: _Loop, wheel: DeadlineWheel) -> None:
    fired: list[str] = []
    wheel.add(105.0, lambda: fired.append("late"))
    wheel.add(106.0, lambda: fired.append("later"))
    assert len(loop.timers) == 1
    wheel.add(101.0, lambda: fired.append("soon"))
    assert [round(timer.when) for timer in loop.armed] == [101]
    loop.go_to(110.0)
    assert fired == ["soon", "late", "later"]
    assert not loop.armed


def test_slots_that_were_emptied_are_skipped(loop: _Loop, wheel: DeadlineWheel) -> None:
    fired: list[str] = []
    entries = [wheel.add(101.0 + number, lambda: fired.append("never")) for number in range(3)]
    wheel.add(105.0, lambda: fired.append("end"))
    for entry in entries:
        wheel.remove(entry)
    loop.go_to(101.5)
    assert [round(timer.when) for timer in loop.armed] == [105]
    loop.go_to(106.0)
    assert fired == ["end"]


def test_a_deadline_may_be_added_while_one_fires(loop: _Loop, wheel: DeadlineWheel) -> None:
    fired: list[str] = []

    def again() -> None:
        fired.append("first")
        wheel.add(102.0, lambda: fired.append("second"))

    wheel.add(101.0, again)
    loop.go_to(103.0)
    assert fired == ["first", "second"]


def test_a_deadline_in_the_past_fires_at_the_next_chance(loop: _Loop, wheel: DeadlineWheel) -> None:
    fired: list[str] = []
    wheel.add(50.0, lambda: fired.append("past"))
    loop.go_to(100.0)
    assert fired == ["past"]


def test_closing_forgets_everything(loop: _Loop, wheel: DeadlineWheel) -> None:
    fired: list[str] = []
    wheel.add(101.0, lambda: fired.append("x"))
    wheel.close()
    wheel.close()
    assert (len(wheel), loop.armed) == (0, [])
    loop.go_to(102.0)
    assert fired == []


async def test_it_works_on_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    wheel, fired = DeadlineWheel(loop), asyncio.Event()
    when, seen = loop.time() + 0.005, list[float]()

    def note() -> None:
        seen.append(loop.time())
        fired.set()

    wheel.add(when, note)
    await asyncio.wait_for(fired.wait(), 5)
    assert seen[0] >= when - 0.001
    wheel.close()
