"""Sounds, files and clocks for the tests of audio."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echostream.audio.samples import FRAME_SAMPLES, Samples
from echostream.types import Clock

START_NS = 1_000_000_000_000


def noise(count: int, *, seed: int = 1, channels: int = 2) -> Samples:
    """Sound without any repetition, soft above 3 kHz as music is: shifted copies are told apart."""
    raw = np.random.default_rng(seed).standard_normal((count + 15, channels))
    smooth = np.stack([np.convolve(raw[:, side], np.ones(16) / 16, "valid") for side in range(channels)], axis=1)
    return (0.5 * smooth).astype(np.float32)


def tone(count: int, hertz: float, rate: int = 48_000) -> Samples:
    wave_ = 0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / rate)
    return np.stack([wave_, wave_], axis=1).astype(np.float32)


def frames_of(sound: Samples) -> list[Samples]:
    return [sound[at : at + FRAME_SAMPLES] for at in range(0, len(sound), FRAME_SAMPLES)]


def write_wav(path: Path, sound: Samples, rate: int = 48_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(sound * 32767).astype("<i2").tobytes())
    return path


def read_wav(path: Path) -> NDArray[np.float64]:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 48_000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32767


def lag(of: Any, behind: Any, most: int = 400) -> int:
    """By how many samples the one is behind the other."""
    a, b = (np.asarray(item, float)[:, 0] for item in (behind, of))
    count = min(len(a), len(b)) - most
    likeness = [float(np.corrcoef(a[:count], b[shift : shift + count])[0, 1]) for shift in range(most)]
    return int(np.argmax(likeness))


class HandClock(Clock):
    """A clock that goes when it is told to."""

    def __init__(self, now_ns: int = START_NS) -> None:
        self.now_ns = now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def wall(self) -> float:
        return 1.7e9


class ListSource:
    """Frames from a list."""

    def __init__(self, frames: Sequence[Samples]) -> None:
        self.frames = list(frames)
        self.at = 0
        self.closed = False

    @property
    def duration(self) -> float | None:
        return len(self.frames) / 100

    def read(self) -> Samples | None:
        if self.at >= len(self.frames):
            return None
        self.at += 1
        return self.frames[self.at - 1]

    def seek(self, seconds: float) -> None:
        self.at = round(seconds * 100)

    def close(self) -> None:
        self.closed = True
