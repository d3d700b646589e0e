"""A UDP relay between one client and a server, which can lose everything or move to another port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit


class Relay:
    """Use as `async with Relay(server_url) as relay:` and dial `relay.url`."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._client: tuple[str, int] | None = None
        self.is_silent = False
        """Lose every packet."""
        self.mtu = 65_535
        """Lose larger packets."""
        self.from_client: list[bytes] = []
        self.from_server: list[bytes] = []
        self.passed: list[tuple[bool, bytes]] = []
        """All of them in order: from the client?, the packet."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(lambda: _End(self._to_server), local_addr=("127.0.0.1", 0))
        host, port = self._front.get_extra_info("sockname")
        self.url = f"quic://{host}:{port}"
        await self._open_back()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._front.abort()
        self._back.abort()
        await asyncio.sleep(0)

    async def rebind(self) -> None:
        """Reach the server from another port, as behind a router that forgot."""
        self._back.abort()
        await self._open_back()

    def inject(self, packet: bytes) -> None:
        """Send the server a packet as if from the client."""
        self._back.sendto(packet)

    def inject_back(self, packet: bytes) -> None:
        """Send the client a packet as if from the server."""
        self._front.sendto(packet, self._client)

    async def _open_back(self) -> None:
        self._back, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _End(self._to_client), remote_addr=self._server
        )

    def _to_server(self, data: bytes, address: tuple[str, int]) -> None:
        self._client = address
        self.from_client.append(data)
        self.passed.append((True, data))
        if not self.is_silent and len(data) <= self.mtu:
            self._back.sendto(data)

    def _to_client(self, data: bytes, address: tuple[str, int]) -> None:
        self.from_server.append(data)
        self.passed.append((False, data))
        if not self.is_silent and len(data) <= self.mtu and self._client is not None:
            self._front.sendto(data, self._client)


class _End(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, tuple[str, int]], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received(data, addr)
