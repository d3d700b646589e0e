"""The thread of a relay: watches sockets, and calls back at times that it keeps to a tenth of a millisecond.

An asyncio loop is up to a millisecond late, because that is what the system's wait rounds to; this one sleeps short
when something is nearly due, and turns for the rest.
"""

from __future__ import annotations

import contextlib
import heapq
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from echostream.types import clock

__all__ = ("RelayLoop",)

_COARSE: Final = 0.002
"""Seconds before something is due from which on the system's wait is too coarse."""
_SPIN: Final = 0.0003
"""Seconds from which on even a short sleep is."""
_NAP: Final = 0.0001


class RelayLoop:
    """Use it from its own thread, but for `start`, `stop` and `call_from_outside`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._posted: deque[Callable[[], None]] = deque()
        self._is_running = False
        self._failure: BaseException | None = None
        self._waker, self._wakee = socket.socketpair()
        for end in (self._waker, self._wakee):
            end.setblocking(False)
        self.watch(self._wakee, self._woken)
        self._thread = threading.Thread(target=self._run, name="echostream-relay", daemon=True)

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller runs in it."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Begin."""
        self._is_running = True
        self._thread.start()

    def stop(self, *, timeout: float) -> None:
        """End the thread.

        Raises:
            TimeoutError: something in it takes longer than `timeout` seconds.
        """
        if self._failure is None:
            self.call_from_outside(self._finish)
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the relay's thread did not end within {timeout:g} s")

    def close(self) -> None:
        """Release what it holds, after `stop`; raises what ended the thread before that."""
        self._selector.close()
        self._waker.close()
        self._wakee.close()
        if self._failure is not None:
            raise self._failure

    def call_from_outside(self, callback: Callable[[], None]) -> None:
        """Call from the loop's thread, soon; raises what ended it before."""
        if self._failure is not None:
            raise self._failure
        self._posted.append(callback)
        with contextlib.suppress(BlockingIOError):  # it is woken anyway
            self._waker.send(b"\0")

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call at a time of `clock.monotonic`."""
        self._count += 1
        heapq.heappush(self._due, (when, self._count, callback))

    def call_later(self, after: float, callback: Callable[[], None]) -> None:
        """Call in some seconds."""
        self.call_at(clock.monotonic() + after, callback)

    def watch(
        self, sock: socket.socket, readable: Callable[[], None] | None, writable: Callable[[], None] | None = None
    ) -> None:
        """Call when a socket may be read or written; with neither, no longer."""
        events = (selectors.EVENT_READ if readable else 0) | (selectors.EVENT_WRITE if writable else 0)
        known = sock in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, (readable, writable))
        else:
            self._selector.register(sock, events, (readable, writable))

    def _run(self) -> None:
        try:
            while self._is_running:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - raised by stop()
            self._failure = error

    def _turn(self) -> None:
        rest = self._due[0][0] - clock.monotonic() if self._due else None
        if rest is None or rest > _COARSE:
            self._poll(None if rest is None else rest - _COARSE)
            return
        self._poll(0)
        now = clock.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        if rest > _SPIN:
            time.sleep(_NAP)

    def _poll(self, timeout: float | None) -> None:
        for key, events in self._selector.select(timeout):
            readable, writable = key.data
            if events & selectors.EVENT_READ and readable is not None:
                readable()
            if events & selectors.EVENT_WRITE and writable is not None:
                writable()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakee.recv(4096)
        while self._posted:
            self._posted.popleft()()

    def _finish(self) -> None:
        self._is_running = False
