"""TLS session tickets (RFC 8446 section 4.6.1): what a client keeps to connect again, what a server takes back, once.

A resumed handshake shows no certificate, so a client's ticket is kept under the trust decision of the connection it
came with, together with that connection's certificates, which are checked again before each use. Both sides keep
tickets in memory only: a server's is a number for what it remembers, not an encrypted state, so there is no key to
rotate or to lose, a ticket is good once (RFC 8446 section 8.1), and a server that starts again asks for all again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from echostream.config import QuicSettings
from echostream.errors import CertificateError
from echostream.transport.tls import ClientTls
from echostream.types import clock

__all__ = ("ClientTickets", "Resumption", "ServerTickets", "client_tickets")

_MAX_TICKET_BYTES: Final = 1024
"""A longer ticket is not kept: with it the first packets of a client would be more than one datagram or two."""


@dataclass(slots=True, eq=False)
class _Origin:
    """The connection that a ticket came with."""

    chain: tuple[bytes, ...] = ()
    greeting: object | None = None


@dataclass(slots=True, eq=False)
class _Kept:
    """A ticket of a client."""

    ticket: Any
    allows_early_data: bool
    origin: _Origin
    expires_at: float


class ClientTickets:
    """The tickets of the servers that were dialled from one event loop, the newest of each first in use."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Hashable, list[_Kept]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def put(self, key: Hashable, kept: _Kept, settings: QuicSettings) -> None:
        """Keep a ticket; the oldest go above the limits."""
        tickets = self._by_key.setdefault(key, [])
        tickets.append(kept)
        del tickets[: -settings.max_tickets_per_server]
        self._by_key.move_to_end(key)
        while len(self._by_key) > settings.max_ticket_servers:
            self._by_key.popitem(last=False)

    def take(self, key: Hashable, now: float) -> _Kept | None:
        """Return the newest ticket and forget it: each is used once."""
        tickets = self._by_key.get(key)
        kept = tickets.pop() if tickets else None
        if not tickets or (kept is not None and kept.expires_at <= now):  # the others are older
            self._by_key.pop(key, None)
        return kept if kept is not None and kept.expires_at > now else None

    def forget(self, key: Hashable) -> None:
        """Forget all tickets of a server."""
        self._by_key.pop(key, None)


_of_loops: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, ClientTickets]] = WeakKeyDictionary()


def client_tickets() -> ClientTickets:
    """Return the tickets of the running event loop: they need no lock, and a simulation has its own."""
    return _of_loops.setdefault(asyncio.get_running_loop(), ClientTickets())


@dataclass(slots=True, eq=False)
class Resumption:
    """What one dial does with tickets: offers one it has, keeps those it gets.

    Args:
        tickets: where they are kept.
        server: engine and address.
        tls: the trust decision.
        server_name: what the certificate was checked for.
        settings: limits and lifetime.
        early_data: whether data may travel before the handshake is done.
    """

    tickets: ClientTickets
    server: Hashable
    tls: ClientTls
    server_name: str
    settings: QuicSettings
    early_data: bool = False
    ticket: Any = None
    """The engine's ticket to offer, or None."""
    chain: tuple[bytes, ...] = ()
    """The certificates of the connection that the ticket came with."""
    greeting: object | None = None
    """What the level above remembered about that connection; None: nothing, and then no early data."""
    _key: Hashable = field(init=False)
    _origin: _Origin = field(default_factory=_Origin)
    _untrusted: list[_Kept] = field(default_factory=list[_Kept])

    def __post_init__(self) -> None:
        self._key = self.server, self.server_name, self.tls.decision

    def choose(self) -> None:
        """Take a ticket that may be used: one whose certificates would pass today."""
        key = self._key
        if self.tls.shows_again:
            self.tickets.forget(key)
        kept = self.tickets.take(key, clock.monotonic())
        if kept is None:
            self.decline()
            return
        try:
            self.tls.verify(kept.origin.chain, self.server_name)
        except CertificateError:  # a full handshake says what is wrong now, if it still is
            self.tickets.forget(key)
            self.decline()
            return
        self.ticket, self.chain = kept.ticket, kept.origin.chain
        self.greeting = kept.origin.greeting
        self.early_data = self.early_data and kept.allows_early_data and self.greeting is not None

    def decline(self) -> None:
        """Do a full handshake."""
        self.ticket, self.early_data = None, False

    def keep(self, ticket: Any, identity: bytes, *, allows_early_data: bool) -> None:
        """Keep a ticket of the server; one that comes before `trust` waits for it."""
        if len(identity) > _MAX_TICKET_BYTES or not self.settings.max_tickets_per_server:
            return
        expires_at = clock.monotonic() + self.settings.ticket_lifetime
        kept = _Kept(ticket, allows_early_data, self._origin, expires_at)
        if self._origin.chain:
            self.tickets.put(self._key, kept, self.settings)
        else:
            self._untrusted.append(kept)
            del self._untrusted[: -self.settings.max_tickets_per_server]

    def trust(self, chain: tuple[bytes, ...]) -> None:
        """The server's certificates passed, those of a resumed handshake again."""
        self._origin.chain = chain
        for kept in self._untrusted:
            self.tickets.put(self._key, kept, self.settings)
        self._untrusted.clear()

    def greet(self, greeting: object) -> None:
        """Remember something with the tickets of this connection, past and coming ones."""
        self._origin.greeting = greeting


class ServerTickets:
    """The tickets that one listener gave out.

    Args:
        settings: limits and lifetime.
        early_data: whether clients may send early data with them.
    """

    def __init__(self, settings: QuicSettings, *, early_data: bool = False) -> None:
        self.early_data = early_data
        self._max_count = settings.max_server_tickets
        self._lifetime = settings.ticket_lifetime
        self._issued: OrderedDict[bytes, tuple[float, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, identity: bytes, ticket: Any) -> None:
        """Remember a ticket; the oldest are forgotten above the limit."""
        self._issued[identity] = clock.monotonic() + self._lifetime, ticket
        while len(self._issued) > self._max_count:
            self._issued.popitem(last=False)

    def redeem(self, identity: bytes) -> Any:
        """Return the ticket of a client that comes back, once; None when it is unknown, used or too old."""
        expires_at, ticket = self._issued.pop(identity, (0.0, None))
        now = clock.monotonic()
        with contextlib.suppress(StopIteration):
            while next(iter(self._issued.values()))[0] <= now:
                self._issued.popitem(last=False)
        return ticket if expires_at > now else None
