"""Servers and clients for one test, made in one line and closed at its end."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from contextlib import AsyncExitStack
from typing import Any

from echostream.client import RpcClient
from echostream.errors import ConfigurationError
from echostream.server import RpcServer
from echostream.testing.host import here
from echostream.testing.memory import join_in_memory
from echostream.testing.network import SimNetwork

__all__ = ("ClientFactory", "ServerFactory")

_numbers = itertools.count(1)


class ServerFactory:
    """``server = await es_server(Orders())``: started, and stopped at the end of the test."""

    def __init__(self, stack: AsyncExitStack, network: SimNetwork | None) -> None:
        self._stack = stack
        self._network = network

    async def __call__(self, *targets: object, url: str | None = None, **options: Any) -> RpcServer:
        """Start a server of these services and functions, or one that you made.

        Args:
            *targets: what to register; or a server that does not run, which is started here instead of where it was
                made for.
            url: where; left out, in memory, or with ``es_network`` on the running host (else a host "server").
            **options: of `RpcServer`.

        Raises:
            ConfigurationError: a server was given with more targets or options, which it was made without.
        """
        _check_inside(self._network, "es_server")
        if self._network is not None and here.get() is None:
            with self._network.host("server"):
                return await self(*targets, url=url, **options)
        if url is None:
            host = here.get()
            url = f"memory://es-server-{next(_numbers)}" if host is None else f"quic://{host.name}:4433"
        given = next((target for target in targets if isinstance(target, RpcServer)), None)
        if given is not None and (len(targets) > 1 or options):
            raise ConfigurationError("es_server", "a server goes alone: register and set its options before")
        server = given or RpcServer(url, **options)
        if given is None:
            server.register(*targets)
        await server.start(url)
        self._stack.push_async_callback(server.stop, grace=0.0)
        return server


class ClientFactory:
    """``client = await es_client(server)``: connected, and closed at the end of the test."""

    def __init__(self, stack: AsyncExitStack, network: SimNetwork | None) -> None:
        self._stack = stack
        self._network = network

    async def __call__(self, server: RpcServer, *, raise_server_exceptions: bool = True, **options: Any) -> RpcClient:
        """Connect to a running server; on the running host, with ``es_network`` and on no host on a host "client".

        Args:
            server: in memory, or anywhere: its certificate is trusted.
            raise_server_exceptions: as in `connect_in_memory`; in memory only.
            **options: of `RpcClient.connect`.
        """
        if inspect.iscoroutine(server):
            server.close()
            raise ConfigurationError("es_client", "got a coroutine, expected a server: await es_server(...)")
        _check_inside(self._network, "es_client")
        if self._network is not None and here.get() is None:
            with self._network.host("client"):
                return await self(server, raise_server_exceptions=raise_server_exceptions, **options)
        url = server.addresses[0]
        if url.startswith("memory:"):
            client, unexpected = await join_in_memory(
                server, raise_server_exceptions=raise_server_exceptions, **options
            )
            self._stack.push(lambda kind, _error, _traceback: unexpected.raise_rest() if kind is None else None)
        else:
            options.setdefault("fingerprint", server.fingerprint)
            client = await RpcClient.connect(url, **options)
        self._stack.push_async_callback(client.close)
        return client


def _check_inside(network: SimNetwork | None, name: str) -> None:
    """Raise ConfigurationError when a test's network is there and the caller runs on a loop of its own."""
    if network is not None and asyncio.get_running_loop() is not network.loop:
        raise ConfigurationError(
            name,
            "called outside the simulation, as an async fixture is: let the fixture return an async function that"
            " calls it, and await that in the test",
        )
