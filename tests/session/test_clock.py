"""Session time: the server's clock, and what clients make of it when clocks drift, step and sleep, and servers lie."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from echostream import (
    ConfigurationError,
    ConnectionLostError,
    Context,
    DeadlineExceededError,
    LocalProtocolError,
    RpcClient,
    RpcServer,
    handler,
)
from echostream.config import PROBE_TIMEOUT
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.hello import TIME_SYNC
from echostream.protocol.link import LANE
from echostream.protocol.peer import _OF_ALL, PeerProtocol
from echostream.session import timesync
from echostream.session.clock_quality import ClockQuality, ClockStep, Queues
from echostream.testing import Link, SimNetwork
from echostream.types import clock
from tests.session.world import duo
from tests.transport.conformance import eventually

URL = "quic://server:4433"
WAVERING = Link(delay=0.002, jitter=0.001)


class World:
    """A server and a client's clock of it, on hosts whose clocks are set apart."""

    def __init__(self, network: SimNetwork, server: RpcServer, client: RpcClient) -> None:
        self.network, self.server, self.client = network, server, client
        self.here, self.there = network.host("phone"), network.host("server")
        self.clock = client.clock

    @property
    def error_ns(self) -> float:
        """How wrong the client is about the server's clock."""
        return self.clock.now_ns() - self.there.shown_ns(self.network.clock.now_ns)


@asynccontextmanager
async def world(network: SimNetwork, *, offset: float = 123.4, drift_ppm: float = 40.0) -> AsyncGenerator[World]:
    with network.host("server") as there:
        there.offset = 5000.0
        server = RpcServer(URL)
        await server.start()
    with network.host("phone") as here:
        here.offset, here.drift_ppm = offset, drift_ppm
        async with RpcClient.connect(URL, fingerprint=server.fingerprint) as client:
            made = World(network, server, client)
            await made.clock.wait_locked()
            yield made
    with network.host("server"):
        await server.stop()


def simulated(
    scenario: Callable[[World], Awaitable[None]], *, seed: int = 1, link: Link = WAVERING, **set_apart: float
) -> None:
    async def run(network: SimNetwork) -> None:
        async with world(network, **set_apart) as made:
            await scenario(made)

    SimNetwork(seed=seed, link=link).run(run)


# In step


@pytest.mark.parametrize("drift_ppm", [-150.0, 0.0, 60.0])
def test_a_client_knows_the_servers_time_within_its_bound_whatever_its_own_clock_does(drift_ppm: float) -> None:
    async def scenario(made: World) -> None:
        release, last_ns = made.clock.hold(), 0
        for second in range(60):
            await asyncio.sleep(1)
            assert abs(made.error_ns) <= made.clock.error_bound_ns < 3_000_000
            assert second < 20 or abs(made.error_ns) < 200_000
            assert made.clock.now_ns() > last_ns
            last_ns = made.clock.now_ns()
        assert made.clock.drift_ppm == pytest.approx(-drift_ppm, abs=5)
        quality = made.clock.quality
        assert (quality.locked, quality.verdict, quality.faults, quality.jumps) == (True, "in step", [], 0)
        assert 4_000_000 <= quality.round_trip_ns < 5_000_000
        release()

    simulated(scenario, drift_ppm=drift_ppm)


def test_times_are_converted_both_ways() -> None:
    async def scenario(made: World) -> None:
        local_ns = clock.monotonic_ns()
        session_ns = made.clock.to_session_ns(local_ns)
        assert session_ns == local_ns + made.clock.offset_ns
        assert made.clock.to_local_ns(session_ns) == pytest.approx(local_ns, abs=2)
        assert made.clock.offset_ns == pytest.approx((5000 - 123.4) * 1e9, abs=2_000_000)

    simulated(scenario, drift_ppm=0.0)


def test_two_clients_of_a_server_and_the_server_share_its_time() -> None:
    async def scenario(made: World) -> None:
        with made.network.host("laptop") as laptop:
            laptop.offset, laptop.drift_ppm = 9.9, -30.0
            async with RpcClient.connect(URL, fingerprint=made.server.fingerprint) as other:
                await other.clock.wait_locked()
                await asyncio.sleep(5)
                here = other.clock.now_ns()
                bound = other.clock.error_bound_ns
            with made.here:
                assert abs(made.clock.now_ns() - here) < bound + made.clock.error_bound_ns

    simulated(scenario)


