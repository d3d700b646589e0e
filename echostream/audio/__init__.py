"""Audio in step on several machines: sources, codecs, sinks, `Caster` and `Player`. It needs the extra ``audio``.

Names are imported when they are first used (PEP 562): who receives needs no file formats, and is there sooner.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if missing := [name for name in ("av", "numpy") if find_spec(name) is None]:
    raise ImportError(
        f"echostream.audio needs {' and '.join(missing)}, which comes with an extra: pip install 'echostream[audio]'"
    )

if TYPE_CHECKING:
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

_MODULES = {
    "echostream.audio.caster": ("Caster",),
    "echostream.audio.device": ("DeviceSink",),
    "echostream.audio.messages": ("CastFormat", "CastStatus", "PlayReport"),
    "echostream.audio.player": ("Player",),
    "echostream.audio.sink": ("Sink", "VirtualSink"),
    "echostream.audio.source": ("AudioSource", "FileSource"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'echostream.audio' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
