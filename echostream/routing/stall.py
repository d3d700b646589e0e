"""Finding the handler that blocks the event loop: every step of it is timed."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

from echostream.types import Clock

__all__ = ("watched",)

_log = logging.getLogger("echostream.routing")

T = TypeVar("T")

_STALL_SECONDS: Final = 0.1
"""One step longer than this is logged: everybody else on the loop has waited for it."""


@types.coroutine
def watched(
    coroutine: Coroutine[Any, Any, T], name: str, clock: Clock, finish: Callable[[T], T] | None = None
) -> Generator[Any, Any, T]:
    """Run a coroutine as `await` does, and log each step that holds the loop for over 0.1 s.

    Returns:
        Its result, or what `finish` makes of it.
    """
    now = clock.monotonic
    value: Any = None
    error: BaseException | None = None
    while True:
        start = now()
        try:
            waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            if (seconds := now() - start) > _STALL_SECONDS:
                _warn(seconds, name)
            result: T = stop.value
            return result if finish is None else finish(result)
        if (seconds := now() - start) > _STALL_SECONDS:
            _warn(seconds, name)
        try:
            value = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine, as `await` does
            error = thrown
        else:
            error = None


def _warn(seconds: float, name: str) -> None:
    _log.warning(
        "! handler %s held the event loop for %.0f ms: await something, or mark it @handler(thread=True)",
        name,
        seconds * 1000,
    )
