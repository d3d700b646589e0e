"""Blocks of samples, and what is done with them everywhere: silence, 16-bit integers, fades.

A block is an array of 32-bit floats from -1 to 1, one row for each sample and one column for each channel. Inside
EchoStream audio has one form, that of `AUDIO_RATE` and `AUDIO_CHANNELS`; sources and sinks turn theirs into it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from echostream.audio.settings import AUDIO_CHANNELS, AUDIO_FRAME_NS, AUDIO_RATE

__all__ = ("FRAME_SAMPLES", "Samples", "faded", "from_s16", "ns_of", "samples_of", "silence", "to_s16")

Samples: TypeAlias = NDArray[np.float32]
"""Rows of samples, columns of channels."""

FRAME_SAMPLES = AUDIO_RATE * AUDIO_FRAME_NS // 1_000_000_000
"""Samples of one frame, which one packet carries."""

_FULL_SCALE = 32767.0
"""Of 16 bits: what -1 and 1 become, so that both ends of the range are told apart from clipping."""


def silence(count: int) -> Samples:
    """Return `count` samples of nothing."""
    return np.zeros((count, AUDIO_CHANNELS), np.float32)


def from_s16(packet: bytes | memoryview | NDArray[Any]) -> Samples:
    """Return the block that little-endian 16-bit integers stand for, channels interleaved."""
    integers = np.frombuffer(packet, "<i2") if not isinstance(packet, np.ndarray) else packet
    return integers.reshape(-1, AUDIO_CHANNELS).astype(np.float32) / np.float32(_FULL_SCALE)


def to_s16(block: Samples) -> NDArray[np.int16]:
    """Return a block as 16-bit integers; what is louder than full scale is clipped."""
    integers: NDArray[np.int16] = np.rint(np.clip(block, -1.0, 1.0) * np.float32(_FULL_SCALE)).astype("<i2")
    return integers


def faded(block: Samples, begin: float, end: float) -> Samples:
    """Return a block whose loudness goes evenly from one factor to another: a jump would be heard as a click."""
    if begin == end == 1.0 or not len(block):
        return block
    gain = np.linspace(begin, end, len(block), endpoint=False, dtype=np.float32)
    return block * gain[:, np.newaxis]


def ns_of(count: float) -> float:
    """Return how long so many samples last."""
    return count * 1e9 / AUDIO_RATE


def samples_of(duration_ns: float) -> int:
    """Return how many samples fit a duration best."""
    return round(duration_ns * AUDIO_RATE / 1e9)
