"""Audio in step on several machines: sources, codecs, sinks, `Caster` and `Player`. It needs the extra ``audio``."""

from __future__ import annotations

from importlib.util import find_spec

if missing := [name for name in ("av", "numpy") if find_spec(name) is None]:
    raise ImportError(
        f"echostream.audio needs {' and '.join(missing)}, which comes with an extra: pip install 'echostream[audio]'"
    )

from echostream.audio.caster import Caster
from echostream.audio.device import DeviceSink
from echostream.audio.messages import CastFormat, CastStatus, PlayReport
from echostream.audio.player import Player
from echostream.audio.sink import Sink, VirtualSink
from echostream.audio.source import AudioSource, FileSource

__all__ = (
    "AudioSource",
    "CastFormat",
    "CastStatus",
    "Caster",
    "DeviceSink",
    "FileSource",
    "PlayReport",
    "Player",
    "Sink",
    "VirtualSink",
)
