"""What a server needs around it: the signals that stop it, and a check of its options."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from echostream.config import MAX_EARLY_BYTES, Limits
from echostream.errors import ConfigurationError

__all__ = ("check_early_data", "on_stop_signals", "until_stopped")


async def until_stopped(stopped: asyncio.Event) -> None:
    """Wait for SIGINT, SIGTERM or the event, whichever comes first."""
    interrupted = asyncio.Event()
    restore = on_stop_signals(asyncio.get_running_loop(), interrupted.set)
    waits = [asyncio.ensure_future(event.wait()) for event in (interrupted, stopped)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        restore()
        for wait in waits:
            wait.cancel()


def on_stop_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Callable[[], None]:
    """Call `stop` at the first SIGINT or SIGTERM; a second one gets its usual, sudden meaning back.

    Returns:
        What puts the usual meaning back at once. Where signals cannot be handled (Windows, another thread) nothing
        changes and SIGINT cancels the running task as ever.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def first() -> None:
        restore()
        stop()

    try:
        for number in numbers:
            loop.add_signal_handler(number, first)
    except (NotImplementedError, ValueError, RuntimeError):
        return lambda: None
    return restore


def check_early_data(limits: Limits, *, early_data: bool) -> None:
    """Raise ConfigurationError where early data would be over the limit of what an unknown peer may send."""
    if early_data and limits.max_unauthenticated_bytes < MAX_EARLY_BYTES:
        raise ConfigurationError(
            "early_data",
            f"takes up to {MAX_EARLY_BYTES} bytes before a Hello is accepted: raise max_unauthenticated_bytes from"
            f" {limits.max_unauthenticated_bytes}",
        )
