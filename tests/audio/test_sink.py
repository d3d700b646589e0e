"""The virtual sink plays in the time of the clock, and writes what was heard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from echostream.audio import VirtualSink
from echostream.audio.samples import Samples
from echostream.errors import ConfigurationError
from echostream.types import shown_by
from tests.audio.sounds import START_NS, HandClock, noise, read_wav


@pytest.fixture
def clock() -> Iterator[HandClock]:
    clock = HandClock()
    with shown_by(clock):
        yield clock


def test_it_plays_in_time_and_reports_what_is_heard(clock: HandClock) -> None:
    sink = VirtualSink(buffer_samples=960)
    sink.start()
    assert (sink.buffered(), sink.next_frame(), sink.report()) == (0, 0, (START_NS, 0))
    sink.write(noise(480))
    assert (sink.buffered(), sink.next_frame()) == (480, 480)
    clock.now_ns += 5_000_000
    assert (sink.buffered(), sink.next_frame()) == (240, 480)
    at_ns, frame = sink.report() or (0, 0)
    assert abs(at_ns - (START_NS + frame * 1e9 / 48_000)) <= 1
    assert frame == 240
    assert sink.underrun_count == 0


def test_a_sink_that_drifts_plays_faster(clock: HandClock) -> None:
    sink = VirtualSink(drift_ppm=100.0)
    sink.start()
    clock.now_ns += 10_000_000_000
    assert sink.report() == (START_NS + 10_000_000_000, 480_048)


def test_the_file_has_what_was_heard_silence_for_late_blocks_too(tmp_path: Path, clock: HandClock) -> None:
    path = tmp_path / "a.wav"
    sink = VirtualSink(path)
    sink.start()
    first, second = noise(480, seed=1), noise(480, seed=2)
    sink.write(first)
    clock.now_ns += 15_000_000  # 720 samples: nothing was there for 240 of them
    sink.write(second)
    assert sink.underrun_count == 1
    sink.close()
    heard = read_wav(path)
    assert len(heard) == 1200
    assert np.abs(heard[:480] - first).max() < 1e-4
    assert not heard[480:720].any()
    assert np.abs(heard[720:] - second).max() < 1e-4
    sink.close()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    sink = VirtualSink(tmp_path / "nowhere" / "a.wav")
    with pytest.raises(ConfigurationError, match=r"out: .*a\.wav cannot be written: No such file or directory"):
        sink.start()


def test_a_recording_is_kept_until_there_is_another(tmp_path: Path, clock: HandClock) -> None:
    path, new = tmp_path / "a.wav", tmp_path / "new.wav"
    path.write_bytes(b"precious")
    for where in (path, new):
        sink = VirtualSink(where)
        sink.start()
        clock.now_ns += 15_000_000
        sink.close()
    assert path.read_bytes() == b"precious"
    assert not new.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk that is always there")
def test_a_full_disk_is_told(clock: HandClock) -> None:
    sink = VirtualSink("/dev/full")
    sink.start()
    with pytest.raises(ConfigurationError, match="/dev/full cannot be written any more: No space left on device"):
        sink.write(noise(480))
    sink.close()


def test_a_file_is_never_longer_than_its_header_can_say(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echostream.audio.sink._MOST_FRAMES", 720)
    sink = VirtualSink(tmp_path / "a.wav")
    sink.start()
    sink.write(noise(480))
    with pytest.raises(ConfigurationError, match=r"a\.wav is full: a WAV file holds 0\.0 hours"):
        sink.write(noise(480))
    sink.close()
    assert len(read_wav(tmp_path / "a.wav")) == 720


def test_hours_of_silence_are_written_in_pieces(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0

    def silence(count: int) -> Samples:
        nonlocal longest
        longest = max(longest, count)
        return np.zeros((count, 2), np.float32)

    monkeypatch.setattr("echostream.audio.sink.silence", silence)
    sink = VirtualSink(tmp_path / "a.wav")
    sink.start()
    clock.now_ns += 10_500_000_000
    sink.write(noise(480))
    sink.close()
    assert len(read_wav(tmp_path / "a.wav")) == 10.5 * 48_000 + 480
    assert longest == 48_000


def test_a_sink_must_be_started() -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        VirtualSink().buffered()
