"""Where sound goes: what every sink can do, and a device that is only arithmetic, which may write a WAV file."""

from __future__ import annotations

import wave
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Protocol

from echostream.audio.samples import Samples, silence, to_s16
from echostream.audio.settings import AUDIO_BUFFER_SAMPLES, AUDIO_CHANNELS, AUDIO_RATE
from echostream.errors import ConfigurationError
from echostream.realtime import VirtualDevice
from echostream.types import clock

__all__ = ("Sink", "VirtualSink")

_MOST_FRAMES: Final = ((1 << 32) - 64) // (2 * AUDIO_CHANNELS)
"""Of a WAV file: its header has 32 bits for the length."""


class Sink(Protocol):
    """Takes blocks ahead of time and plays them by a clock of its own. Frames are counted from its start."""

    def start(self) -> None:
        """Begin to play, silence first.

        Raises:
            ConfigurationError: there is nothing to play with.
        """

    def buffered(self) -> int:
        """Return how many samples wait to be heard."""
        ...

    def next_frame(self) -> int:
        """Return the number of the sample that is written next; silence that stood in for late blocks is counted."""
        ...

    def write(self, block: Samples) -> None:
        """Take a block; what it has no room for is dropped."""

    def report(self) -> tuple[int, int] | None:
        """Return a local time in ns and the sample that is heard then; None while nothing is known."""
        ...

    @property
    def underrun_count(self) -> int:
        """How often it had nothing to play."""
        ...

    def close(self) -> None:
        """Stop at once."""


class _WavFile:
    """A WAV file in the making.

    Raises:
        ConfigurationError: it cannot be written, at the begin or on the way.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw: IO[bytes] | None = None
        self._wave: wave.Wave_write | None = None
        self._room = _MOST_FRAMES
        try:
            self._is_new = not path.exists()
            path.open("ab").close()  # what is there is replaced by sound, and by nothing less
        except OSError as error:
            raise ConfigurationError("out", f"{path} cannot be written: {error.strerror}") from None

    def write(self, block: Samples) -> None:
        try:
            if self._wave is None:
                self._wave = self._open()
            self._wave.writeframesraw(to_s16(block[: self._room]).tobytes())
        except OSError as error:
            raise ConfigurationError(
                "out", f"{self._path} cannot be written any more: {error.strerror}; what it has so far can be played"
            ) from None
        self._room -= len(block)
        if self._room < 0:
            hours = _MOST_FRAMES / AUDIO_RATE / 3600
            raise ConfigurationError("out", f"{self._path} is full: a WAV file holds {hours:.1f} hours (4 GiB)")

    def close(self) -> None:
        """Complete the header; a file that got no sound is taken away again."""
        with suppress(OSError):  # whoever wrote has been told
            if self._wave is not None:
                self._wave.close()
        if self._raw is not None:
            self._raw.close()
        elif self._is_new:
            self._path.unlink(missing_ok=True)

    def _open(self) -> wave.Wave_write:
        self._raw = raw = self._path.open("wb", buffering=0)  # a full disk shows at once
        made = wave.open(raw, "wb")  # noqa: SIM115 - closed by close()
        made.setnchannels(AUDIO_CHANNELS)
        made.setsampwidth(2)
        made.setframerate(AUDIO_RATE)
        return made


class VirtualSink:
    """Plays nothing, in real time; what it would have played may be written to a WAV file.

    Args:
        path: of the file; None for none. What is there is replaced once there is something to write.
        drift_ppm: how much faster than nominal it plays, by the local clock.
        buffer_samples: that it takes ahead.

    Attributes:
        started_ns: when it played sample 0, by the local clock.
    """

    def __init__(
        self, path: str | Path | None = None, *, drift_ppm: float = 0.0, buffer_samples: int = AUDIO_BUFFER_SAMPLES
    ) -> None:
        self._path = None if path is None else Path(path)
        self._drift_ppm = drift_ppm
        self._buffer_samples = buffer_samples
        self._device: VirtualDevice | None = None
        self._file: _WavFile | None = None
        self._written = 0
        self.started_ns = 0

    def start(self) -> None:
        """Begin to play.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        if self._path is not None:
            self._file = _WavFile(self._path)
        self.started_ns = clock.monotonic_ns()
        self._device = VirtualDevice(
            AUDIO_RATE, started_ns=self.started_ns, drift_ppm=self._drift_ppm, buffer_frames=self._buffer_samples
        )

    @property
    def underrun_count(self) -> int:
        return self._playing.underrun_count

    def buffered(self) -> int:
        return self._playing.buffered(clock.monotonic_ns())

    def next_frame(self) -> int:
        return self._playing.next_frame(clock.monotonic_ns())

    def write(self, block: Samples) -> None:
        """Take a block.

        Raises:
            ConfigurationError: the file cannot be written any more, or is full.
        """
        now_ns = clock.monotonic_ns()
        at = self._playing.next_frame(now_ns)
        taken = self._playing.write(len(block), now_ns)
        if self._file is not None:
            # What it played for want of blocks is heard, too.
            for begin in range(self._written, at, AUDIO_RATE):  # perhaps of hours
                self._file.write(silence(min(AUDIO_RATE, at - begin)))
            self._file.write(block[:taken])
        self._written = at + taken

    def report(self) -> tuple[int, int] | None:
        now_ns = clock.monotonic_ns()
        frame = self._playing.played(now_ns)
        return self._playing.heard_ns(frame), frame

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def _playing(self) -> VirtualDevice:
        if self._device is None:
            raise RuntimeError("the sink was not started")
        return self._device
