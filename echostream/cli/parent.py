"""A child that ends when the process that started it is no more, killed with -9 or not."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ("LIFELINE", "end_with_parent")

LIFELINE = "ECHOSTREAM_LIFELINE"
"""Environment variable with the descriptor of a pipe whose other end only the parent of ``--reload`` holds."""


def end_with_parent(descriptor: int, ending: signal.Signals) -> None:
    """Send this process a signal once a pipe ends, into which nothing is ever written."""

    def wait() -> None:
        os.read(descriptor, 1)
        os.kill(os.getpid(), ending)

    threading.Thread(target=wait, daemon=True, name="echostream-parent").start()