async def test_the_servers_time_is_its_own_and_handlers_read_it() -> None:
    @handler("time")
    async def time(*, ctx: Context) -> list[int]:
        return [clock.monotonic_ns(), ctx.clock.now_ns(), clock.monotonic_ns()]

    async with duo(time) as ends:
        before, told, after = await ends.here.request("time")
        assert before <= told <= after
        own = ends.there.clock
        assert own is ends.there.clock
        assert (own.locked, own.offset_ns, own.drift_ppm, own.error_bound_ns) == (True, 0, 0.0, 0.0)
        assert own.to_local_ns(own.to_session_ns(5)) == 5
        assert own.quality.verdict == "in step"
        await own.wait_locked()
        own.hold()()
        assert repr(own) == "<OwnClock locked +0.000 ms +0.00 ppm ±0 us>"


@pytest.mark.parametrize("road", ["datagrams", "lane"])
async def test_it_works_over_the_lane_where_there_are_no_datagrams_and_says_so(road: str) -> None:
    """As on transports that are one pipe; the other reason, a peer without the feature, is in test_timesync.py."""
    async with duo(scheme="memory" if road == "datagrams" else "pipe") as ends:
        assert repr(ends.here.clock) == "<EstimatedClock not locked +0.000 ms +0.00 ppm ±inf us>"
        await ends.here.clock.wait_locked()
        assert abs(ends.here.clock.now_ns() - clock.monotonic_ns()) < ends.here.clock.error_bound_ns + 1_000_000
        quality = ends.here.clock.quality
        told = "no datagrams: probes wait behind other frames, so that the bound is larger"
        assert (told in quality.faults) == (road == "lane")


# Before and after


async def test_nothing_is_told_before_anything_is_known() -> None:
    async with duo() as ends:
        unknown = ends.here.clock
        assert (unknown.locked, unknown.offset_ns, unknown.error_bound_ns) == (False, 0, math.inf)
        assert unknown.quality.verdict == "locking"
        for read in (unknown.now_ns, lambda: unknown.to_session_ns(1), lambda: unknown.to_local_ns(1)):
            with pytest.raises(LocalProtocolError, match=r"await session\.clock\.wait_locked\(\) before you read it"):
                read()


async def test_waiting_for_the_lock_ends_with_its_timeout_or_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timesync, "beat", lambda peer: False)
    async with duo() as ends:
        monkeypatch.setattr(ends.here.peer.connection, "send_datagram_now", lambda data: clock.monotonic_ns())
        with pytest.raises(DeadlineExceededError, match=r"not locked after 0\.05 s: 0 of \d+ probes were answered"):
            await ends.here.clock.wait_locked(timeout=0.05)
        with pytest.raises(
            ConfigurationError, match="must be above 0 seconds, or None for as long as the session lasts"
        ):
            await ends.here.clock.wait_locked(timeout=0)
        waiting = asyncio.create_task(ends.here.clock.wait_locked(timeout=None))
        await asyncio.sleep(0)
        await ends.there.close()
        with pytest.raises(ConnectionLostError):
            await waiting
        assert ends.here.clock.holders == 0  # type: ignore[attr-defined]


def test_what_is_known_outlives_the_session_and_grows_old() -> None:
    async def scenario(made: World) -> None:
        await asyncio.sleep(20)
        await made.client.close()
        bound_ns = made.clock.error_bound_ns
        assert not made.clock.locked
        await asyncio.sleep(600)
        assert made.clock.error_bound_ns > 2 * bound_ns
        assert abs(made.error_ns) < made.clock.error_bound_ns < 1_000_000_000
        assert made.clock.drift_ppm == pytest.approx(-40, abs=20)

    simulated(scenario)


