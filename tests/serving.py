"""A server and clients of it in one line, and the check that nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from echostream import RpcClient, RpcServer, Session
from echostream.types import random_bytes

PATIENCE = 10.0
"""Seconds until a test that waits for something gives up."""

QUIC = "quic://127.0.0.1:0"

ENGINE = os.environ.get("ECHOSTREAM_TEST_ENGINE", "auto")
"""QUIC engine of every server and client that a test does not choose one for."""


def memory_url() -> str:
    """An address of its own for every server."""
    return f"memory://test-{random_bytes(6).hex()}"


@asynccontextmanager
async def served(*targets: object, url: str | None = None, **options: Any) -> AsyncGenerator[RpcServer]:
    """A running server."""
    server = RpcServer(url or memory_url(), **{"engine": ENGINE} | options)
    server.register(*targets)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace=0.0)


@asynccontextmanager
async def joined(server: RpcServer, **options: Any) -> AsyncGenerator[RpcClient]:
    """A client of a running server."""
    url = server.addresses[0]
    if url.startswith("quic"):
        options.setdefault("ca", "dev")
    async with RpcClient.connect(url, **{"engine": ENGINE} | options) as client:
        yield client


@asynccontextmanager
async def linked(
    *targets: object, url: str | None = None, **options: Any
) -> AsyncGenerator[tuple[RpcServer, RpcClient]]:
    """A running server and a client of it."""
    async with served(*targets, url=url, **options) as server, joined(server) as client:
        yield server, client


def session_of(server: RpcServer, client: RpcClient) -> Session:
    """The server's end of a client's session."""
    session = server.sessions.get(client.session.id)
    assert session is not None
    return session


async def until(condition: Any) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def open_sockets() -> set[str]:
    """The sockets of this process, where the system tells."""
    found: set[str] = set()
    for path in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # the folder's own descriptor
            found.add(str(path.readlink()))
    return {item for item in found if item.startswith("socket:")}


def open_timers() -> int:
    """The timers of the running loop that still wait to fire."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not timer.cancelled() for timer in scheduled)


@contextmanager
def nothing_left(*, but_timers: bool = False) -> Generator[None]:
    """Assert that the block leaves no task, socket or timer behind; a server around it may set timers meanwhile."""
    tasks, sockets, timers = asyncio.all_tasks(), open_sockets(), open_timers()
    yield
    gc.collect()
    assert asyncio.all_tasks() == tasks
    assert open_sockets() == sockets
    assert but_timers or open_timers() == timers
