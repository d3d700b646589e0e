"""Follows a client that moves, and sees whether large packets arrive, for an engine that does too little of it.

RFC 9000 section 8.2.1 wants a lost PATH_RESPONSE answered by another PATH_CHALLENGE, and a client may come back to an
address that it had. An engine that does neither goes on sending to where nobody is any more. To such an engine an
address from which packets keep coming is shown under another name, as if the client had moved once more. It still
validates that the client receives there; only the name of the path is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from echostream.config import QuicSettings
from echostream.transport.sockets import SocketAddress

__all__ = ("BASE_DATAGRAM_BYTES", "MAX_LARGE_LOSSES", "LargePackets", "PathNames", "datagram_bytes", "is_local")

BASE_DATAGRAM_BYTES = 1200
"""UDP payload that every path of QUIC carries (RFC 9000 section 14)."""
MAX_LARGE_LOSSES = 6
"""Times that larger packets were lost, and none arrived in between, until the path is taken to be one that they do not
pass (RFC 9000 section 14.3)."""

_LOCAL_HOSTS = ("127.", "::1", "::ffff:127.")

_RETRY_AFTER = 0.5
"""Seconds that a validation has: several round trips of most paths, few enough for a call to survive."""
_RETRY_RTTS = 3
"""The same in round trips, for slow paths."""
_RETRY_BURSTS = 4
"""Arrivals without which it is not begun again: a stalled client sends seldom, and the answer may be in the next."""
_GIVE_UP_AFTER = 3.0
"""Seconds without a packet on the active path: packets from elsewhere may be forged where the engine looks no more."""
_MAX_TRIALS = 16
"""Addresses remembered, the newest: packets from any may be forged."""


@dataclass(slots=True)
class _Trial:
    """An address that the engine does not send to yet."""

    name: SocketAddress
    bursts: int = 0
    since: float = 0.0
    """When the first of them came."""


def is_local(address: SocketAddress) -> bool:
    """Return whether packets to an address stay on this machine."""
    return address[0].startswith(_LOCAL_HOSTS)


def datagram_bytes(settings: QuicSettings, address: SocketAddress | None) -> int:
    """Return the UDP payload to send to an address, until the path shows that it carries less."""
    if address is not None and is_local(address):
        return max(settings.max_datagram_bytes, settings.local_datagram_bytes)
    return settings.max_datagram_bytes


class PathNames:
    """The addresses of one peer as its engine knows them.

    Args:
        limit: paths beyond the first that the engine can have in the life of a connection.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._known: set[SocketAddress] = set()  # names that took one of these, or were there first
        self._trials: dict[SocketAddress, _Trial] = {}
        self._addresses: dict[SocketAddress, SocketAddress] = {}  # by name, where it is another

    def __bool__(self) -> bool:
        """Whether any name is not the address itself."""
        return bool(self._addresses)

    def name_of(self, address: SocketAddress, active: SocketAddress) -> SocketAddress:
        """Return the name to show for the address that packets come from.

        Args:
            address: where they come from.
            active: the name of the path that the engine sends on.
        """
        trial = self._trials.get(address)
        if trial is not None:
            return trial.name
        self._known.add(active)
        if address != active:
            self._trials[address] = _Trial(address)
            if len(self._trials) > _MAX_TRIALS:
                del self._trials[next(iter(self._trials))]
        return address

    def heard(
        self,
        address: SocketAddress,
        active: SocketAddress,
        *,
        authentic: bool,
        quiet: float,
        rtt: float | None,
        now: float,
    ) -> bool:
        """Note that packets came from an address; False when the engine cannot be made to follow there.

        Args:
            address: where they came from.
            active: the name of the path that the engine sends on, after it took them.
            authentic: whether the engine knew any of them for the peer's; it may not look where it has no path left.
            quiet: seconds since anything came on the active path.
            rtt: round-trip time in seconds.
            now: any clock, in seconds.
        """
        trial = self._trials.get(address)
        if trial is None:
            return True
        if trial.name == active:
            self._admit(trial.name)
            trial.bursts = 0
            return True
        if authentic:
            self._admit(trial.name)
        elif trial.name in self._known or self._left:
            return True
        trial.bursts += 1
        if trial.bursts == 1:
            trial.since = now  # the challenge goes out now
        if trial.bursts < _RETRY_BURSTS or now - trial.since < max(_RETRY_AFTER, _RETRY_RTTS * (rtt or 0.0)):
            return True
        if self._left:
            trial.name, trial.bursts = self._invent(address), 0
        elif quiet >= _GIVE_UP_AFTER:
            self._addresses[active] = address  # the last that is said should be heard
            return False
        return True

    def address_of(self, name: SocketAddress) -> SocketAddress:
        """Return the address behind a name."""
        return self._addresses.get(name, name)

    def _admit(self, name: SocketAddress) -> None:
        """Count a path that the engine made."""
        if name not in self._known:
            self._known.add(name)
            self._left -= 1

    def _invent(self, address: SocketAddress) -> SocketAddress:
        name: SocketAddress = (f"100::{len(self._addresses) + 1:x}", 1, 0, 0)  # RFC 6666: nobody has such an address
        self._addresses[name] = address
        return name


class LargePackets:
    """Sees whether large packets arrive, where the engine tells only which are out and how many were lost."""

    def __init__(self) -> None:
        self.lost_count = 0
        """Packets lost at the last look."""
        self.is_suspicious = False
        """Whether a small packet went with the large ones that are out, so that one look more will tell."""
        self._losses = 0  # looks since one arrived at which some had not
        self._out: set[int] = set()

    @property
    def are_lost(self) -> bool:
        """Whether the path seems to carry no large packets."""
        return self._losses >= (1 if self.is_suspicious else MAX_LARGE_LOSSES)

    def look(self, outstanding: Iterable[tuple[int, int, int]], lost_count: int) -> None:
        """Compare with the last look; after each loss, and at any time while suspicious.

        Args:
            outstanding: of each packet that was neither acknowledged nor lost, the number, and the size in bytes.
            lost_count: packets lost since the beginning.
        """
        large = {number for number, size, _ in outstanding if size > BASE_DATAGRAM_BYTES}
        if gone := len(self._out - large):
            if gone > lost_count - self.lost_count:
                self._losses, self.is_suspicious = 0, False
            else:
                self._losses += 1
        self._out, self.lost_count = large, lost_count

    def suspect(self, outstanding: Iterable[tuple[int, int, int]]) -> None:
        """Note what is out now, a small packet among it."""
        self.is_suspicious = True
        self._losses = 0
        self.look(outstanding, self.lost_count)