def test_nothing_is_sent_and_little_is_kept_while_nobody_reads_or_holds_it() -> None:
    async def scenario(made: World) -> None:
        release = made.clock.hold()
        await asyncio.sleep(60)
        assert made.clock.quality.sent > 200
        release()
        release()
        await asyncio.sleep(60)
        sent = made.clock.counts.sent  # type: ignore[attr-defined]
        assert made.clock._tracking is None  # type: ignore[attr-defined]
        bound_ns = made.clock.error_bound_ns
        assert repr(made.clock).startswith("<EstimatedClock not locked +4876")
        await asyncio.sleep(300)
        assert made.clock.counts.sent == sent  # type: ignore[attr-defined]
        assert bound_ns < made.clock.error_bound_ns
        assert abs(made.error_ns) < made.clock.error_bound_ns + 1_000_000
        await asyncio.sleep(5)
        assert made.clock.locked, "the reading woke it"
        assert abs(made.error_ns) <= made.clock.error_bound_ns < 4_000_000
        assert made.clock.quality.sent > sent

    simulated(scenario)


# What goes wrong


@pytest.mark.parametrize(("step", "text"), [(0.05, "went (49|50).* ms ahead"), (-0.5, "fell (499|500).* ms behind")])
def test_a_step_of_the_servers_clock_is_followed_and_told_and_time_never_goes_back(step: float, text: str) -> None:
    async def scenario(made: World) -> None:
        release = made.clock.hold()
        await asyncio.sleep(10)
        before_ns = made.clock.now_ns()
        made.there.offset += step
        for _ in range(30):
            await asyncio.sleep(0.1)
            assert made.clock.now_ns() > before_ns
            before_ns = made.clock.now_ns()
        assert abs(made.error_ns) < 500_000
        quality = made.clock.quality
        (fault,) = quality.faults
        assert re.search(text, fault)
        assert (quality.steps, quality.jumps >= 1) == (1, True)
        await asyncio.sleep(70)
        assert made.clock.quality.faults == []
        release()

    simulated(scenario)


def test_a_machine_that_slept_is_told_from_a_clock_that_was_set() -> None:
    """Its own monotonic clock stood still, its calendar did not; here the rest of the world goes on five seconds."""

    async def scenario(made: World) -> None:
        release = made.clock.hold()
        await asyncio.sleep(10)
        made.there.offset += 5
        made.here.wall_offset += 5
        await asyncio.sleep(4)
        assert abs(made.error_ns) < 500_000
        (fault,) = made.clock.quality.faults
        assert re.match(r"suspended: this machine was asleep for (4999|5000)\.", fault)
        release()

    simulated(scenario)


def test_a_server_that_was_restarted_has_another_time_and_sessions_begin_anew() -> None:
    async def scenario(made: World) -> None:
        await asyncio.sleep(2)
        epoch = made.client.session.peer.protocol.peer_hello.epoch  # type: ignore[union-attr]
        with made.there:
            await made.server.stop(grace=0.0)
            made.there.offset -= 4000.0  # another machine's, say
            again = RpcServer(URL)
            await again.start()
        with made.here:
            async with RpcClient.connect(URL, fingerprint=again.fingerprint) as client:
                await client.clock.wait_locked()
                await asyncio.sleep(1)
                assert abs(client.clock.now_ns() - made.there.shown_ns(made.network.clock.now_ns)) < 500_000
                assert client.clock.quality.steps == 0
                assert client.session.peer.protocol.peer_hello.epoch == epoch, "one process, here"  # type: ignore[union-attr]
        with made.there:
            await again.stop()

    simulated(scenario)


LIES: dict[str, Callable[[f.TimeSyncFrame, int, int], list[f.TimeSyncFrame]]] = {
    "t3 before t2": lambda probe, t2, t3: [_answer(probe, t2, t2 - 1)],
    "more time inside than outside": lambda probe, t2, t3: [_answer(probe, t2, t2 + 60_000_000_000)],
    "far in the past": lambda probe, t2, t3: [_answer(probe, -(1 << 63), -(1 << 63))],
    "far in the future": lambda probe, t2, t3: [_answer(probe, (1 << 63) - 1, (1 << 63) - 1)],
    "another t1": lambda probe, t2, t3: [f.TimeSyncFrame(probe.id, probe.t1_ns - 10**9, t2, t3, is_answer=True)],
    "replays": lambda probe, t2, t3: [_answer(probe, t2, t3), _answer(probe, t2 + 10**9, t3 + 10**9)],
    "to nobody": lambda probe, t2, t3: [_answer(probe, t2, t3), f.TimeSyncFrame(9, 9, t2, t3, is_answer=True)],
}


