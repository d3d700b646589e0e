"""Frames to packets and back: Opus through PyAV, or plain 16-bit samples."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final, Literal, Protocol, get_args

from echostream.audio.samples import FRAME_SAMPLES, Samples, from_s16, to_s16
from echostream.audio.settings import AUDIO_CHANNELS, AUDIO_FRAME_NS, AUDIO_RATE, OPUS_BIT_RATE
from echostream.errors import ConfigurationError

__all__ = ("CODECS", "Codec", "Decoder", "Encoder", "make_decoder", "make_encoder")

Codec = Literal["opus", "pcm"]
CODECS: Final[tuple[Codec, ...]] = get_args(Codec)

_OPUS_DELAY: Final = 312
"""Samples by which what comes out of Opus lies behind what went in: the look-ahead of the encoder (RFC 6716 section
2.1.4) at 48 kHz, which FFmpeg reports as its initial padding."""


class Encoder(Protocol):
    """Makes packets of frames."""

    @property
    def delay_samples(self) -> int:
        """Samples by which a packet's sound lies behind the frame that it was made of."""
        ...

    def encode(self, frame: Samples) -> bytes:
        """Return the packet of one frame of `FRAME_SAMPLES`."""
        ...


class Decoder(Protocol):
    """Makes frames of packets."""

    def decode(self, packet: bytes) -> Samples | None:
        """Return the frame of a packet; None where the packet makes no sense."""
        ...


def make_encoder(codec: str) -> Encoder:
    """Return a new encoder.

    Raises:
        ConfigurationError: there is no codec of that name.
    """
    return OpusEncoder() if _checked(codec) == "opus" else PcmEncoder()


def make_decoder(codec: str) -> Decoder:
    """Return a new decoder.

    Raises:
        ConfigurationError: there is no codec of that name.
    """
    return OpusDecoder() if _checked(codec) == "opus" else PcmDecoder()


class PcmEncoder:
    """Samples as they are, 16 bits each: 1.5 Mbit/s, nothing lost."""

    delay_samples = 0

    def encode(self, frame: Samples) -> bytes:
        return to_s16(frame).tobytes()


class PcmDecoder:
    """The way back."""

    def decode(self, packet: bytes) -> Samples | None:
        return from_s16(packet) if len(packet) == FRAME_SAMPLES * AUDIO_CHANNELS * 2 else None


class OpusEncoder:
    """Opus (RFC 6716) in packets of 10 ms."""

    def __init__(self) -> None:
        self._context = _context("w")
        self._context.bit_rate = OPUS_BIT_RATE
        self._context.options = {"frame_duration": f"{AUDIO_FRAME_NS / 1e6:g}", "application": "audio"}
        self._context.open()
        self._pts = 0

    @property
    def delay_samples(self) -> int:
        return _OPUS_DELAY

    def encode(self, frame: Samples) -> bytes:
        from av.audio.frame import AudioFrame

        made = AudioFrame.from_ndarray(to_s16(frame).reshape(1, -1), format="s16", layout="stereo")
        made.sample_rate, made.time_base, made.pts = AUDIO_RATE, Fraction(1, AUDIO_RATE), self._pts
        self._pts += FRAME_SAMPLES
        return b"".join(bytes(packet) for packet in self._context.encode(made))


class OpusDecoder:
    """The way back."""

    def __init__(self) -> None:
        self._context = _context("r")
        self._context.open()

    def decode(self, packet: bytes) -> Samples | None:
        from av.error import FFmpegError
        from av.packet import Packet

        try:
            frames = self._context.decode(Packet(packet)) if packet else []
        except FFmpegError:
            return None
        if len(frames) != 1 or frames[0].samples != FRAME_SAMPLES:
            return None
        return from_s16(frames[0].to_ndarray())


def _context(mode: Literal["r", "w"]) -> Any:
    from av.audio.codeccontext import AudioCodecContext

    context: Any = AudioCodecContext.create("libopus", mode)
    context.sample_rate, context.layout, context.format = AUDIO_RATE, "stereo", "s16"
    return context


def _checked(codec: str) -> Codec:
    if codec not in CODECS:
        raise ConfigurationError("codec", f"{codec!r} is unknown, choose {' or '.join(CODECS)}")
    return codec
