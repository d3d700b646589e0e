"""Changes inputs by chance, with a seed: what fuzzes where atheris is not installed. It does not see coverage."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

__all__ = ("mutations",)

_TELLING: Final = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", bytes(8), b"\x00\x00\x00\x0a")
_MOST_STEPS: Final = 6


def mutations(inputs: list[bytes], *, seed: int, max_bytes: int = 4096) -> Iterator[bytes]:
    """Yield changed inputs without end."""
    source = random.Random(seed)
    while True:
        data = bytearray(source.choice(inputs))
        for _ in range(source.randint(1, _MOST_STEPS)):
            source.choice(_WAYS)(data, source, inputs)
        yield bytes(data[:max_bytes])


def _flip(data: bytearray, source: random.Random, _inputs: list[bytes]) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _set(data: bytearray, source: random.Random, _inputs: list[bytes]) -> None:
    if data:
        data[source.randrange(len(data))] = source.randrange(256)


def _insert(data: bytearray, source: random.Random, _inputs: list[bytes]) -> None:
    at = source.randint(0, len(data))
    data[at:at] = source.choice(_TELLING) if source.random() < 0.5 else source.randbytes(source.randint(1, 8))


def _delete(data: bytearray, source: random.Random, _inputs: list[bytes]) -> None:
    at = source.randint(0, len(data))
    del data[at : at + source.randint(1, 16)]


def _repeat(data: bytearray, source: random.Random, _inputs: list[bytes]) -> None:
    at = source.randint(0, len(data))
    piece = data[at : at + source.randint(1, 64)]
    data[at:at] = piece * source.randint(1, 4)


def _splice(data: bytearray, source: random.Random, inputs: list[bytes]) -> None:
    other = source.choice(inputs)
    start = source.randint(0, len(other))
    at = source.randint(0, len(data))
    data[at:at] = other[start : start + source.randint(1, 128)]


def _cut(data: bytearray, source: random.Random, _inputs: list[bytes]) -> None:
    del data[source.randint(0, len(data)) :]


_WAYS: Final = (_flip, _set, _set, _insert, _delete, _repeat, _splice, _splice, _cut)
