"""A client of a server in the same program: no sockets, no certificates, and a handler's bug fails the test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from echostream.client import RpcClient
from echostream.config import DEFAULT_CONNECT_TIMEOUT, Limits
from echostream.errors import LocalProtocolError
from echostream.middleware.base import Middleware
from echostream.server import RpcServer

__all__ = ("connect_in_memory", "join_in_memory")

_numbers = itertools.count(1)
_DETAIL: Final = "unexpected"
_MAX_KEPT: Final = 1024


@asynccontextmanager
async def connect_in_memory(
    server: RpcServer,
    *,
    credentials: str | None = None,
    timeout: float = DEFAULT_CONNECT_TIMEOUT,
    limits: Limits | None = None,
    middleware: Sequence[Middleware] = (),
    raise_server_exceptions: bool = True,
) -> AsyncGenerator[RpcClient]:
    """Make a client of a server in this program, for an ``async with`` block: no network, no certificates.

    A server that does not run is started for the block, at a ``memory://`` address instead of its own; one that runs
    must have such an address.

    Args:
        server: with everything registered.
        credentials: what the server's `authenticate` gets.
        timeout: seconds until the server must have let the client in.
        limits: what the session may cost on the client's side.
        middleware: the client's.
        raise_server_exceptions: raise what a handler did not mean to raise, a ``ValueError`` say, where it was called,
            instead of the INTERNAL that a client elsewhere sees. What no call waits for (a listener, a stream) is
            raised at the end of the block. Both ways: also for what the client serves to the server.

    Raises:
        LocalProtocolError: the server runs, and not in memory.
    """
    started = not server.addresses
    if started:
        await server.start(f"memory://in-memory-{next(_numbers)}")
    try:
        client, unexpected = await join_in_memory(
            server,
            credentials=credentials,
            timeout=timeout,
            limits=limits,
            middleware=middleware,
            raise_server_exceptions=raise_server_exceptions,
        )
        try:
            yield client
        finally:
            await client.close()
    finally:
        if started:
            await server.stop(grace=0.0)
    unexpected.raise_rest()


async def join_in_memory(
    server: RpcServer, *, raise_server_exceptions: bool = True, **options: Any
) -> tuple[RpcClient, Unexpected]:
    """Connect to a running server; the caller closes the client, and asks what was raised that nobody waited for."""
    url = next((url for url in server.addresses if url.startswith("memory:")), None)
    if url is None:
        raise LocalProtocolError(
            f"the server runs at {', '.join(server.addresses)}: connect to it there, or do not start it"
        )
    client = await RpcClient.connect(url, **options)
    unexpected = Unexpected()
    session = server.sessions.get(client.session.id)
    if raise_server_exceptions and session is not None:
        session.peer.unexpected = client.session.peer.unexpected = unexpected
    return client, unexpected


class Unexpected:
    """The exceptions of one session's handlers on their way past the wire (`UnexpectedErrors` of the peer)."""

    def __init__(self) -> None:
        self._kept: dict[int, Exception] = {}
        self._count = 0

    def keep(self, error: BaseException | None) -> dict[str, Any]:
        """Keep one; the oldest gives way when nobody takes them."""
        if not isinstance(error, Exception):
            return {}
        if len(self._kept) >= _MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._count += 1
        self._kept[self._count] = error
        return {_DETAIL: self._count}

    def take(self, details: Mapping[str, Any]) -> Exception | None:
        """Return one, for the call that waits for it."""
        return self._kept.pop(details.get(_DETAIL, 0), None)

    def raise_rest(self) -> None:
        """Raise the first that nobody took."""
        for error in self._kept.values():
            raise error
