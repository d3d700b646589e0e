"""sounddevice's door: a sound card as a sink."""

from __future__ import annotations

import threading
from collections import deque
from importlib import import_module
from typing import Any, Final

from echostream.audio.samples import Samples
from echostream.audio.settings import AUDIO_BUFFER_SAMPLES, AUDIO_CHANNELS, AUDIO_RATE
from echostream.errors import ConfigurationError
from echostream.types import clock

__all__ = ("DeviceSink",)

_INSTEAD: Final = "write a file instead: `--out FILE.wav`, or VirtualSink(path)"


class DeviceSink:
    """A sound card. PortAudio asks for blocks in a thread of its own, and says when they will be heard.

    Args:
        device: name or number as ``python -m sounddevice`` lists them, a part of the name is enough; None for the
            system's default.
        buffer_samples: that wait here for the card.
    """

    def __init__(self, device: str | int | None = None, *, buffer_samples: int = AUDIO_BUFFER_SAMPLES) -> None:
        self._device = int(device) if isinstance(device, str) and device.isdecimal() else device
        self._buffer_samples = buffer_samples
        self._lock = threading.Lock()
        self._blocks: deque[Samples] = deque()
        self._queued = 0
        self._played = 0  # asked for by the card, silence that stood in for late blocks included
        self._report: tuple[int, int] | None = None
        self._begun = False
        self._stream: Any = None
        self.underrun_count = 0

    def start(self) -> None:
        """Open the card.

        Raises:
            ConfigurationError: there is none, or PortAudio is missing; says what to do.
        """
        try:
            library: Any = import_module("sounddevice")
        except ImportError:
            raise ConfigurationError(
                "device", f"sounddevice is not installed: pip install 'echostream[audio]', or {_INSTEAD}"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                "device", f"{error}: install PortAudio (on Debian: apt install libportaudio2), or {_INSTEAD}"
            ) from None
        try:
            self._stream = library.OutputStream(
                samplerate=AUDIO_RATE,
                channels=AUDIO_CHANNELS,
                dtype="float32",
                device=self._device,
                callback=self._fill,
            )
            self._stream.start()
        except (library.PortAudioError, ValueError) as error:
            which = "the default device" if self._device is None else repr(self._device)
            raise ConfigurationError(
                "device", f"{which} cannot be played on ({error}): `python -m sounddevice` lists them, or {_INSTEAD}"
            ) from None

    def buffered(self) -> int:
        return self._queued

    def next_frame(self) -> int:
        with self._lock:
            return self._played + self._queued

    def write(self, block: Samples) -> None:
        with self._lock:
            block = block[: max(0, self._buffer_samples - self._queued)]
            self._blocks.append(block)
            self._queued += len(block)
            self._begun = True

    def report(self) -> tuple[int, int] | None:
        return self._report

    def close(self) -> None:
        if self._stream is not None:
            self._stream.abort()
            self._stream.close()
            self._stream = None

    def _fill(self, asked: Any, count: int, time: Any, status: Any) -> None:
        """Give PortAudio what it asks for; in its thread."""
        now_ns = clock.monotonic_ns()
        heard_ns = now_ns + round((time.outputBufferDacTime - time.currentTime) * 1e9)
        filled = 0
        with self._lock:
            self._report = heard_ns, self._played
            while filled < count and self._blocks:
                block = self._blocks.popleft()
                if len(block) > count - filled:
                    self._blocks.appendleft(block[count - filled :])
                    block = block[: count - filled]
                asked[filled : filled + len(block)] = block
                filled += len(block)
            self._queued -= filled
            self.underrun_count += filled < count and self._begun
            self._played += count
        asked[filled:] = 0.0
