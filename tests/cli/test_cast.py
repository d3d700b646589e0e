"""Tests for echostream.cli.cast and echostream.cli.play."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echostream import RpcClient, RpcServer
from echostream.audio import Caster, VirtualSink
from echostream.cli.cast import receivers_table
from echostream.cli.play import keep_playing
from echostream.testing import SimNetwork
from tests.audio.sounds import ListSource, frames_of, noise, write_wav
from tests.cli.running import TIMEOUT, echostream, read_until, started

LOOPBACK = ("--bind", "quic://127.0.0.1:0", "--interface", "127.0.0.1")


@pytest.mark.slow
def test_a_file_is_cast_and_played_in_step_until_it_ends(tmp_path: Path) -> None:
    file, heard = write_wav(tmp_path / "a.wav", noise(48_000)), tmp_path / "heard.wav"
    with started("cast", str(file), *LOOPBACK, "--name", "studio", "--json") as casting:
        told = read_until(casting, "casting a.wav (1 s) as 'studio' at quic://127.0.0.1:")
        url = re.search(r"quic://[\d.:]+", told)
        assert url is not None
        with started("play", "--url", url[0], "--out", str(heard), "--name", "kitchen", "--json") as playing:
            out, error = playing.communicate(timeout=TIMEOUT)
        assert (playing.returncode, error) == (0, f"playing the cast of {url[0].removeprefix('quic://')}\n")
        rows = [json.loads(line) for line in out.splitlines()]
        assert rows[-1]["state"] == "playing"
        assert rows[-1]["lost"] == 0
        assert abs(rows[-1]["skew_ns"]) < 1e6
        out, error = casting.communicate(timeout=TIMEOUT)
    assert (casting.returncode, error) == (0, "")
    assert {json.loads(line)["name"] for line in out.splitlines()} == {"kitchen"}
    with wave.open(str(heard)) as recording:
        sound = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
    assert np.abs(sound).max() > 5000


@pytest.mark.slow
def test_ctrl_c_ends_a_cast_that_nobody_hears(tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", noise(4800))
    with started("cast", str(file), *LOOPBACK, "--loop") as casting:
        read_until(casting, "casting a.wav (0 s) as 'cast on ")
        casting.send_signal(signal.SIGINT)
        assert casting.wait(TIMEOUT) == 130


class Studio:
    """Where to play from."""

    def connect(self, service: str) -> Any:
        assert service == "cast"
        return RpcClient.connect("quic://studio:4433", insecure=True)


@pytest.mark.slow
def test_a_cast_that_was_lost_is_looked_for_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def cast(network: SimNetwork, seconds: float) -> None:
        caster = Caster(ListSource(frames_of(noise(48_000))))
        server = RpcServer("quic://studio:4433")
        server.register(caster)
        async with server:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await caster.run()

    async def scenario(network: SimNetwork) -> None:
        with network.host("studio"):
            first = asyncio.create_task(cast(network, 0.5))
        sink: Any = VirtualSink(tmp_path / "heard.wav")
        options = {"name": "kitchen", "codec": "pcm"}
        with network.host("kitchen"):
            target: Any = Studio()
            playing = asyncio.create_task(keep_playing(target, sink, options, None, as_json=False))
        await first
        await asyncio.sleep(3.0)
        with network.host("studio"):
            await cast(network, 30.0)
        await playing

    SimNetwork(limit=60.0).run(scenario)
    told = capsys.readouterr().err
    assert told.count("playing the cast of") == 2
    assert told.count("; looking for it again") == 1
    with wave.open(str(tmp_path / "heard.wav")) as recording:
        assert recording.getnframes() > 48_000 * 4  # one file, the silence between the casts in it


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("cast", "nothing.wav"), "nothing.wav is not there"),
        (("cast", __file__, *LOOPBACK), "test_cast.py cannot be decoded"),
        (("play", "--discover", "--url", "quic://127.0.0.1:1"), "give --discover or --url"),
        (("play", "--out", "a.wav", "--device", "1"), "give --out or --device"),
        (("play", "--out", "a.wav", "--codec", "mp3"), "'mp3' is not one of 'opus', 'pcm'"),
        (("play", "--url", "quic://127.0.0.1:1", "--out", "/nowhere/a.wav"), "/nowhere/a.wav cannot be written"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], text: str) -> None:
    done = echostream(*arguments)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_without_a_sound_card_a_file_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> Any:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("echostream.audio.device.import_module", no_library)
    done = echostream("play", "--url", "quic://127.0.0.1:1")
    assert done.code == 2
    assert "PortAudio library not found" in done.err
    assert "--out FILE.wav" in done.err


@pytest.mark.parametrize("command", [("cast", "a.wav"), ("play",)])
def test_without_the_extra_it_says_what_to_install(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.cli.cast.find_spec", lambda name: None)
    done = echostream(*command)
    assert done.code == 2
    assert "pip install 'echostream[cli,audio]'" in done.err


def test_what_receivers_say_of_themselves_is_only_shown() -> None:
    from rich.console import Console

    numbers = dict.fromkeys(
        ("skew_ns", "offset_ns", "drift_ppm", "bound_ns", "speed_ppm", "buffer_ns", "lost", "late"), 0
    )
    report: Any = SimpleNamespace(name="\x1b[2Jkitchen", state="playing", **numbers)
    console = Console(width=200, record=True, file=None)
    with console.capture() as captured:
        console.print(receivers_table([report], "3 s"))
    assert "kitchen" in captured.get()
    assert "\x1b[2J" not in captured.get()
