"""Two ends of one connection, and the check that nothing is left of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from echostream import Limits, RpcClient, RpcServer, Session
from echostream.session.peer import Peer
from tests.serving import QUIC, joined, served, session_of

__all__ = ("ALL_WAYS", "BOTH", "MS", "Duo", "Gate", "duo", "frozen", "left_of", "numbers")

MS = 0.001
"""Tests that have to wait for time wait for a few of these."""

BOTH = pytest.mark.parametrize("scheme", ["memory", "quic"])
"""Run over both transports."""

ALL_WAYS = pytest.mark.parametrize(("scheme", "way"), [("memory", "up"), ("memory", "down"), ("quic", "up")])
"""Run with the client calling and with the server calling, and over both transports."""


@dataclass
class Duo:
    """A server and its one client; `here` calls what `there` serves."""

    server: RpcServer
    client: RpcClient
    here: Session
    there: Session


@asynccontextmanager
async def duo(
    *targets: object,
    scheme: str = "memory",
    way: str = "up",
    limits: Limits | None = None,
    there_limits: Limits | None = None,
    **options: Any,
) -> AsyncGenerator[Duo]:
    """Connect two ends, of which one calls and one serves `targets`; nothing may be left of them.

    Args:
        targets: what the far end serves.
        scheme: ``memory``, ``pipe`` or ``quic``.
        way: ``up``, the client calls, or ``down``, the server does.
        limits: of the end that calls.
        there_limits: of the end that serves.
        options: of the server.
    """
    up = way == "up"
    ends: list[Session] = []
    try:
        async with (
            served(
                *(targets if up else ()),
                url={"quic": QUIC, "pipe": "pipe://world"}.get(scheme),
                limits=there_limits if up else limits,
                **options,
            ) as server,
            joined(server, limits=limits if up else there_limits) as client,
        ):
            ends += [client.session, session_of(server, client)]
            if not up:
                client.register(*targets)
            here, there = ends if up else reversed(ends)
            yield Duo(server, client, here, there)
    finally:
        for end in ends:
            left = left_of(end)
            assert not left, f"{end} still holds {left}"


def left_of(session: Session) -> dict[str, int]:
    """Count what a session, and what it shares with others, still holds; empty when all is tidy."""
    peer, runtime = session.peer, session.runtime
    counts = {
        "tasks": len(session.tasks),
        "calls": len(session.calls),
        "shared tasks": len(runtime.tasks),
        "deadlines": len(runtime.deadlines) - _own_deadlines(peer),
        "outgoing": len(peer.protocol.calls.outgoing),
        "incoming": len(peer.protocol.calls.incoming),
        "streams": len(peer.protocol.streams.streams),
        "unacknowledged": len(peer.protocol._unacknowledged),
        "owners": len(peer.protocol.link.owners),
        "writers and openers": len(peer._waiters),
        "callers": peer.places.waiting,
        "promised places": peer.places._promised,
        "large bytes": peer.large.claimed_bytes,
        "probes": len(peer.probes),
        "acknowledgements": len(session.events._acks),
    }
    return {name: count for name, count in counts.items() if count}


def _own_deadlines(peer: Peer) -> int:
    """Count those of the connection itself."""
    return peer.backlog.is_watched + (peer.due.at < math.inf) + (peer.stamping is not None and peer.lost is None)


class Gate:
    """Where a handler waits until the test lets it go on, and where the test waits for the handler."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.left = asyncio.Event()
        self.cancelled = False

    async def pass_through(self) -> None:
        """Wait until the gate is opened."""
        self.reached.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.left.set()


async def numbers(count: int) -> AsyncIterator[int]:
    """Give 0, 1, ..."""
    for number in range(count):
        yield number


@contextmanager
def frozen(ends: Duo) -> Generator[None]:
    """Let nothing that `here` sends over ``memory://`` arrive during the block."""
    connection: Any = ends.here.peer.connection
    carry, asked = connection._carry, list[bool]()
    connection._carry = lambda: asked.append(True)
    try:
        yield
    finally:
        del connection._carry
        if asked or connection._carrier is not None:  # it is due, even where the loop has not come to it
            carry()
