"""A caster and its players, whole, on machines whose clocks are set apart and drift, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echostream import ConnectionLostError, Limits, RpcClient, RpcError, RpcServer, Status, StreamResetError
from echostream.audio import Caster, CastFormat, Player, VirtualSink
from echostream.audio.messages import check_format
from echostream.errors import ConfigurationError
from echostream.testing import Link, SimHost, SimNetwork
from tests.audio.sounds import ListSource, frames_of, noise, read_wav

LATENCY = 0.2
SOUND = noise(48_000 * 3)
URL = "quic://studio:4433"
LAN = Link(delay=0.0002, jitter=0.0001)


@dataclass
class Room:
    """A machine with a loudspeaker."""

    host: SimHost
    path: Path
    card_drift: float = 0.0
    sink: VirtualSink = None  # type: ignore[assignment]
    player: Player = None  # type: ignore[assignment]

    async def listen(self, **options: Any) -> None:
        with self.host:
            self.sink = VirtualSink(self.path, drift_ppm=self.card_drift)
            self.sink.start()
            async with RpcClient.connect(URL, insecure=True) as client:
                self.player = Player(client, self.sink, name=self.host.name, **options)
                try:
                    await self.player.run()
                finally:
                    self.sink.close()

    def heard_at(self, true_ns: float, count: int) -> Any:
        """What was heard from a true time on."""
        rate = 48_000 * (1 + self.card_drift / 1e6)
        moments = true_ns + np.arange(count) * 1e9 / 48_000
        where = (np.array([self.host.shown_ns(at) for at in moments]) - self.sink.started_ns) * rate / 1e9
        played = read_wav(self.path)[:, 0]
        return np.interp(where, np.arange(len(played)), played)


def place_of(heard: Any, sound: Any = SOUND) -> float:
    """Where in the sound a part of it is, in samples."""
    size = 1 << (len(sound) + len(heard)).bit_length()
    found = np.fft.irfft(np.fft.rfft(sound[:, 0], size) * np.conj(np.fft.rfft(heard, size)), size)[: len(sound)]
    peak = int(np.argmax(found))
    assert np.corrcoef(sound[peak : peak + len(heard), 0], heard)[0, 1] > 0.9
    left, top, right = found[peak - 1 : peak + 2]
    return peak + float(0.5 * (left - right) / (left - 2 * top + right))


@dataclass
class Studio:
    """A network with a caster in it."""

    network: SimNetwork
    caster: Caster
    folder: Path
    begin_ns: int = 0

    def room(self, name: str, offset: float = 0.0, drift: float = 0.0, card: float = 0.0) -> Room:
        host = self.network.host(name)
        host.offset, host.drift_ppm = offset, drift
        return Room(host, self.folder / f"{name}.wav", card)


def in_studio(
    scenario: Callable[[Studio], Awaitable[None]], folder: Path, *, link: Link = LAN, sound: Any = SOUND, **options: Any
) -> None:
    """Run a scenario with a server that casts a sound."""

    async def run(network: SimNetwork) -> None:
        caster = Caster(ListSource(frames_of(sound)), **{"latency": LATENCY} | options)
        with network.host("studio"):
            server = RpcServer(URL)
            server.register(caster)
            async with server:
                await scenario(Studio(network, caster, folder))

    SimNetwork(seed=3, link=link, limit=60.0).run(run)


async def until_begun(caster: Caster) -> None:
    while not (await caster.status()).position:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.001)


@pytest.mark.slow
def test_three_rooms_hear_the_same_at_the_same_time(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        rooms = [
            studio.room("kitchen", 3.5, 60.0, -20.0),
            studio.room("study", -2.0, -45.0, 35.0),
            studio.room("garden", 1000.0, 20.0, -60.0),
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            for room, codec in zip(rooms, ("opus", "pcm", "pcm"), strict=True):
                group.create_task(room.listen(codec=codec))
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns
        for seconds in (1.0, 1.8, 2.7):
            at_ns = begin_ns + LATENCY * 1e9 + seconds * 1e9
            places = [place_of(room.heard_at(at_ns, 4800)) for room in rooms]
            assert max(places) - min(places) < 0.15 * 48  # 150 us
            assert places[0] == pytest.approx(seconds * 48_000, abs=10 * 48)
        for room in rooms:
            report = room.player.report()
            assert report is not None
            assert (report.lost, report.late, report.underruns, report.resyncs) == (0, 0, 0, 0)

    in_studio(scenario, tmp_path, wait_for=3)


@pytest.mark.slow
def test_who_joins_later_or_comes_back_is_in_step_at_once(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        first, second = studio.room("kitchen", 1.0, 30.0), studio.room("study", -7.0, -30.0)
        again = replace(second, path=tmp_path / "again.wav")
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            group.create_task(first.listen())
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns
            await asyncio.sleep(0.5)
            late = group.create_task(second.listen())
            await asyncio.sleep(1.0)
            late.cancel()
            await asyncio.sleep(0.5)
            group.create_task(again.listen())
        for room, seconds in ((second, 0.5), (again, 2.0)):
            at_ns = begin_ns + (seconds + 0.6) * 1e9  # 0.2 s of which are the latency
            places = [place_of(item.heard_at(at_ns, 4800)) for item in (first, room)]
            assert abs(places[1] - places[0]) < 0.15 * 48

    in_studio(scenario, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["pcm", "opus"])
def test_who_joins_a_cast_of_long_latency_is_heard_at_once(codec: str, tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        first, second = studio.room("kitchen"), studio.room("study", 2.0, 20.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            group.create_task(first.listen(codec="pcm"))
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns
            await asyncio.sleep(2.5)
            group.create_task(second.listen(codec=codec))
            await asyncio.sleep(1.0)
            report = second.player.report()
            assert report is not None
            assert (report.lost, report.late, report.concealed_ns) == (0, 0, 0)
            assert report.wanted_ns < 0.5e9  # what was sent again is not taken for a slow network
        at_ns = begin_ns + (2.5 + 0.5) * 1e9
        places = [place_of(room.heard_at(at_ns, 4800)) for room in (first, second)]
        assert abs(places[1] - places[0]) < 0.15 * 48
        for at in (1.5, 2.0, 2.5):  # no hole where what was sent again ends
            assert place_of(second.heard_at(begin_ns + (2.0 + at) * 1e9, 2400)) == pytest.approx(at * 48_000, abs=480)

    in_studio(scenario, tmp_path, latency=2.0)


@pytest.mark.slow
def test_pause_seek_and_volume_reach_all_at_the_same_sample(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        rooms = [studio.room("kitchen"), studio.room("study", 5.0, 40.0)]
        async with asyncio.TaskGroup() as group:
            casting = group.create_task(studio.caster.run())
            for room in rooms:
                group.create_task(room.listen())
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns
            with studio.network.host("phone"):
                async with RpcClient.connect(URL, insecure=True) as client:
                    remote = client.proxy(Caster)
                    await asyncio.sleep(0.5)
                    await remote.pause()
                    await asyncio.sleep(0.5)
                    status = await remote.status()
                    assert status.paused
                    assert {report.name for report in status.receivers} == {"kitchen", "study"}
                    assert [report.concealed_ns for report in status.receivers] == [0, 0]
                    await remote.resume()
                    await asyncio.sleep(0.5)
                    await remote.volume(0.5)
                    await asyncio.sleep(0.3)
                    await remote.seek(2.5)
                    await asyncio.sleep(0.3)
                    await remote.stop()
            await casting
        begin_ns += round(LATENCY * 1e9)
        for room in rooms:
            assert not room.heard_at(begin_ns + 0.7e9, 4800).any()
            resumed = room.heard_at(begin_ns + 1.2e9, 4800)
            assert place_of(resumed) == pytest.approx(0.7 * 48_000, abs=2000)
            quiet = room.heard_at(begin_ns + 1.6e9, 4800)
            place = place_of(quiet)
            wanted = SOUND[round(place) :][:4800, 0]
            assert np.dot(quiet, wanted) / np.dot(wanted, wanted) == pytest.approx(0.5, abs=0.05)
            assert place_of(room.heard_at(begin_ns + 1.95e9, 4800)) == pytest.approx(2.65 * 48_000, abs=2000)
        places = [place_of(room.heard_at(begin_ns + 1.95e9, 4800)) for room in rooms]
        assert abs(places[0] - places[1]) < 0.15 * 48

    in_studio(scenario, tmp_path, wait_for=2)


@pytest.mark.slow
def test_lost_packets_are_counted_and_nobody_leaves_the_step(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        rooms = [studio.room("kitchen", 3.5, 40.0), studio.room("study")]
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            for room in rooms:
                group.create_task(room.listen())
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns
        reports = [room.player.report() for room in rooms]
        assert all(report is not None and 2 <= report.lost <= 40 for report in reports)
        at_ns = begin_ns + (LATENCY + 1.5) * 1e9
        places = [place_of(room.heard_at(at_ns, 24_000)) for room in rooms]
        assert abs(places[0] - places[1]) < 0.15 * 48

    in_studio(scenario, tmp_path, wait_for=2, link=Link(delay=0.002, jitter=0.001, loss=0.03))


@pytest.mark.slow
def test_a_latency_that_does_not_do_grows_for_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.audio.delay.RAISE_PATIENCE", 0.3)

    async def scenario(studio: Studio) -> None:
        rooms = [studio.room("kitchen", 3.5, 40.0), studio.room("study")]
        studio.network.join("studio", "study", Link(delay=0.06, jitter=0.002))
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            for room in rooms:
                group.create_task(room.listen(codec="pcm"))
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns
            await asyncio.sleep(1.5)
            status = await studio.caster.status()
            missed = [receiver.late for receiver in status.receivers]
            assert min(missed) == 0
            assert max(missed) > 10
        assert 0.12 <= status.latency <= 0.16
        at_ns = begin_ns + (status.latency + 2.0) * 1e9
        places = [place_of(room.heard_at(at_ns, 4800)) for room in rooms]
        assert abs(places[0] - places[1]) < 0.5 * 48
        assert places[0] == pytest.approx(2.0 * 48_000, abs=20 * 48)
        assert place_of(rooms[0].heard_at(begin_ns + 3.05e9, 2400)) > 0  # to the end
        reports = [room.player.report() for room in rooms]
        assert max(report.late for report in reports if report is not None) <= max(missed) + 2

    in_studio(scenario, tmp_path, wait_for=2, latency=0.08)


@pytest.mark.slow
def test_who_is_gone_is_shown_no_longer(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        rooms = [studio.room("kitchen"), studio.room("study")]
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            for room in rooms:
                group.create_task(room.listen())
            await until_begun(studio.caster)
            await asyncio.sleep(0.5)
            assert len((await studio.caster.status()).receivers) == 2
            studio.network.partition("study")
            await asyncio.sleep(3.3)
            assert [report.name for report in (await studio.caster.status()).receivers] == ["kitchen"]
            await studio.caster.stop()
            studio.network.heal()

    in_studio(scenario, tmp_path, wait_for=2, loop=True)


@pytest.mark.slow
def test_who_lost_his_time_is_in_step_again_after_four_seconds(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        rooms = [studio.room("kitchen"), studio.room("study", 5.0, 30.0)]
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            for room in rooms:
                group.create_task(room.listen())
            await until_begun(studio.caster)
            await asyncio.sleep(1.0)
            rooms[1].host.offset += 0.3  # as a machine that slept
            await asyncio.sleep(4.0)
            at_ns = studio.network.clock.now_ns
            await asyncio.sleep(0.2)
            await studio.caster.stop()
        places = [place_of(room.heard_at(at_ns, 4800)) for room in rooms]
        assert abs(places[0] - places[1]) < 0.5 * 48

    in_studio(scenario, tmp_path, wait_for=2, loop=True)


def test_a_source_with_nothing_in_it_is_not_repeated_for_ever(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        await studio.caster.run()

    in_studio(scenario, tmp_path, sound=noise(480)[:0], loop=True, wait_for=0)


def test_a_source_that_is_repeated_goes_on_without_a_hole(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        room = studio.room("kitchen")
        async with asyncio.TaskGroup() as group:
            group.create_task(studio.caster.run())
            group.create_task(room.listen(codec="pcm"))
            await until_begun(studio.caster)
            begin_ns = studio.network.clock.now_ns + round(LATENCY * 1e9)
            await asyncio.sleep(1.5)
            await studio.caster.stop()
        assert place_of(room.heard_at(begin_ns + 0.45e9, 4800), np.tile(SOUND[:24_000], (2, 1))) > 0

    in_studio(scenario, tmp_path, sound=SOUND[:24_000], loop=True)


def test_what_a_receiver_may_not_ask_for_is_refused(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        room = studio.room("kitchen")
        with pytest.raises(ConfigurationError, match="'mp3' is unknown, choose opus or pcm"):
            await room.listen(codec="mp3")
        with studio.network.host("phone"):
            async with RpcClient.connect(URL, insecure=True) as client:
                with pytest.raises(StreamResetError, match="'mp3' is unknown"):
                    async with client.open_stream("cast.audio", metadata={"codec": "mp3"}) as sender:
                        await sender.receiver.recv()
                remote = client.proxy(Caster)
                for bad in (-1.0, 3.0, float("nan")):
                    with pytest.raises(RpcError, match="is no place in 3 s") as caught:
                        await remote.seek(bad)
                    assert caught.value.code is Status.INVALID_ARGUMENT
                for bad in (-0.1, 1.1, float("nan")):
                    with pytest.raises(RpcError, match="is not in 0 to 1"):
                        await remote.volume(bad)

    in_studio(scenario, tmp_path)


@pytest.mark.slow
def test_who_reads_nothing_holds_up_nobody(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        room = studio.room("kitchen")
        with studio.network.host("phone"):
            async with RpcClient.connect(URL, insecure=True, limits=Limits(stream_window_bytes=1 << 16)) as client:
                lazy = await client.open_stream("cast.audio", time_sync=True, metadata={"codec": "pcm"})
                async with asyncio.TaskGroup() as group:
                    group.create_task(studio.caster.run())
                    group.create_task(room.listen(codec="pcm"))
                lazy.reset()
        report = room.player.report()
        assert report is not None
        assert (report.lost, report.late, studio.caster.skipped_count) == (0, 0, 0)

    in_studio(scenario, tmp_path, wait_for=2, sound=noise(48_000))


def test_a_cast_that_is_over_takes_nobody(tmp_path: Path) -> None:
    async def scenario(studio: Studio) -> None:
        await studio.caster.run()
        with pytest.raises(StreamResetError, match="the cast is over"):
            await studio.room("kitchen").listen()

    in_studio(scenario, tmp_path, sound=noise(480), wait_for=0)


def test_a_stream_without_timestamps_is_refused(tmp_path: Path) -> None:
    async def listen() -> None:
        async with RpcClient.connect(URL, insecure=True) as client, client.open_stream("cast.audio") as sender:
            await sender.receiver.recv()

    async def scenario(studio: Studio) -> None:
        async with asyncio.TaskGroup() as group:
            casting = group.create_task(studio.caster.run())
            with studio.network.host("phone"), pytest.raises(StreamResetError, match="time_sync"):
                await listen()
            casting.cancel()

    in_studio(scenario, tmp_path)


def test_a_receiver_whose_server_goes_is_told(tmp_path: Path) -> None:
    async def scenario(network: SimNetwork) -> None:
        room = Room(network.host("kitchen"), tmp_path / "a.wav")
        caster = Caster(ListSource(frames_of(SOUND)))
        with network.host("studio"):
            server = RpcServer(URL)
            server.register(caster)
            await server.start()
        async with asyncio.TaskGroup() as group:
            casting = group.create_task(caster.run())
            listening = group.create_task(_expect_loss(room))
            await until_begun(caster)
            await asyncio.sleep(0.5)
            await server.stop(grace=0.0)
            await listening
            casting.cancel()

    SimNetwork(limit=60.0).run(scenario)


async def _expect_loss(room: Room) -> None:
    with pytest.raises(ConnectionLostError):
        await room.listen()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"latency": 0.05}, "latency: 0.05 s must be in 0.06 to 10"),
        ({"latency": -1.0}, "latency: -1.0 must be above 0 seconds"),
        ({"wait_for": 1000}, "wait_for: 1000 must be in 0 to 256"),
    ],
)
def test_options_of_a_caster_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Caster(ListSource([]), **options)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"sample_rate": 44_100}, "sample_rate: the cast has 44100, this version plays 48000 only"),
        ({"channels": 1}, "channels: the cast has 1, this version plays 2 only"),
        ({"frame_ns": 1}, "frame_ns: the cast has 1, this version plays 10000000 only"),
        ({"latency_ns": 1 << 60}, r"latency_ns: the cast has \d+, at most 10 s is played"),
        ({"latency_ns": -1}, "latency_ns: the cast has -1"),
    ],
)
def test_a_cast_of_another_form_is_refused(told: dict[str, Any], text: str) -> None:
    options: dict[str, Any] = {"latency_ns": 300_000_000} | told
    with pytest.raises(ConfigurationError, match=text):
        check_format(CastFormat(**options))
