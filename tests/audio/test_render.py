"""A row of stamped frames becomes one stream of samples: at its speed, over holes, through jumps, at its loudness."""

from __future__ import annotations

import numpy as np
import pytest

from echostream.audio.render import Piece, Renderer
from echostream.audio.resample import LinearResampler
from echostream.audio.samples import FRAME_SAMPLES, Samples, ns_of
from tests.audio.sounds import frames_of, noise, tone

FRAME_NS = 10_000_000
BEGIN_NS = 5_000_000_000


class Tape:
    """Frames with stamps, some of them missing."""

    def __init__(self, sound: Samples, *, without: tuple[int, ...] = (), moved: tuple[int, int] = (1 << 30, 0)) -> None:
        late_from, late_ns = moved
        self.pieces: list[Piece] = [
            (BEGIN_NS + number * FRAME_NS + (late_ns if number >= late_from else 0), frame)
            for number, frame in enumerate(frames_of(sound))
            if number not in without
        ]

    def take(self, head_ns: int) -> Piece | None:
        while self.pieces and self.pieces[0][0] + FRAME_NS <= head_ns + 10_000:
            self.pieces.pop(0)
        if self.pieces and self.pieces[0][0] < head_ns + FRAME_NS - 10_000:
            return self.pieces.pop(0)
        return None


def renderer(tape: Tape) -> Renderer:
    made = Renderer(tape.take, LinearResampler)
    made.jump(BEGIN_NS, 0)
    return made


def test_what_is_there_is_read_as_it_is_and_fades_in_at_the_begin() -> None:
    sound = noise(4800)
    read = renderer(Tape(sound)).read(4000, 1.0)
    assert np.abs(read[FRAME_SAMPLES:] - sound[FRAME_SAMPLES:4000]).max() < 1e-6
    assert np.abs(read[0]).max() == 0
    assert np.abs(read[240:480] - sound[240:480]).max() < 1e-6


@pytest.mark.parametrize("speed", [1.0, 1 + 300e-6, 1 - 300e-6])
def test_the_position_tells_which_sample_is_next(speed: float) -> None:
    hertz = 200.0
    reader = renderer(Tape(tone(48_000, hertz)))
    reader.read(FRAME_SAMPLES, speed)
    for _ in range(80):
        at = (reader.position_ns - BEGIN_NS) * 48_000 / 1e9
        block = reader.read(FRAME_SAMPLES, speed)
        expected = 0.5 * np.sin(2 * np.pi * hertz / 48_000 * (at + speed * np.arange(FRAME_SAMPLES)))
        assert np.abs(block[:, 0] - expected).max() < 1e-3  # 0.1 samples


def test_a_hole_fades_away_and_what_comes_after_it_fades_in() -> None:
    sound = np.full((4800, 2), 0.5, np.float32)
    reader = renderer(Tape(sound, without=(3, 4)))
    read = reader.read(4000, 1.0)[:, 0]
    assert read[3 * 480 - 1] == pytest.approx(0.5)
    assert np.abs(np.diff(read)).max() < 0.5 / 200  # no click
    assert not read[4 * 480 : 5 * 480].any()
    assert read[5 * 480 + 240] == pytest.approx(0.5)
    assert reader.position_ns == round(BEGIN_NS + ns_of(4000))


def test_frames_that_are_stamped_apart_keep_their_places() -> None:
    sound = noise(4800)
    reader = renderer(Tape(sound, moved=(5, 12_500_000)))  # 600 samples later
    read = reader.read(4800, 1.0)
    assert not read[6 * 480 : 5 * 480 + 600].any()
    assert np.abs(read[5 * 480 + 600 + 480 :] - sound[6 * 480 : 4800 - 600]).max() < 1e-6


def test_frames_that_overlap_are_cut() -> None:
    sound = noise(4800)
    read = renderer(Tape(sound, moved=(5, -5_000_000))).read(3000, 1.0)
    assert np.abs(read[480 : 5 * 480] - sound[480 : 5 * 480]).max() < 1e-6
    assert np.abs(read[5 * 480 :] - sound[5 * 480 + 240 : 3240]).max() < 1e-6


def test_a_jump_leads_to_the_sample_without_a_click() -> None:
    sound = tone(48_000, 100.0)
    reader = renderer(Tape(sound))
    before = reader.read(4800, 1.0)
    reader.jump(100_000_000 + 7_000, 5_000_000)
    assert abs(reader.position_ns - (BEGIN_NS + 200_007_000)) < 10_417  # the nearest sample
    after = reader.read(4800, 1.0)
    joined = np.concatenate((before, after))[:, 0]
    assert np.abs(np.diff(joined)).max() < 0.02  # the tone alone has 0.0066
    at = (reader.position_ns - BEGIN_NS) * 48_000 / 1e9
    expected = 0.5 * np.sin(2 * np.pi * 100 / 48_000 * at)
    assert reader.read(1, 1.0)[0, 0] == pytest.approx(expected, abs=1e-3)


def test_a_jump_between_samples_tells_where_it_really_led() -> None:
    reader = Renderer(Tape(noise(48_000)).take, LinearResampler)
    reader.jump(BEGIN_NS + 8_000, 0)  # 0.38 samples
    reader.read(FRAME_SAMPLES, 1.0)
    assert reader.position_ns == pytest.approx(BEGIN_NS + 10_000_000, abs=2)


def test_a_jump_back_is_silence_until_there_is_something_again() -> None:
    sound = noise(9600)
    reader = renderer(Tape(sound))
    reader.read(4800, 1.0)
    reader.jump(-20_000_000, 0)
    read = reader.read(2400, 1.0)
    assert not read[480:960].any()
    assert np.abs(read[1440:] - sound[5280:6240]).max() < 1e-6


def test_volume_changes_over_one_block() -> None:
    reader = renderer(Tape(np.full((4800, 2), 0.5, np.float32)))
    reader.read(960, 1.0)
    reader.volume = 0.5
    block = reader.read(480, 1.0)[:, 0]
    assert block[0] == pytest.approx(0.5)
    assert np.abs(np.diff(block)).max() < 0.001
    assert reader.read(480, 1.0)[:, 0] == pytest.approx(0.25)
