"""What a client needs to dial: its options, the trust they stand for, and errors in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from echostream.errors import (
    CloseCode,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    RpcError,
    Status,
    TransportError,
)
from echostream.session.chains import NO_CHAINS, Chains
from echostream.transport.base import Address

if TYPE_CHECKING:
    from os import PathLike

    from echostream.config import Limits
    from echostream.transport.tls import ClientTls

__all__ = ("DialOptions", "check_dialled", "client_tls", "refused", "too_late")


class DialOptions(NamedTuple):
    """Options that travel through the ways of discovery unchanged."""

    timeout: float
    engine: str
    limits: Limits | None
    credentials: str | None
    early_data: bool
    chains: Chains = NO_CHAINS
    """The client's middleware."""


def check_dialled(address: Address) -> None:
    """Refuse an address that only a server can use.

    Raises:
        ConfigurationError: it stands for all addresses of a machine.
    """
    if address.host in {"0.0.0.0", "::"}:
        raise ConfigurationError(
            "url", f"{address} is where a server listens: dial 127.0.0.1, or its machine's address"
        )


def client_tls(
    address: Address,
    ca: str | PathLike[str] | bytes | None,
    fingerprint: str | Iterable[str] | None,
    *,
    insecure: bool = False,
) -> ClientTls | None:
    """Return the trust decision of a connection; None where the transport needs none. Reads files."""
    if address.is_in_process:
        return None
    from echostream.transport.tls import ClientTls

    return ClientTls.load(ca=ca, fingerprint=fingerprint, insecure=insecure)


def refused(address: Address, error: ConnectionLostError) -> TransportError | RpcError:
    """The connection was made, and ended before the server's Hello."""
    if error.close_code == CloseCode.UNAUTHENTICATED:
        return RpcError(Status.UNAUTHENTICATED, f"{address}: {error.message}")
    return ConnectError(f"{address} did not let this client in: {error.message}")


def too_late(address: Address, timeout: float, *, answered: bool) -> ConnectError:
    """The time is over; `answered` says whether the connection was made and only the server's Hello did not come."""
    if answered:
        return ConnectError(
            f"{address} answered, but did not let this client in within {timeout:g} s: its authenticate= may be slow,"
            " or another program listens there"
        )
    return ConnectError(
        f"cannot reach {address} within {timeout:g} s: check host and port, that the server runs, and that no firewall"
        " stops UDP"
    )
