"""``--reload``: a parent that watches the sources and a child that serves; broken sources leave the old one serving."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from echostream.cli.console import stop_signals
from echostream.cli.parent import LIFELINE

if TYPE_CHECKING:
    from echostream.settings import ServeSettings

__all__ = ("serve_and_reload",)

_log = logging.getLogger("echostream.cli")

_CHECK_TIMEOUT: Final = 60.0
"""Seconds that a module may take to load; one that takes longer counts as broken."""

_KILL_AFTER: Final = 2.0
"""Seconds that a child has beyond its grace until it is killed: a reload never hangs on an open connection."""


async def serve_and_reload(settings: ServeSettings, config: Path | None) -> None:
    """Serve in a child, and replace it when a source file changes, until Ctrl-C or SIGTERM.

    The new sources are loaded in a process of their own first. Only when that works is the old child stopped.
    """
    from watchfiles import PythonFilter, awatch

    stop = asyncio.Event()
    folders = settings.reload_dirs or [Path.cwd()]
    _log.info("= watching %s", ", ".join(map(str, folders)))
    child: _Child | None = None
    with stop_signals(stop.set):
        try:
            command = _command(settings, config)
            child = await _Child.start(command)
            async for changes in awatch(*folders, watch_filter=PythonFilter(), stop_event=stop):
                names = sorted({Path(path).name for _, path in changes})
                _log.info("= %s changed", ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""))
                if not await _loads(command):
                    state = "the old one goes on serving" if child.runs else "nothing is served"
                    _log.error("! the new sources cannot be loaded: %s", state)
                    continue
                await child.end(settings.grace)
                child = await _Child.start(command)
        finally:
            if child is not None:
                await child.end(settings.grace)


class _Child:
    """The process that serves."""

    def __init__(self, process: Process, lifeline: int | None = None) -> None:
        self._process = process
        self._lifeline = lifeline
        self._watching = asyncio.ensure_future(self._tell_end())

    @classmethod
    async def start(cls, command: Sequence[str]) -> _Child:
        if os.name == "nt":  # has no descriptors to inherit
            return cls(await asyncio.create_subprocess_exec(*command, env=_environment()))
        theirs, ours = os.pipe()
        try:
            environment = {**_environment(), LIFELINE: str(theirs)}
            process = await asyncio.create_subprocess_exec(*command, env=environment, pass_fds=[theirs])
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(process, ours)

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    async def _tell_end(self) -> None:
        code = await self._process.wait()
        _log.error("! the server ended with exit code %s: nothing is served until a source changes", code)

    async def end(self, grace: float) -> None:
        self._watching.cancel()
        try:
            await self._stop(grace)
        finally:
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None

    async def _stop(self, grace: float) -> None:
        if not self.runs:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace + _KILL_AFTER):
                await self._process.wait()
        except TimeoutError:
            _log.warning("! the old server did not stop within %g s and is killed", grace + _KILL_AFTER)
        finally:
            if self.runs:
                self._process.kill()
                await self._process.wait()


async def _loads(command: Sequence[str]) -> bool:
    process = await asyncio.create_subprocess_exec(*command, "--check", env=_environment())
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT):
            return await process.wait() == 0
    except TimeoutError:
        hint = "does a module run a server when it is imported? Put that below if __name__ == '__main__'"
        _log.error("! loading takes longer than %g s: %s", _CHECK_TIMEOUT, hint)
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _command(settings: ServeSettings, config: Path | None) -> Sequence[str]:
    options = [f"--bind={url}" for url in settings.bind]
    options += [f"--grace={settings.grace}", f"--log-level={settings.log_level}", f"--log-format={settings.log_format}"]
    options += [f"--loop={settings.loop}"]
    options += [f"--log-config={settings.log_config}"] if settings.log_config is not None else []
    options += ["--factory"] if settings.factory else []
    options += [f"--name={settings.name}"] if settings.name is not None else []
    options += [f"--config={config}"] if config is not None else []
    return [sys.executable, "-m", "echostream", "serve", str(settings.app), *options]


def _environment() -> dict[str, str]:
    """Return the environment of a child: it must not read that it should reload, or have workers."""
    return {**os.environ, "ECHOSTREAM_RELOAD": "false", "ECHOSTREAM_WORKERS": "1"}
