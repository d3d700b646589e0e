"""``--workers``: a parent that holds the ports, and children that serve on them; one that dies is started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import typer

from echostream.cli.console import FAILED, Misuse, fail, stop_signals
from echostream.cli.worker import Inheritance
from echostream.transport.base import Address
from echostream.transport.sockets import describe_error
from echostream.types import clock

if TYPE_CHECKING:
    from echostream.server import RpcServer
    from echostream.settings import ServeSettings
    from echostream.transport.quic.sharing import PortShare

__all__ = ("serve_with_workers",)

_log = logging.getLogger("echostream.cli")

_STEADY: Final = 5.0
"""Seconds after which the end of a worker says nothing about the next one's."""
_MAX_FAILURES: Final = 5
"""Ends in a row before it was steady, and the program gives up: it would never serve."""
_FIRST_PAUSE: Final = 0.1
"""Seconds before a worker that was not steady is started again; each time four times as long, 8.5 s in all."""
_KILL_AFTER: Final = 2.0
"""Seconds that a worker has beyond its grace until it is killed."""


async def serve_with_workers(server: RpcServer, settings: ServeSettings) -> None:
    """Serve in several processes on the same ports until Ctrl-C or SIGTERM.

    Args:
        server: as it was loaded here; each worker loads its own.
        settings: those of ``echostream serve``.

    Raises:
        Misuse: this system or an address knows no workers.
        ConnectError: an address cannot be bound.
        ConfigurationError: the certificate is unusable.
        typer.Exit: a worker ended again and again.
    """
    addresses = _addresses(server)
    await asyncio.to_thread(getattr, server, "fingerprint")  # a certificate that is made is made once
    ports = await _share(addresses, settings.workers)
    stop = asyncio.Event()
    workers = [
        _Worker(number, {url: shares[number] for url, shares in ports.items()}, settings, stop)
        for number in range(settings.workers)
    ]
    _log.info("= %d workers for %s", len(workers), ", ".join(ports))
    with stop_signals(stop.set):
        given_up = await asyncio.gather(*(worker.keep() for worker in workers))
    for share in (share for shares in ports.values() for share in shares):
        share.close()
    if reason := next(filter(None, given_up), None):
        fail(reason)
        raise typer.Exit(FAILED)


def _addresses(server: RpcServer) -> list[Address]:
    from echostream.transport.quic.sharing import CAN_SHARE

    if not CAN_SHARE:
        raise Misuse(f"--workers needs Linux, this is {sys.platform}: run several servers on ports of their own")
    for url in server.urls:
        if not url.startswith("quic://"):
            raise Misuse(f"{url} exists in one process only: --workers takes quic:// addresses")
    return [Address.parse(url) for url in server.urls]


async def _share(addresses: Sequence[Address], count: int) -> dict[str, list[PortShare]]:
    from echostream.transport.quic.transport import share_port

    ports: dict[str, list[PortShare]] = {}
    for address in addresses:
        bound, shares = await share_port(address, count)
        ports[str(bound)] = shares
    return ports


class _Worker:
    """Keeps one process serving.

    Args:
        number: from 0.
        shares: what it has of the ports, by URL.
        settings: what it does.
        stop: set when all are to end; it is set here when this one cannot serve.
    """

    def __init__(
        self, number: int, shares: Mapping[str, PortShare], settings: ServeSettings, stop: asyncio.Event
    ) -> None:
        self._number = number
        self._shares = shares
        self._settings = settings
        self._stop = stop

    async def keep(self) -> str | None:
        """Start the process, again when it ends, until `stop`; return why it is no longer tried, if so."""
        failures = 0
        while not self._stop.is_set():
            began = clock.monotonic()
            how = await self._live()
            if self._stop.is_set():
                break
            failures = failures + 1 if clock.monotonic() < began + _STEADY else 0
            if failures == _MAX_FAILURES:
                self._stop.set()
                return f"worker {self._number} ended {failures} times right after its start, the last time {how}"
            pause = _FIRST_PAUSE * 4 ** (failures - 1) if failures else 0.0
            _log.error("! worker %d ended %s: started again", self._number, how)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
        return None

    async def _live(self) -> str:
        """Run the process to its end; return how it ended."""
        try:
            process = await self._start()
        except OSError as error:  # no memory, too many processes
            return f"before it began ({describe_error(error)})"
        await self._watch(process)
        return _describe(process.returncode)

    async def _start(self) -> Process:
        told: Inheritance = {
            "number": self._number,
            "ports": {url: share.descriptors for url, share in self._shares.items()},
            "settings": self._settings.model_dump(mode="json") | {"workers": 1},
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "echostream.cli.worker",
            stdin=PIPE,
            pass_fds=[descriptor for descriptors in told["ports"].values() for descriptor in descriptors],
            start_new_session=True,  # Ctrl-C is for this process, which tells the others
        )
        if process.stdin is not None:
            process.stdin.write(json.dumps(told).encode() + b"\n")  # and stays open as long as this process lives
        _log.info("= worker %d is process %d", self._number, process.pid)
        return process

    async def _watch(self, process: Process) -> None:
        """Wait until the process has ended; end it when all are to."""
        waits = [asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if process.returncode is None:
            await _end(self._number, process, self._settings.grace + _KILL_AFTER)


async def _end(number: int, process: Process, patience: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(patience):
            await process.wait()
    except TimeoutError:
        _log.warning("! worker %d did not stop within %g s and is killed", number, patience)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"
