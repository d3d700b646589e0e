"""What a server needs around it: its announcement on the network, and the signals that stop it."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from echostream.config import MAX_EARLY_BYTES, Limits
from echostream.errors import ConfigurationError
from echostream.transport.base import Address
from echostream.wiring import EPOCH

if TYPE_CHECKING:
    from echostream.discovery.mdns import Advertiser
    from echostream_derive import ServiceSpec

__all__ = ("Announcement", "check_early_data", "is_local", "make_advertiser", "on_stop_signals")


class Announcement(NamedTuple):
    """What `enable_discovery` was told."""

    name: str | None
    version: str | None
    metadata: Mapping[str, str] | None
    interfaces: Sequence[str] | None


def make_advertiser(
    wanted: Announcement, urls: Sequence[str], services: Mapping[str, ServiceSpec], fingerprint: str
) -> Advertiser:
    """Return what announces a server at its first network address.

    Raises:
        ConfigurationError: there is no address or no name to announce, or something is too large for it.
    """
    from echostream.discovery.interfaces import announced_addresses
    from echostream.discovery.mdns import Advertiser
    from echostream.discovery.service import ServiceInfo
    from echostream.transport.interfaces import local_addresses

    name = wanted.name or next(iter(services), None)
    if name is None:
        raise ConfigurationError("enable_discovery", "give a name: no service is registered to take it from")
    for address in map(Address.parse, urls):
        if address.port is not None:
            info = ServiceInfo.create(
                name,
                addresses=announced_addresses(address.host, local_addresses()),
                port=address.port,
                scheme=address.scheme,
                version=wanted.version or (services[name].version if name in services else ""),
                services=list(services),
                metadata=wanted.metadata,
                fingerprint=fingerprint,
                id=f"{EPOCH:016x}",
            )
            return Advertiser(info, interfaces=wanted.interfaces)
    raise ConfigurationError("enable_discovery", "the server has no network address to announce")


def on_stop_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Callable[[], None]:
    """Call `stop` at the first SIGINT or SIGTERM; a second one gets its usual, sudden meaning back.

    Returns:
        What puts the usual meaning back at once. Where signals cannot be handled (Windows, another thread) nothing
        changes and SIGINT cancels the running task as ever.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def first() -> None:
        restore()
        stop()

    try:
        for number in numbers:
            loop.add_signal_handler(number, first)
    except (NotImplementedError, ValueError, RuntimeError):
        return lambda: None
    return restore


def is_local(address: Address) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return address.scheme == "memory" or ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"


def check_early_data(limits: Limits, *, early_data: bool) -> None:
    """Raise ConfigurationError where early data would be over the limit of what an unknown peer may send."""
    if early_data and limits.max_unauthenticated_bytes < MAX_EARLY_BYTES:
        raise ConfigurationError(
            "early_data",
            f"takes up to {MAX_EARLY_BYTES} bytes before a Hello is accepted: raise max_unauthenticated_bytes from"
            f" {limits.max_unauthenticated_bytes}",
        )
