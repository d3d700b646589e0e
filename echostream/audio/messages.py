"""What a caster and its receivers say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from echostream.audio.codec import CODECS
from echostream.audio.settings import AUDIO_CHANNELS, AUDIO_FRAME_NS, AUDIO_RATE, MAX_CAST_LATENCY
from echostream.errors import ConfigurationError

__all__ = ("CAST_SERVICE", "CAST_STREAM", "CastFormat", "CastStatus", "PlayReport", "check_format")

CAST_SERVICE = "cast"
"""Name of the service, by which receivers find it on the local network."""

CAST_STREAM = "cast.audio"
"""Name of the stream that a receiver opens; packets come back on it, each with its stamp, and reports go up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CastFormat:
    """What is cast, the same for all receivers."""

    latency_ns: int
    """From the stamp of a sample until it is heard."""
    sample_rate: int = AUDIO_RATE
    channels: int = AUDIO_CHANNELS
    frame_ns: int = AUDIO_FRAME_NS
    """Of sound in each packet."""
    codecs: tuple[str, ...] = CODECS
    """What a receiver may choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayReport:
    """How it goes at one receiver, by its own reckoning."""

    name: str
    codec: str
    state: str
    """``waiting`` for the clock, ``playing`` or ``paused``."""
    session_ns: int
    """When this was so, in session time."""
    offset_ns: float
    """Session time minus local time."""
    drift_ppm: float
    """How much faster the session's clock runs than the local one."""
    bound_ns: float
    """Farthest that the clock may be off."""
    skew_ns: float
    """What is heard minus what should be heard: above 0 this receiver is ahead."""
    speed_ppm: float
    """By how much faster the source is read, to stay in step."""
    device_ppm: float
    """By how much faster than nominal the device plays, by the local clock."""
    buffer_ns: int
    """Of sound that has arrived and has not been heard."""
    lost: int
    """Packets that never came."""
    late: int
    """Packets that came too late to be heard."""
    concealed_ns: int
    """Of sound that was missing when its time came; a pause counts for nothing."""
    underruns: int
    """How often the device had nothing to play."""
    resyncs: int
    """How often the play position had to jump."""
    wanted_ns: int = 0
    """The latency that would do for this receiver, by what it has seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CastStatus:
    """How a cast stands."""

    position: float
    """Seconds of the source that have been sent."""
    duration: float | None
    """Seconds from begin to end; None where that is not known."""
    paused: bool
    volume: float
    receivers: list[PlayReport]
    """The last report of each receiver that has sent one of late."""
    latency: float = 0.0
    """Seconds until what is sent is heard; longer than what was asked for where it was not enough."""


def check_format(told: CastFormat) -> None:
    """Refuse a cast that this side cannot play.

    Raises:
        ConfigurationError: it has another sample rate, other channels or frames than all have here, or waits too long.
    """
    if not 0 < told.latency_ns <= MAX_CAST_LATENCY * 1e9:
        raise ConfigurationError(
            "latency_ns", f"the cast has {told.latency_ns}, at most {MAX_CAST_LATENCY:g} s is played"
        )
    own = CastFormat(latency_ns=told.latency_ns)
    for field in ("sample_rate", "channels", "frame_ns"):
        if getattr(told, field) != getattr(own, field):
            raise ConfigurationError(
                field, f"the cast has {getattr(told, field)}, this version plays {getattr(own, field)} only"
            )
