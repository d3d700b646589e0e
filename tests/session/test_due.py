"""Tests for echostream.session.due: who is late, hears of it, and nobody is looked at more often than needed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from echostream.protocol.records import OutgoingCall
from echostream.session.deadlines import DeadlineWheel
from echostream.session.due import DueCalls
from echostream.testing import SimNetwork


class World:
    """Calls that run, and a count of the looks at them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.running: dict[int, OutgoingCall] = {}
        self.expired: list[tuple[int, float]] = []
        self.due = DueCalls(self.running, DeadlineWheel(self.loop), self.loop)

    def start(self, number: int, seconds: float) -> None:
        call = self.running[number] = OutgoingCall(Handle(self, number))
        call.deadline = self.loop.time() + seconds
        if call.deadline < self.due.at:
            self.due.look_at(call.deadline)


class Handle:
    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number

    def expire(self) -> None:
        self.world.expired.append((self.number, round(self.world.loop.time(), 1)))
        del self.world.running[self.number]


def virtually(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run(_: SimNetwork) -> None:
        await scenario()

    SimNetwork().run(run)


def test_each_call_ends_at_its_own_deadline_in_whatever_order_they_started() -> None:
    async def scenario() -> None:
        world, start = World(), asyncio.get_running_loop().time()
        for number, seconds in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 1.0)):
            world.start(number, seconds)
        endless = world.running[5] = OutgoingCall()
        await asyncio.sleep(5)
        assert world.expired == [(n, round(start + s, 1)) for n, s in ((2, 1.0), (4, 1.0), (3, 2.0), (1, 3.0))]
        assert (list(world.running.values()), world.due.at) == ([endless], math.inf)

    virtually(scenario)


def test_calls_that_end_in_time_cost_one_look_for_all() -> None:
    async def scenario() -> None:
        world = World()
        looks = 0
        expire = DueCalls.expire

        class Counted(DueCalls):
            def expire(self) -> None:
                nonlocal looks
                looks += 1
                expire(self)

        world.due = Counted(world.running, DeadlineWheel(world.loop), world.loop)
        for number in range(1000):
            world.start(number, 10.0)
            await asyncio.sleep(0.01)
            del world.running[number]
        assert looks <= 1
        await asyncio.sleep(20)
        assert (looks, world.expired, world.due.at) == (1, [], math.inf)

    virtually(scenario)


def test_nobody_is_looked_at_after_the_end() -> None:
    async def scenario() -> None:
        world = World()
        world.start(1, 1.0)
        world.due.close()
        world.due.close()
        await asyncio.sleep(2)
        assert world.expired == []

    virtually(scenario)
