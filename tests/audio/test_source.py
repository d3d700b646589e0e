"""Files of any rate and form come out as one; what is no sound is refused with a way out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from echostream.audio import FileSource
from echostream.audio.samples import FRAME_SAMPLES, Samples
from echostream.errors import ConfigurationError
from tests.audio.sounds import lag, noise, tone, write_wav

CLIP = Path(__file__).parents[2] / "examples" / "audio_sync" / "clip.opus"


def everything(source: FileSource) -> Samples:
    frames = []
    while (frame := source.read()) is not None:
        assert frame.shape == (FRAME_SAMPLES, 2)
        frames.append(frame)
    return np.concatenate(frames)


def test_a_file_of_the_right_form_comes_out_as_it_is(tmp_path: Path) -> None:
    sound = noise(4800)
    source = FileSource(write_wav(tmp_path / "a.wav", sound))
    assert source.duration == pytest.approx(0.1)
    assert np.abs(everything(source) - sound).max() < 1e-4
    assert source.read() is None
    source.close()


def test_the_last_frame_is_filled_up_with_silence(tmp_path: Path) -> None:
    sound = everything(FileSource(write_wav(tmp_path / "a.wav", noise(500))))
    assert len(sound) == 2 * FRAME_SAMPLES
    assert not sound[500:].any()


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (8_000, 1), (96_000, 2), (48_000, 1), (48_000, 6)])
def test_other_rates_and_channels_become_one_form(rate: int, channels: int, tmp_path: Path) -> None:
    sound = np.repeat(tone(rate // 2, 440, rate)[:, :1], channels, axis=1)
    heard = everything(FileSource(write_wav(tmp_path / "a.wav", sound, rate)))
    assert len(heard) == 24_000
    power = np.abs(np.fft.rfft(heard[:, 0]))
    assert np.argmax(power) == 220  # 440 Hz in half a second
    if channels < 6:
        assert np.array_equal(heard[:, 0], heard[:, 1])


def test_a_place_that_is_sought_is_met_to_the_sample(tmp_path: Path) -> None:
    sound = noise(48_000)
    source = FileSource(write_wav(tmp_path / "a.wav", sound))
    for begin in (0.5, 0.1234, 0.0):
        source.seek(begin)
        frame = source.read()
        at = round(begin * 48_000)
        assert frame is not None
        assert np.abs(frame - sound[at : at + FRAME_SAMPLES]).max() < 1e-4
    for beyond in (5.0, 1e300):
        source.seek(beyond)
        assert source.read() is None


def test_a_place_in_a_compressed_file_is_met_to_the_sample() -> None:
    source = FileSource(CLIP)
    whole = everything(source)
    source.seek(5.0)
    there = np.concatenate([source.read() for _ in range(50)])
    assert lag(whole[240_000 - 300 :][:25_000], there, 301) == 300


def test_the_sound_of_a_video_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25, options={})
        video.width = video.height = 16
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("flac", rate=48_000)
        container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        frame = av.AudioFrame.from_ndarray(np.ones((1, 9600), np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        container.mux(video.encode(None))
    assert len(everything(FileSource(path))) == 4800


def test_a_damaged_part_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=48_000)
        for number, block in enumerate(np.split(noise(1152 * 50), 50)):
            planes = np.rint(block.T * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), "s16p", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, number * 1152, Fraction(1, 48_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 3000] = b"\xff\x00" * 1500
    path.write_bytes(raw)
    source = FileSource(path)
    assert len(everything(source)) > 30 * 1152
    assert source.damaged


def test_what_cannot_be_played_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("no sound at all, only words, and more of them\n" * 20)
    (tmp_path / "empty.wav").write_bytes(b"")
    write_wav(tmp_path / "hollow.wav", noise(480)[:0])
    with av.open(str(tmp_path / "silent.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 16
        container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(video.encode(None))
    told = {
        "nothing.wav": "is not there",
        ".": "is a folder",
        "text.mp3": "cannot be decoded",
        "empty.wav": "cannot be decoded",
        "hollow.wav": "it is empty or cut off",
        "silent.mkv": "has no sound, only video: name a file with audio",
    }
    for name, reason in told.items():
        with pytest.raises(ConfigurationError) as caught:
            FileSource(tmp_path / name)
        assert caught.value.field == "file"
        assert reason in caught.value.reason
