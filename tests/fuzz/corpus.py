"""The inputs that every run begins with, kept as hexadecimal lines: seeds that a command makes, and what once failed.

``python -m tests.fuzz.corpus`` writes the seeds anew; a test holds them to what it would write.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

__all__ = ("TARGETS", "kept", "regressions", "seed_text", "target", "write")

TARGETS: Final = {
    "codec": tuple(f"echostream.protocol.{name}" for name in ("codec", "reader", "payload")),
    "peer": tuple(
        f"echostream.protocol.{name}"
        for name in (
            *("peer", "calls", "streams", "pieces", "link", "flow", "early", "hello", "outbox", "account", "datagrams"),
        )
    ),
    "demux": tuple(
        f"echostream.transport.quic.{name}" for name in ("demux", "endpoint", "acceptor", "former", "resets")
    ),
}
"""Target: the modules that it is about, whose branches its corpus must reach."""

_HERE: Final = Path(__file__).parent


def target(name: str) -> ModuleType:
    """Return the module of a target, with `run` and `seeds`."""
    return import_module(f"tests.fuzz.target_{name}")


def kept(name: str) -> list[tuple[str, bytes]]:
    """Return (name, input) of all that is kept for a target."""
    return _read(_HERE / "corpus" / f"{name}.txt") + regressions(name)


def regressions(name: str) -> list[tuple[str, bytes]]:
    """Return (name, input) of what once failed."""
    return _read(_HERE / "crashes" / f"{name}.txt")


def seed_text(name: str) -> str:
    """Return what the file of seeds must hold."""
    return "".join(f"{title}: {data.hex()}\n" for title, data in target(name).seeds())


def write(name: str) -> Path:
    """Write the file of seeds of a target."""
    path = _HERE / "corpus" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(seed_text(name), "utf-8")
    return path


def _read(path: Path) -> list[tuple[str, bytes]]:
    if not path.exists():
        return []
    lines = [line.rpartition(": ") for line in path.read_text("utf-8").splitlines()]
    return [(title, bytes.fromhex(data)) for title, _, data in lines]


if __name__ == "__main__":
    for each in TARGETS:
        print(write(each))
