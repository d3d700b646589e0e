"""Items from standard input, one JSON value a line, without holding up the event loop or the end of the program."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import suppress
from typing import Any, Final

from echostream.cli.values import parse_item
from echostream.introspection.model import Schema

__all__ = ("all_of_stdin", "json_lines", "stdin_is_terminal")

_CHUNK_BYTES: Final = 64 << 10
_QUEUED: Final = 64
"""Lines read ahead of what the network takes."""


def stdin_is_terminal() -> bool:
    """Whether a person would have to type what is read."""
    return _is_open() and sys.stdin.isatty()


def all_of_stdin() -> str:
    """Return standard input to its end; nothing where it is closed."""
    return sys.stdin.read() if _is_open() else ""


async def json_lines(item: Schema | None = None) -> AsyncIterator[Any]:
    """Yield the values of standard input as they come; empty lines are skipped.

    Args:
        item: the type of one; where it is text, a line needs no quotes.

    Raises:
        Misuse: a line is not JSON.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue(_QUEUED)

    def hand_over(line: str | None) -> bool:
        putting = queue.put(line)
        try:
            asyncio.run_coroutine_threadsafe(putting, loop).result()
        except (RuntimeError, futures.CancelledError):  # the loop is closed, or about to be: nobody wants the rest
            putting.close()
            return False
        return True

    def read() -> None:
        with suppress(OSError):  # standard input that cannot be read is at its end
            if not all(map(hand_over, _lines())):
                return
        hand_over(None)

    # A daemon, because nothing ends a read from a terminal; and no executor, whose end the loop would wait for.
    threading.Thread(target=read, daemon=True, name="echostream-stdin").start()
    number = 0
    while (line := await queue.get()) is not None:
        number += 1
        if line.strip():
            yield parse_item(line.strip(), f"standard input, line {number}", item)


def _lines() -> Iterator[str]:
    """Yield lines from the descriptor itself: a buffered reader would be locked when the interpreter ends."""
    if not _is_open():
        return
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # replaced by something without a descriptor
        yield from sys.stdin.buffer.read().decode(errors="replace").splitlines()
        return
    rest = b""
    while chunk := os.read(number, _CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _is_open() -> bool:
    stdin: object = sys.stdin  # None where the program was started with it closed
    return stdin is not None
