"""Where discovery listens and speaks, and which addresses a server announces. No zeroconf in here."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Final

from echostream.errors import ConfigurationError, TransportError

__all__ = ("DEFAULT_INTERFACES", "LOOPBACK", "announced_addresses", "unusable", "usable_interfaces")

log = logging.getLogger("echostream.discovery")

MULTICAST_GROUP: Final = "224.0.0.251"

LOOPBACK: Final = ("127.0.0.1",)

DEFAULT_INTERFACES: Final = ("0.0.0.0", *LOOPBACK)
"""The default interface only, as zeroconf advises (all of them at once goes wrong on many machines), and loopback: a
server on this machine is found whatever happens to the network."""


def announced_addresses(host: str, local: Sequence[str]) -> tuple[str, ...]:
    """Return the addresses to announce for a server that is bound to `host`.

    Args:
        host: the address really bound; ``0.0.0.0`` and ``::`` stand for all of this machine (``::`` with IPv4).
        local: this machine's own addresses; without any, loopback is announced.
    """
    if host == "0.0.0.0":
        return tuple(item for item in local if ":" not in item) or LOOPBACK
    if host == "::":
        return tuple(local) or (*LOOPBACK, "::1")
    return (host,)


def usable_interfaces(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return those to use: the wanted ones, or loopback when the default interface has no multicast.

    zeroconf would find out too, but it leaves a socket open when it does.

    Raises:
        TransportError: one that was named does not work.
        ConfigurationError: it is no list.
    """
    if isinstance(wanted, str):
        raise ConfigurationError("interfaces", f"give a list of addresses: [{wanted!r}]")
    try:
        for address in wanted:
            _try_multicast(address)
    except (OSError, ValueError) as error:
        if tuple(wanted) != DEFAULT_INTERFACES:
            raise unusable(wanted, error) from None
        log.warning("! no multicast on the default interface (%s): only this machine is seen", error)
        return LOOPBACK
    return tuple(wanted)


def unusable(interfaces: Sequence[str], error: Exception) -> TransportError:
    """Build the error that says how to do without these interfaces."""
    return TransportError(
        f"discovery cannot use {', '.join(interfaces)} ({error}): choose other interfaces, or do without it and name "
        'an address: RpcClient.connect("quic://host:4433")'
    )


def _try_multicast(address: str) -> None:
    if ipaddress.ip_address(address).version == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            membership = socket.inet_aton(MULTICAST_GROUP) + socket.inet_aton(address)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
