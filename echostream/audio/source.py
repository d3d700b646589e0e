"""PyAV's door to files: whatever it can decode comes out as frames of one form, 10 ms each."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, Protocol

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from echostream.audio.samples import FRAME_SAMPLES, Samples, from_s16, silence
from echostream.audio.settings import AUDIO_RATE
from echostream.errors import ConfigurationError

__all__ = ("AudioSource", "FileSource")

_MOST_DAMAGED: Final = 100
"""Packets in a row that cannot be decoded before a file is given up: one second of most formats."""


_PRE_ROLL: Final = 0.1
"""Seconds decoded before the place that was sought and thrown away: Opus needs 80 ms (RFC 7845 section 4.6)."""


_FARTHEST: Final = 1e9
"""Seconds, 31 years: FFmpeg counts microseconds in 64 bits."""


class AudioSource(Protocol):
    """Where audio comes from. Its methods may block; they are called in a thread, one at a time."""

    @property
    def duration(self) -> float | None:
        """Seconds from begin to end; None where that is not known."""
        ...

    def read(self) -> Samples | None:
        """Return the next frame of `FRAME_SAMPLES`; None at the end."""
        ...

    def seek(self, seconds: float) -> None:
        """Go on at so many seconds after the begin."""

    def close(self) -> None:
        """Give back what is held."""


class FileSource:
    """An audio file, or the sound of a video.

    Attributes:
        duration: seconds from begin to end; None where the file does not tell.
        damaged: packets that could not be decoded and were left out.
    """

    def __init__(self, path: str | Path) -> None:
        """Open it and decode its begin.

        Raises:
            ConfigurationError: there is no such file, it has no sound, or nothing of it can be decoded.
        """
        self._path = Path(path)
        if not self._path.is_file():
            raise ConfigurationError("file", f"{self._path} is {'a folder' if self._path.is_dir() else 'not there'}")
        try:
            self._container = av.open(str(self._path))
        except (FFmpegError, OSError) as error:
            raise self._refused(error) from None
        if not self._container.streams.audio:
            kinds = ", ".join(sorted({item.type for item in self._container.streams})) or "nothing"
            self._container.close()
            raise ConfigurationError("file", f"{self._path} has no sound, only {kinds}: name a file with audio")
        self._stream = self._container.streams.audio[0]
        self.damaged = 0
        known = self._container.duration
        self.duration: float | None = None if known is None else known / av.time_base
        self._skip = 0.0
        self._blocks = self._decode()
        self._pending = silence(0)
        try:
            self._fill()
        except ConfigurationError:
            self._container.close()
            raise
        if not len(self._pending):
            self._container.close()
            raise ConfigurationError("file", f"{self._path} has no sound in its audio track: it is empty or cut off")

    def read(self) -> Samples | None:
        """Return the next frame, the last one filled up with silence; None at the end.

        Raises:
            ConfigurationError: the rest of the file cannot be decoded.
        """
        self._fill()
        if not len(self._pending):
            return None
        frame, self._pending = self._pending[:FRAME_SAMPLES], self._pending[FRAME_SAMPLES:]
        missing = FRAME_SAMPLES - len(frame)
        return np.concatenate((frame, silence(missing))) if missing else frame

    def seek(self, seconds: float) -> None:
        """Go on at so many seconds after the begin, exact to a sample; beyond the end there is nothing more.

        Raises:
            ConfigurationError: the file does not let itself be searched.
        """
        self._skip = min(max(0.0, seconds), _FARTHEST)
        try:
            self._container.seek(int(max(0.0, self._skip - _PRE_ROLL) * av.time_base))
        except FFmpegError as error:
            raise ConfigurationError("seek", f"{self._path} cannot be searched: {error.strerror}") from None
        self._blocks = self._decode()
        self._pending = silence(0)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _fill(self) -> None:
        """Decode until a frame is complete, or the file ends."""
        while len(self._pending) < FRAME_SAMPLES and (block := next(self._blocks, None)) is not None:
            self._pending = np.concatenate((self._pending, block))

    def _decode(self) -> Generator[Samples]:
        """Yield what the file holds from here on, in blocks as they come."""
        # Any rate and any channels: the resampler mixes down, or spreads mono over both sides.
        resampler = AudioResampler(format="s16", layout="stereo", rate=AUDIO_RATE)
        damaged_in_a_row = 0
        begun = False
        for packet in self._container.demux(self._stream):
            try:
                frames: list[Any] = list(packet.decode())
                damaged_in_a_row = 0
            except FFmpegError as error:
                self.damaged += 1
                damaged_in_a_row += 1
                if damaged_in_a_row >= _MOST_DAMAGED:
                    raise self._refused(error) from None
                continue
            for frame in frames:
                skipped = 0
                if not begun and frame.time is not None:
                    # A file can be entered only at some places: the nearest one before, and the rest is thrown away.
                    skipped = max(0, round((self._skip - frame.time) * frame.sample_rate))
                    begun = skipped < frame.samples
                    if not begun:
                        continue
                yield from _blocks(resampler, frame, round(skipped * AUDIO_RATE / frame.sample_rate))
        if begun:
            yield from _blocks(resampler, None, 0)

    def _refused(self, error: Exception) -> ConfigurationError:
        reason = getattr(error, "strerror", None) or str(error)
        return ConfigurationError(
            "file", f"{self._path} cannot be decoded ({reason}): name an audio file, such as FLAC, MP3, Ogg, WAV or M4A"
        )


def _blocks(resampler: AudioResampler, frame: Any, skipped: int) -> Generator[Samples]:
    for resampled in resampler.resample(frame):
        block = from_s16(resampled.to_ndarray())[skipped:]
        skipped = max(0, skipped - resampled.samples)
        if len(block):
            yield block