def _answer(probe: f.TimeSyncFrame, t2_ns: int, t3_ns: int) -> f.TimeSyncFrame:
    return f.TimeSyncFrame(probe.id, probe.t1_ns, t2_ns, t3_ns, is_answer=True)


@pytest.mark.parametrize(
    ("lie", "road"), [*((lie, "datagrams") for lie in LIES), ("t3 before t2", "lane"), ("replays", "lane")]
)
def test_a_server_that_lies_is_ignored_and_counted_and_the_clock_does_not_move(
    lie: str, road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(peer: Any, event: ev.ProbeReceived) -> None:
        for frame in LIES[lie](event.frame, event.arrived_ns, clock.monotonic_ns()):
            peer.connection.send_datagram_now(peer.runtime.codec.encode(frame))

    def answer_on_the_lane(machine: PeerProtocol, _stream_id: int, probe: f.TimeSyncFrame, events: list[Any]) -> None:
        if probe.is_answer:
            events.append(ev.ProbeAnswered(probe, clock.monotonic_ns()))
            return
        for frame in LIES[lie](probe, clock.monotonic_ns(), clock.monotonic_ns()):
            machine.link.out.write(LANE, machine.link.codec.encode(frame))

    async def scenario(made: World) -> None:
        if road == "lane":
            made.client.session.peer.protocol.link.features -= {TIME_SYNC}
        release = made.clock.hold()
        await asyncio.sleep(20)
        if road == "lane":
            monkeypatch.setitem(_OF_ALL, f.TimeSyncFrame, answer_on_the_lane)
        else:
            monkeypatch.setitem(_handlers(), ev.ProbeReceived, answer)
        await asyncio.sleep(20)
        assert abs(made.error_ns) < 1_000_000
        quality = made.clock.quality
        assert (quality.steps, quality.jumps) == (0, 0)
        if lie in ("replays", "to nobody"):
            assert (quality.ignored, quality.stray >= 60) == (0, True)
        else:
            assert quality.ignored >= 60
            told = f"{quality.ignored} answers had stamps that cannot be: the server is broken, or lies"
            assert quality.faults[0] == told
            assert len(quality.faults) == (1 if road == "datagrams" else 2)
        release()

    simulated(scenario)


STORIES: dict[str, Callable[[int], int]] = {
    # what a server's clock shows that tells stories, by the truth
    "it stands still": lambda now_ns: 5_000_000_000_000,
    "it goes back": lambda now_ns: 10_000_000_000_000 - now_ns,
    "a century ahead": lambda now_ns: now_ns + 3 * 10**18,
    "another time every burst": lambda now_ns: now_ns + (now_ns // 250_000_000 * 7919 % 1000) * 10**15,
}


@pytest.mark.parametrize("story", STORIES)
def test_a_server_that_tells_stories_turns_no_time_back_and_fills_no_memory(
    story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is session time; but that never goes back, and nothing raises."""

    def answer(peer: Any, event: ev.ProbeReceived) -> None:
        frame = _answer(event.frame, STORIES[story](event.arrived_ns), STORIES[story](clock.monotonic_ns()))
        peer.connection.send_datagram_now(peer.runtime.codec.encode(frame))

    async def scenario(made: World) -> None:
        release = made.clock.hold()
        await asyncio.sleep(5)
        monkeypatch.setitem(_handlers(), ev.ProbeReceived, answer)
        times = []
        for _ in range(80):
            await asyncio.sleep(0.1)
            times.append(made.clock.now_ns())
            assert made.clock.to_local_ns(times[-1]) == pytest.approx(clock.monotonic_ns(), abs=1000)
            assert made.clock.error_bound_ns > 0
        assert times == sorted(times)
        assert len(made.client.session.peer.probes) <= 8 * (PROBE_TIMEOUT / 0.25 + 1)
        assert made.client.state == "open"
        release()

    simulated(scenario)


async def test_answers_that_a_server_never_asked_for_are_counted_and_its_clock_is_its_own() -> None:
    async with duo() as ends:
        peer, there = ends.here.peer, ends.there
        for number in range(50):
            frame = f.TimeSyncFrame(number, 5, -(1 << 63), (1 << 63) - 1, is_answer=True)
            peer.connection.send_datagram(peer.runtime.codec.encode(frame))
            peer.protocol.link.out.write(LANE, peer.runtime.codec.encode(frame))
        peer.flush()
        await eventually(lambda: there.peer.protocol.link.stray_answers == 100)
        assert abs(there.clock.now_ns() - clock.monotonic_ns()) < 1_000_000_000
        assert (there.clock.offset_ns, there.clock.error_bound_ns) == (0, 0.0)


def _handlers() -> dict[Any, Any]:
    from echostream.session.reports import EVENT_HANDLERS

    return EVENT_HANDLERS


def test_queues_on_one_way_are_told_because_they_are_not_on_the_other() -> None:
    async def scenario(made: World) -> None:
        release = made.clock.hold()
        busy = Link(delay_table=(0.002, 0.002, 0.002, 0.003, 0.01, 0.02, 0.03, 0.03, 0.03))
        made.network.join("phone", "server", busy, back=Link(delay=0.002))
        await asyncio.sleep(60)
        (fault,) = made.clock.quality.faults
        assert fault.startswith("asymmetric path: the way to the server queues ")
        assert abs(made.error_ns) < made.clock.error_bound_ns
        release()

    simulated(scenario)


def test_a_loop_that_is_kept_busy_is_told() -> None:
    async def scenario(made: World) -> None:
        release = made.clock.hold()
        await asyncio.sleep(5)
        for _ in range(100):
            made.network.clock.advance(0.05)
            await asyncio.sleep(0.001)
        assert "overloaded loop: this program came" in " ".join(made.clock.quality.faults)
        release()

    simulated(scenario)


def test_a_server_that_falls_silent_is_told_and_time_goes_on() -> None:
    async def scenario(made: World) -> None:
        release = made.clock.hold()
        await asyncio.sleep(20)
        assert made.clock.quality.silent_ns < 100_000_000
        made.network.partition("phone")
        await asyncio.sleep(10)
        quality = made.clock.quality
        assert 8e9 <= quality.silent_ns <= 10e9, "a burst every 2 s at least"
        assert quality.faults == [f"silent: nothing was answered for {quality.silent_ns / 1e9:.0f} s"]
        assert abs(made.error_ns) < made.clock.error_bound_ns
        made.network.heal()
        await asyncio.sleep(5)
        assert made.clock.quality.silent_ns < 100_000_000
        release()

    simulated(scenario)


# Words


def test_no_answers_at_all_are_told() -> None:
    silent = ClockQuality(sent=20)
    assert (silent.verdict, silent.faults) == ("no answers", ["none of 20 probes was answered"])
    assert ClockQuality(sent=3).faults == []
    assert ClockQuality(sent=40, answered=30, lost=10, silent_ns=3_000_000_000).faults == ["10 of 40 probes were lost"]


def test_several_steps_are_counted() -> None:
    step = ClockStep(-3_000_000, local_ns=5, was_asleep=False)
    (fault,) = ClockQuality(locked=True, at_ns=6, last_step=step, steps=3).faults
    assert fault == ("step: the server's clock fell 3.000 ms behind, as when its machine was asleep (the last of 3)")


def test_queues_are_judged_once_enough_probes_came() -> None:
    queues = Queues()
    for number in range(200):
        assert (queues.out_ns, queues.back_ns) == (0, 0) if number < 16 else queues.out_ns > 0
        queues.add(1000 + number % 7, 50)
    assert (queues.out_ns, queues.back_ns) == (3, 0)
    queues.clear()
    assert queues.out_ns == 0
