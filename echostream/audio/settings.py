"""The form of audio on the wire, and every default and limit of this package, each with its unit and its reason.

They are `echostream/config.py` for those who have the extra ``audio``; nothing else reads them.
"""

__all__ = (
    "AUDIO_BUFFER_SAMPLES",
    "AUDIO_CHANNELS",
    "AUDIO_FRAME_NS",
    "AUDIO_RATE",
    "AUDIO_READ_AHEAD_FRAMES",
    "AUDIO_SILENCE",
    "DEFAULT_CAST_LATENCY",
    "MAX_CAST_LATENCY",
    "MAX_CAST_RECEIVERS",
    "MIN_CAST_LATENCY",
    "OPUS_BIT_RATE",
    "PLAY_INTERVAL",
    "PLAY_REPORT_INTERVAL",
    "PLAY_REPORT_LIFE",
    "RAISE_PATIENCE",
)

AUDIO_RATE = 48_000
"""Samples per second of all audio on the wire: what Opus works with, and what every sound card plays."""

AUDIO_CHANNELS = 2
"""Left and right."""

AUDIO_FRAME_NS = 10_000_000
"""Of sound in one packet: a packet that is lost is hardly heard, and headers stay below a fifth."""

AUDIO_BUFFER_SAMPLES = 9600
"""Samples that wait in a sink at the most, 200 ms: a program that stands still for longer is heard."""

AUDIO_READ_AHEAD_FRAMES = 100
"""Frames that a caster has read ahead of a file, 1 s of them: a slow disk is not heard."""

OPUS_BIT_RATE = 128_000
"""Bits per second of stereo in Opus: transparent for most music, and a packet has 160 bytes."""

DEFAULT_CAST_LATENCY = 0.3
"""Seconds from the stamp of a sample until it is heard: half of them wait in the sink, and the jitter of a good Wi-Fi
fits into the others."""

MIN_CAST_LATENCY = 0.06
"""Seconds, half of them in the sink: a frame that is read, one that is on its way, and a scheduler that is late."""

MAX_CAST_LATENCY = 10.0
"""Seconds: receivers hold so much sound, 1,000 packets."""

MAX_CAST_RECEIVERS = 256
"""Receivers of one cast: each costs a packet in 10 ms."""

PLAY_INTERVAL = 0.01
"""Seconds between two looks at a sink, a frame of sound."""

PLAY_REPORT_INTERVAL = 0.25
"""Seconds between two reports of a receiver to the caster: as often as a person reads numbers."""

PLAY_REPORT_LIFE = 3.0
"""Seconds that a report is shown: twelve times as long as the next one takes. A receiver that was killed is gone then,
long before its connection is given up."""

RAISE_PATIENCE = 10.0
"""Seconds that a caster waits for a moment of silence to raise the latency; then it makes one. Packets that come too
late are holes as well."""

AUDIO_SILENCE = 0.001
"""Loudest sample of a frame, of 1, in which nobody hears that sound is delayed: -60 dB."""
