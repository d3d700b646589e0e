"""WORKERS: what a second process behind the same port brings: `echostream serve --workers 2` against `--workers 1`.

Four connections from one client process, the same number at each worker. Where the client shares the cores with the
workers, as on a machine of two, small calls gain little: the client takes a core all the same. Calls that compute gain.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from benches.core import Contender, Figures, Plan, Row, compare, contest
from benches.load import drive
from benches.worker import Round
from echostream import RpcClient, RpcServer, handler, service

ID = "WORKERS"

_CLIENTS: Final = 4
_TRIES: Final = 64
"""Connections made until each worker has its share: they go where chance sends them."""
_IN_FLIGHT: Final = 64
_TIMEOUT: Final = 10.0
_WORK: Final = {"small calls": 1, "calls that compute 1 ms": 4000}
"""Rounds of a hash in each call."""


@service("bench.workers")
class Work:
    @handler
    async def compute(self, rounds: int) -> bytes:
        return digest(rounds)

    @handler
    async def process(self) -> int:
        return os.getpid()


def digest(rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", b"work", b"salt", rounds)


server = RpcServer("quic://127.0.0.1:0")
server.register(Work())


@asynccontextmanager
async def serve(workers: int, rounds: int) -> AsyncIterator[dict[str, Any]]:  # the rounds are the client's
    command = [sys.executable, "-m", "echostream", "serve", f"{__name__}:server", "--workers", str(workers)]
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stderr=PIPE)
    try:
        url = ""
        for _ in range(workers):
            url = await _next_address(process)
        draining = asyncio.create_task(process.stderr.read())  # type: ignore[union-attr]
        yield {"url": url}
        process.terminate()
        await draining
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _next_address(process: asyncio.subprocess.Process) -> str:
    log = ""
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode():
        log += line
        if found := re.search(r"serving at (quic://\S+)", line):
            return found[1]
    raise OSError(f"echostream serve ended: {log}")


@asynccontextmanager
async def connect(workers: int, rounds: int, url: str) -> AsyncIterator[Round]:
    expected = digest(rounds)
    async with AsyncExitStack() as stack:
        services = await _spread(url, workers, stack)

        async def call(number: int) -> bool:
            return await services[number % _CLIENTS].compute(rounds) == expected

        async def measure(*, seconds: float) -> Figures:
            return await drive(call, in_flight=_IN_FLIGHT, seconds=seconds)

        yield measure


async def _spread(url: str, workers: int, stack: AsyncExitStack) -> list[Work]:
    """Connect until each worker has the same number of connections."""
    each = _CLIENTS // workers
    found: defaultdict[int, list[Work]] = defaultdict(list)
    for _ in range(_TRIES):
        client = await RpcClient.connect(url, ca="dev")
        work = client.proxy(Work, timeout=_TIMEOUT)
        process = await work.process()
        if len(found[process]) == each:
            await client.close()
            continue
        stack.push_async_callback(client.close)
        found[process].append(work)
        if sum(map(len, found.values())) == _CLIENTS:
            return [work for works in zip(*found.values(), strict=True) for work in works]
    raise OSError(f"{_TRIES} connections reached {len(found)} of {workers} workers")


def measure(plan: Plan) -> Iterator[Row]:
    for what, rounds in _WORK.items():
        two, one = (
            Contender(
                f"{count} worker{'s' * (count > 1)}",
                f"{__name__}:serve",
                f"{__name__}:connect",
                options={"workers": count, "rounds": rounds},
            )
            for count in (2, 1)
        )
        results = contest([two, one], plan)
        row = Row(ID, f"{what}, {_CLIENTS} connections, {os.cpu_count()} cores", unit="calls/s")
        yield compare(row, {two.name: results[two.name]}, {one.name: results[one.name]}, "rate")
