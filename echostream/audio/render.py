"""From frames that arrived to blocks for a device: gaps, speed, volume. Knows stamps, neither time nor network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from echostream.audio.resample import Resampler, make_resampler
from echostream.audio.samples import FRAME_SAMPLES, Samples, faded, ns_of, samples_of, silence

__all__ = ("Piece", "Renderer")

_FADED: Final = 3 * FRAME_SAMPLES
"""Missing samples after which what was last heard has faded away, whatever still waits in the resampler."""

Piece = tuple[int, Samples]
"""The stamp of a block's first sample, and the block."""


class Renderer:
    """Reads a source, a row of stamped frames, at a speed that may differ a little from one block to the next.

    A hole in the source is filled: what was last heard fades away backwards, then there is silence, and what comes
    after it fades in.

    Args:
        take: gives the next piece that has not ended before a stamp; None where it is not there.
        make: makes a resampler; after each jump a new one.
    """

    def __init__(self, take: Callable[[int], Piece | None], make: Callable[[], Resampler] = make_resampler) -> None:
        self._take = take
        self._make = make
        self._resampler = make()
        self._ready: deque[tuple[Samples, float]] = deque()  # with the speed that each was read at
        self._position_ns = 0.0
        self._head_ns = 0.0  # stamp of the next sample for the resampler
        self._early: Piece | None = None
        self._last = silence(0)  # what was last heard, while it still can fade away
        self._silent = True
        self._missing_count = _FADED  # in a row
        self._gain = 1.0
        self.volume = 1.0
        """Factor of loudness, 0 to 1; a change goes over one block."""

    @property
    def position_ns(self) -> int:
        """Stamp of the sample that is next to be read."""
        return round(self._position_ns)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was there to be heard for a while."""
        return self._missing_count >= _FADED

    def jump(self, by_ns: int, crossfade_ns: int) -> None:
        """Go on elsewhere; the seam is hidden in the block that follows."""
        there_ns = self._position_ns + by_ns
        before = silence(0) if self._silent else self._read(samples_of(crossfade_ns), 1.0)
        self._position_ns = self._head_ns = there_ns
        self._resampler = self._make()
        self._ready.clear()
        self._silent, self._last = True, silence(0)
        if len(before):
            after = self._read(len(before), 1.0)  # fades in by itself, as all that comes after silence
            self._ready.appendleft((faded(before, 1.0, 0.0) + after, 1.0))
            self._position_ns -= ns_of(len(before))

    def read(self, count: int, speed: float) -> Samples:
        """Return the next `count` samples, read at `speed` source samples for each."""
        block = self._read(count, speed)
        before, self._gain = self._gain, self.volume
        return faded(block, before, self._gain) if before != self._gain else block * np.float32(self._gain)

    def _read(self, count: int, speed: float) -> Samples:
        parts: list[Samples] = []
        while count:
            while not self._ready:
                made = self._resampler.process(self._more(), speed)
                if len(made):
                    self._ready.append((made, speed))
            block, its_speed = self._ready.popleft()
            if len(block) > count:
                self._ready.appendleft((block[count:], its_speed))
                block = block[:count]
            parts.append(block)
            count -= len(block)
            self._position_ns += ns_of(len(block) * its_speed)
        return np.concatenate(parts) if parts else silence(0)

    def _more(self) -> Samples:
        """Return the next samples of the source, or what stands in for them."""
        piece, self._early = self._early or self._take(round(self._head_ns)), None
        if piece is None:
            return self._missing(FRAME_SAMPLES)
        stamp_ns, block = piece
        ahead = samples_of(stamp_ns - self._head_ns)
        if ahead > 0:
            self._early = piece
            return self._missing(min(ahead, FRAME_SAMPLES))
        # Nothing lies between samples: the position is that of the sample which is really read.
        self._position_ns += stamp_ns - self._head_ns - ns_of(ahead)
        self._head_ns = stamp_ns + ns_of(len(block))
        block = block[-ahead:]
        if self._silent:
            edge = len(block) // 2
            block = np.concatenate((faded(block[:edge], 0.0, 1.0), block[edge:]))
        self._silent, self._last, self._missing_count = False, block, 0
        return block

    def _missing(self, count: int) -> Samples:
        """Return `count` samples for those that are not there."""
        self._head_ns += ns_of(count)
        self._missing_count += count
        block = silence(count)
        if not self._silent:
            echo = faded(self._last[::-1][:count], 1.0, 0.0)
            block[: len(echo)] = echo
        self._silent, self._last = True, silence(0)
        return block
