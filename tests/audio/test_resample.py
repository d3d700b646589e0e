"""Reading faster or slower: where each sample comes from, over many blocks."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from echostream.audio.resample import LinearResampler, Resampler, SincResampler, make_resampler
from echostream.audio.samples import FRAME_SAMPLES
from tests.audio.sounds import frames_of, tone

HERTZ = 200.0


@pytest.mark.parametrize("make", [LinearResampler, SincResampler])
def test_every_sample_comes_from_the_place_that_the_speeds_add_up_to(make: Callable[[], Resampler]) -> None:
    resampler, position, taken = make(), 0.0, 0
    for number, frame in enumerate(frames_of(tone(FRAME_SAMPLES * 1000, HERTZ))):
        speed = 1 + 1e-6 * (300 + 100 * np.sin(number / 100))
        block = resampler.process(frame, speed)
        taken += FRAME_SAMPLES
        expected = 0.5 * np.sin(2 * np.pi * HERTZ / 48_000 * (position + speed * np.arange(len(block))))
        assert np.abs(block[10:-10, 0] - expected[10:-10]).max(initial=0) < 2e-3  # 0.15 samples, at the steepest
        position += speed * len(block)
    assert 0 <= taken - position < 30  # what it holds does not grow


@pytest.mark.parametrize("make", [LinearResampler, SincResampler])
def test_at_the_speed_of_the_source_nothing_changes(make: Callable[[], Resampler]) -> None:
    sound, resampler = tone(4800, 1000.0), make()
    made = np.concatenate([resampler.process(frame, 1.0) for frame in frames_of(sound)])
    assert np.abs(made[100:] - sound[100 : len(made)]).max() < 1e-3


def test_blocks_of_any_size_are_taken() -> None:
    sound, resampler = tone(1000, HERTZ), LinearResampler()
    parts = [sound[:0], sound[:1], sound[1:2], sound[2:500], sound[500:]]
    made = np.concatenate([resampler.process(part, 1.0) for part in parts])
    assert np.allclose(made, sound[: len(made)], atol=1e-6)
    assert len(made) >= 999


def test_without_the_library_straight_lines_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_resampler(), SincResampler)
    monkeypatch.setitem(sys.modules, "samplerate", None)
    assert isinstance(make_resampler(), LinearResampler)
