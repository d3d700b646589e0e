"""A sound card, through a made-up sounddevice; and what is said where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echostream.audio import DeviceSink
from echostream.errors import ConfigurationError
from echostream.types import shown_by
from tests.audio.sounds import START_NS, HandClock, noise


class Stream:
    """What the made-up library opens."""

    last: Stream

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.calls: list[str] = []
        Stream.last = self

    def start(self) -> None:
        self.calls.append("start")

    def abort(self) -> None:
        self.calls.append("abort")

    def close(self) -> None:
        self.calls.append("close")


class PortAudioError(Exception):
    pass


@pytest.fixture
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(OutputStream=Stream, PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", library)


def asked_for(count: int, *, later: float = 0.02) -> Any:
    """The card asks for samples, which will be heard `later` seconds later."""
    block = np.full((count, 2), np.nan, np.float32)
    Stream.last.options["callback"](block, count, SimpleNamespace(outputBufferDacTime=7 + later, currentTime=7.0), None)
    return block


@pytest.mark.usefixtures("_library")
def test_the_card_gets_what_was_written_and_silence_where_nothing_was() -> None:
    sink = DeviceSink("hifi", buffer_samples=1000)
    with shown_by(HandClock()):
        sink.start()
        assert sink.report() is None
        assert not asked_for(100).any()
        sound = noise(700)
        sink.write(sound[:400])
        sink.write(sound[400:])
        assert (sink.buffered(), sink.next_frame()) == (700, 800)
        heard = np.concatenate([asked_for(300), asked_for(300)])
        assert np.array_equal(heard, sound[:600])
        assert sink.underrun_count == 0
        last = asked_for(300)
    assert np.array_equal(last[:100], sound[600:])
    assert not last[100:].any()
    assert sink.underrun_count == 1
    assert (sink.buffered(), sink.next_frame()) == (0, 1000)
    assert sink.report() == (START_NS + 20_000_000, 700)
    stream = Stream.last
    assert {key: stream.options[key] for key in ("samplerate", "channels", "dtype", "device")} == {
        "samplerate": 48_000,
        "channels": 2,
        "dtype": "float32",
        "device": "hifi",
    }
    sink.close()
    sink.close()
    assert stream.calls == ["start", "abort", "close"]


@pytest.mark.usefixtures("_library")
def test_what_it_has_no_room_for_is_dropped() -> None:
    sink = DeviceSink("3", buffer_samples=1000)
    sink.start()
    assert Stream.last.options["device"] == 3
    sink.write(noise(1500))
    assert (sink.buffered(), sink.next_frame()) == (1000, 1000)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(**options: Any) -> Any:
        raise error

    return fail


def test_without_a_card_the_error_names_the_wav_file(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(OutputStream=raising(PortAudioError("no device")), PortAudioError=PortAudioError)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    with pytest.raises(ConfigurationError) as caught:
        DeviceSink().start()
    assert caught.value.reason == (
        "the default device cannot be played on (no device): `python -m sounddevice` lists them, or write a file"
        " instead: `--out FILE.wav`, or VirtualSink(path)"
    )
    library.OutputStream = raising(ValueError("no output device matching 'x'"))
    with pytest.raises(ConfigurationError, match="'x' cannot be played on"):
        DeviceSink("x").start()


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'echostream\[audio\]'.*--out FILE\.wav"):
        DeviceSink().start()


def test_without_portaudio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> Any:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("echostream.audio.device.import_module", no_library)
    with pytest.raises(ConfigurationError, match=r"PortAudio library not found: install PortAudio .*--out FILE\.wav"):
        DeviceSink().start()
