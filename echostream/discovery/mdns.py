"""Multicast DNS by zeroconf: what the advertiser and the browser share (RFC 6762, RFC 6763).

The modules ``mdns*.py`` alone import zeroconf, and only when it is used. A server is one instance of
``_echostream._udp.local.`` with the list of its services in the TXT record, so that a search for any of them finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from echostream.discovery.interfaces import unusable

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

__all__ = ("HOST_TTL", "OTHER_TTL", "SERVICE_TYPE", "close_zeroconf", "open_zeroconf")

SERVICE_TYPE: Final = "_echostream._udp.local."

HOST_TTL: Final = 120
"""Seconds that others keep addresses and ports: RFC 6762 section 10."""

OTHER_TTL: Final = 1200
"""Seconds that others keep a server's name: the least that zeroconf's cache observes is 1125."""


def open_zeroconf(interfaces: Sequence[str], *, unicast: bool = False) -> AsyncZeroconf:
    """Open the sockets.

    Raises:
        TransportError: they cannot be opened.
    """
    from zeroconf.asyncio import AsyncZeroconf

    try:
        return AsyncZeroconf(interfaces=list(interfaces), unicast=unicast)
    except (OSError, RuntimeError) as error:
        raise unusable(interfaces, error) from None


async def close_zeroconf(zeroconf: AsyncZeroconf) -> None:
    """Release the sockets."""
    await zeroconf.async_close()
    await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop
