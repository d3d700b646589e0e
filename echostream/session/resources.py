"""What lives as long as a session or a server: made once, when it is first asked for, and ended in reverse order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any

from echostream.config import RESOURCE_CLOSE_TIMEOUT
from echostream.errors import LocalProtocolError
from echostream.session.context import leave_context

__all__ = ("Resources",)

_log = logging.getLogger("echostream.session")


class Resources:
    """Each has a task of its own, in which it begins and ends: one caller's end is not its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: str) -> None:
        """Make a store; `owner` is said in errors."""
        self._loop = loop
        self._owner = owner
        self._held: dict[Hashable, _Held] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    async def get(self, key: Hashable, make: Callable[[], AbstractAsyncContextManager[Any]]) -> Any:
        """Return the value of a key; the first who asks has it made, and who asks meanwhile waits for it.

        Raises:
            Exception: what making it raised; the next one tries again.
            LocalProtocolError: the owner has ended.
        """
        held = self._held.get(key)
        if held is None:
            if self._closed:
                raise self._ended()
            held = self._held[key] = _Held(self._loop)
            held.task = self._loop.create_task(self._live(key, held, make), name=f"resource of {self._owner}")
        return await asyncio.shield(held.ready)

    async def close(self) -> None:
        """End all of them, the last one made first. Idempotent; none may take longer than `RESOURCE_CLOSE_TIMEOUT`."""
        self._closed = True
        while self._held:
            _, held = self._held.popitem()
            held.ending.set()
            if held.task is None:
                continue
            if not held.ready.done():
                held.task.cancel()
            _, late = await asyncio.wait({held.task}, timeout=RESOURCE_CLOSE_TIMEOUT)
            if late:
                _log.warning("! %s: a clean-up was not done in %g s", self._owner, RESOURCE_CLOSE_TIMEOUT)
                held.task.cancel()
            held.fail(self._ended())  # where its task was cancelled before its first step

    async def _live(self, key: Hashable, held: _Held, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        leave_context()  # it belongs to no call
        try:
            async with make() as value:
                held.ready.set_result(value)
                await held.ending.wait()
        except asyncio.CancelledError:
            held.fail(self._ended())
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code
            if not held.fail(error):
                _log.exception("! %s: a clean-up raised", self._owner)
        finally:
            if self._held.get(key) is held:
                del self._held[key]

    def _ended(self) -> LocalProtocolError:
        return LocalProtocolError(f"{self._owner} has ended, so nothing that lives as long is made any more")


class _Held:
    """One of them."""

    __slots__ = ("ending", "ready", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ready: asyncio.Future[Any] = loop.create_future()
        self.ending = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def fail(self, error: Exception) -> bool:
        """Tell who waits that it cannot be made; False when it has been."""
        if self.ready.done():
            return False
        self.ready.set_exception(error)
        self.ready.exception()  # seen: perhaps nobody waits any more
        return True
