"""Tests for echostream.transport.quic.pump: when its timer is set, and what it does when it fires."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.transport.quic.pump import EnginePump
from echostream.types import clock


class Engine:
    paced = more = False
    lost_count = 0
    rtt = 0.02
    due: float | None = None

    def timer(self) -> float | None:
        return self.due

    def transmit(self, now: float) -> list[Any]:
        return [] if self.lost_count < 2 else [(b"\x40" + bytes(99), ("192.0.2.1", 1))]

    def unacknowledged(self) -> list[int]:
        return [self.lost_count]

    def window_room(self) -> int:
        return 100_000

    def has_unsent(self) -> bool:
        return False


class Outlet:
    blocked = False

    def send(self, datagrams: list[Any], source: bytes | None) -> None:
        """Goes nowhere."""


class Handle:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """Notes what is to be called, and when."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, delay: float, call: Callable[[], None]) -> Handle:
        self.later.append((delay, call))
        return Handle()


class Scene:
    def __init__(self, host: str = "::1") -> None:
        self.engine, self.loop, self.woken = Engine(), Loop(), 0
        made: Any = EnginePump
        self.pump = made(self.engine, Outlet(), address=(host, 1), settings=QuicSettings(), wake=self.wake)
        self.pump._loop = self.loop
        self.pump.transmit()  # clean from now on

    def wake(self) -> None:
        self.woken += 1

    def arm(self, seconds: float) -> float:
        """Let the engine's time be so far away; returns to when the timer is set, in seconds from now."""
        self.engine.due = clock.monotonic() + seconds
        self.pump.arm(None)
        return self.loop.later[-1][0]


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_the_timer_is_no_nearer_than_loops_keep_time(scene: Scene) -> None:
    """uvloop lets one of less than 0.5 ms fire at once: it would be set again and again until it is time."""
    assert scene.arm(0.0002) == pytest.approx(0.001)


async def test_what_the_engine_holds_back_for_its_pace_goes_on_as_soon_as_may_be(scene: Scene) -> None:
    scene.engine.paced = True
    assert scene.arm(0.0002) < 0.001


async def test_a_timer_that_fires_early_is_set_again_and_nothing_else(scene: Scene) -> None:
    scene.arm(0.001)
    now = clock.monotonic()
    scene.engine.due = now + 5.0
    scene.pump._timer = None  # it fired
    assert scene.pump.rest(now)
    assert scene.loop.later[-1][0] == pytest.approx(5.0)
    assert scene.pump.rest(now)
    assert len(scene.loop.later) == 2  # it is set


async def test_what_is_due_or_waits_to_be_sent_is_seen_to(scene: Scene) -> None:
    now = scene.engine.due = clock.monotonic()
    assert not scene.pump.rest(now)
    scene.engine.due = now + 5.0
    scene.pump.dirty = True
    assert not scene.pump.rest(now)
    scene.pump.dirty, scene.engine.due = False, None
    assert not scene.pump.rest(now)


async def test_an_acknowledgement_that_is_due_waits_for_what_is_said_in_this_turn(scene: Scene) -> None:
    scene.arm(0.001)
    scene.pump.wake_soon()
    scene.loop.later[-1][1]()
    assert scene.woken == 0
    [call] = scene.loop.soon
    call()  # nobody said anything
    assert scene.woken == 1
    call()
    assert scene.woken == 1


async def test_nobody_is_woken_when_all_was_sent_in_the_same_turn(scene: Scene) -> None:
    scene.pump.dirty = True
    scene.pump.wake_soon()
    scene.pump.wake_soon()
    scene.pump.transmit()
    [call] = scene.loop.soon
    call()
    assert scene.woken == 0


@pytest.mark.parametrize(("host", "copied"), [("192.0.2.1", True), ("127.0.0.1", False), ("::1", False)])
async def test_on_one_machine_nothing_leaves_twice(host: str, copied: bool) -> None:
    """A probe timeout there says that a program had to wait for a processor."""
    scene = Scene(host)
    scene.engine.lost_count = 1
    scene.pump.allow_copies(1.0)
    scene.engine.lost_count = 2
    scene.pump.dirty = True
    scene.pump.transmit()
    scene.pump.arm(None)
    assert bool(scene.loop.later) is copied
