"""Everything between packets and a sink, in virtual time: what is heard when, with clocks and cards that run apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echostream.audio import VirtualSink
from echostream.audio.codec import make_encoder
from echostream.audio.playback import Playback
from echostream.audio.samples import Samples
from echostream.errors import ConfigurationError
from echostream.realtime import DeviceClock
from echostream.types import shown_by
from tests.audio.sounds import START_NS, HandClock, frames_of, noise, read_wav

FRAME_NS = 10_000_000
LATENCY_NS = 300_000_000


@dataclass
class Time:
    """A session's clock: what the local one shows, set apart, and faster."""

    offset_ns: float = 0.0
    drift_ppm: float = 0.0
    error_bound_ns: float = 25_000.0
    locked: bool = True

    def to_session_ns(self, local_ns: int, /) -> int:
        return START_NS + round((local_ns - START_NS) * (1 + self.drift_ppm / 1e6) + self.offset_ns)

    def to_local_ns(self, session_ns: int) -> int:
        return START_NS + round((session_ns - START_NS - self.offset_ns) / (1 + self.drift_ppm / 1e6))


@dataclass
class Receiver:
    """A receiver whose session time begins at `START_NS`; packets arrive as they are stamped."""

    path: Path
    sound: Samples
    codec: str = "pcm"
    time: Time = field(default_factory=Time)
    card_drift: float = 0.0
    without: Sequence[int] = ()
    stalls: Sequence[int] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def play(self, joins_at: int = 0, frames: int | None = None) -> None:
        clock, encoder = HandClock(), make_encoder(self.codec)
        delay_ns = encoder.delay_samples * 1_000_000_000 // 48_000
        packets = [encoder.encode(frame) for frame in frames_of(self.sound)]
        clock.now_ns = self.time.to_local_ns(START_NS + joins_at * FRAME_NS)
        with shown_by(clock):
            self.sink = VirtualSink(self.path, drift_ppm=self.card_drift)
            self.sink.start()
            device = DeviceClock(48_000)
            self.playback = Playback(
                self.time, self.sink, device, codec=self.codec, latency_ns=LATENCY_NS, **self.options
            )
            self.skews = []
            for number in range(joins_at, frames or len(packets) + 40):
                session_ns = START_NS + number * FRAME_NS
                clock.now_ns = self.time.to_local_ns(session_ns)
                if number < len(packets) and number not in self.without:
                    self.playback.push(number, session_ns - delay_ns, clock.now_ns, packets[number])
                if number not in self.stalls:
                    self.playback.fill()
                    self.skews.append(self.playback.report("x").skew_ns)
            self.report = self.playback.report("x")
            self.sink.close()

    def heard(self, session_ns: float, count: int) -> Any:
        """What was heard from a session time on, in samples of session time."""
        played = read_wav(self.path)[:, 0]
        rate = 48_000 * (1 + self.card_drift / 1e6)
        where = np.array([self.time.to_local_ns(round(session_ns + at * 1e9 / 48_000)) for at in (0, count)])
        begin, end = (where - self.sink.started_ns) * rate / 1e9
        return np.interp(np.linspace(begin, end, count, endpoint=False), np.arange(len(played)), played)

    def _skew_us(self, at_seconds: float) -> float:
        """How early a part of the sound is heard, by what was written."""
        at = round(at_seconds * 48_000)
        heard = self.heard(START_NS + LATENCY_NS + at_seconds * 1e9, 4800)
        most = 24  # samples, half a millisecond
        shifts = range(-most, most + 1)
        likeness = [float(np.corrcoef(heard, self.sound[at + shift :][:4800, 0])[0, 1]) for shift in shifts]
        peak = int(np.argmax(likeness))
        assert likeness[peak] > 0.9
        assert 0 < peak < 2 * most
        left, top, right = likeness[peak - 1 : peak + 2]
        return (peak - most + 0.5 * (left - right) / (left - 2 * top + right)) * 1e6 / 48_000

    def skews_us(self, *at_seconds: float) -> float:
        """How far off the worst of some parts is heard."""
        return max(abs(self._skew_us(at)) for at in at_seconds)


SOUND = noise(48_000 * 3)


@pytest.mark.parametrize("codec", ["pcm", "opus"])
@pytest.mark.parametrize(("offset", "drift", "card"), [(0.0, 0.0, 0.0), (5e9, 60.0, -60.0), (-9e9, -60.0, -30.0)])
def test_each_sample_is_heard_at_its_time(codec: str, offset: float, drift: float, card: float, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, codec, Time(offset, drift), card)
    receiver.play()
    assert receiver.skews_us(0.1, 0.5, 1.5, 2.5) < 100  # while the loop learns 120 ppm
    report = receiver.report
    assert (report.lost, report.late, report.underruns, report.resyncs) == (0, 0, 0, 0)
    assert report.device_ppm == pytest.approx(card, abs=2.0)
    assert max(abs(skew) for skew in receiver.skews) < 100_000
    assert (report.name, report.codec, report.state, report.bound_ns) == ("x", codec, "playing", 25_000.0)


def test_who_joins_later_hears_what_the_others_hear(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, time=Time(7e9, 30.0))
    receiver.play(joins_at=110)
    assert receiver.skews_us(1.15, 1.5, 2.5) < 30


def test_what_is_missing_is_filled_and_the_rest_keeps_its_time(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, without=(50, 51, 100))
    receiver.play()
    assert receiver.skews_us(0.1, 0.53, 1.5) < 3
    assert receiver.report.lost == 3
    assert receiver.report.concealed_ns == 3 * FRAME_NS


def test_after_a_silence_nobody_waits_for_a_better_clock_again(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, time=Time(error_bound_ns=2e6), without=range(100, 150))
    receiver.play()
    assert receiver.skews_us(0.9, 1.55, 2.5) < 3


def test_a_program_that_stood_still_is_in_step_again_at_once(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, stalls=range(100, 120))
    receiver.play()
    assert receiver.report.underruns == 1
    assert receiver.report.resyncs == 1
    assert receiver.skews_us(0.5, 1.3, 2.5) < 3


def test_nothing_is_played_before_the_clock_is_known(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, time=Time(locked=False))
    receiver.play(frames=100)
    assert receiver.report.state == "waiting"
    assert not read_wav(receiver.path).any()


def test_a_slow_amplifier_is_played_earlier_and_volume_is_ones_own(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND, options={"device_latency": 0.05, "volume": 0.5})
    receiver.play()
    heard, wanted = receiver.heard(START_NS + LATENCY_NS + 950_000_000, 4800), SOUND[48_000:52_800, 0]
    assert np.corrcoef(heard, wanted)[0, 1] > 0.99
    assert np.dot(heard, wanted) / np.dot(wanted, wanted) == pytest.approx(0.5, abs=0.02)


def test_sound_that_waits_is_told(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "a.wav", SOUND)
    receiver.play(frames=200)
    assert receiver.report.buffer_ns == LATENCY_NS + FRAME_NS - 150_000_000


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"codec": "mp3", "latency_ns": 1}, "codec: 'mp3' is unknown, choose opus or pcm"),
        ({"codec": "pcm", "latency_ns": 1, "device_latency": 2.0}, "device_latency: 2.0 s is not in -1 to 1"),
        ({"codec": "pcm", "latency_ns": 1, "volume": float("nan")}, "volume: nan is not in 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Playback(Time(), VirtualSink(), DeviceClock(48_000), **options)
