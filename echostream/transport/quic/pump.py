"""Drives one engine: packets in, packets out, and its one timer. The connection above it guards against its errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from echostream.config import QuicSettings
from echostream.transport.quic.copies import Copies, Datagrams
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.quic.paths import is_local
from echostream.transport.sockets import SocketAddress
from echostream.types import clock

__all__ = ("EnginePump", "PacketOutlet")

logger = logging.getLogger("echostream.transport")

_MAX_ROUNDS = 4
"""Batches one connection may send before others get their turn."""
_TICK = 0.001
"""Seconds to which event loops keep time: while a timer is nearer than this, no other one comes earlier."""


class PacketOutlet(Protocol):
    """Where packets go."""

    @property
    def blocked(self) -> bool:
        """Whether the socket takes nothing now."""
        ...

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None) -> None:
        """Send packets."""

    def send_again(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None) -> None:
        """Send packets that were sent before, and count them."""


class EnginePump:
    """The moving parts between an engine and a socket.

    Args:
        engine: what is driven.
        outlet: where packets go.
        address: where the peer is.
        settings: what of the engine's packets is sent again.
        wake: called when the time given to `arm`, or the engine's own, has come.
    """

    __slots__ = (
        "_also_at", "_copies", "_copy_share", "_loop", "_lost_before", "_outlet", "_postponed", "_settings",
        "_soon", "_timer", "_timer_at", "_wake", "address", "dirty", "engine", "has_answered", "has_datagram",
        "last_words", "left_ns", "source",
    )  # fmt: skip

    def __init__(
        self,
        engine: QuicEngine,
        outlet: PacketOutlet,
        *,
        address: SocketAddress,
        settings: QuicSettings,
        wake: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.address = address
        """Where the peer is now."""
        self.source: bytes | None = None
        """The own address that packets must come from, see `udp.Packet`."""
        self.dirty = True
        """Whether the engine may have something to send."""
        self.has_answered = False
        """Whether the engine ever sent anything."""
        self.last_words = b""
        """The packet that ended the connection, once it was sent."""
        self.left_ns = 0
        """When `transmit_stamped` gave something to the socket, in monotonic nanoseconds."""
        self._copies: Copies | None = None  # from the first loss on
        self.has_datagram = False
        """Whether a QUIC DATAGRAM was given to the engine since the last flight that was looked at."""
        self._copy_share = 0.0
        self._lost_before = 0
        self._settings = settings
        self._outlet = outlet
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._soon = False
        self._postponed = False  # whether the timer fired, and waits for `wake_soon`
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._also_at: float | None = None

    @property
    def is_mute(self) -> bool:
        """Whether what came so far made no sense to the engine: it had no answer."""
        return not self.has_answered and not self._outlet.blocked

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float) -> bool:
        """Give packets to the engine; returns True when the peer moved to another address."""
        self.dirty = True
        self.source = source
        self.engine.receive(datagrams, address, now)
        if address == self.address:
            return False
        before, self.address = self.address, self.engine.peer_address or self.address
        if self.address == before:
            return False
        if self._copies is not None:
            self._copies.moved(now)
        return True

    def transmit(self) -> None:
        """Send what may be sent now, if there may be anything."""
        engine, outlet = self.engine, self._outlet
        if not self.dirty or outlet.blocked:
            return  # blocked it stays dirty: the endpoint comes back when there is room
        self.dirty = False
        for _ in range(_MAX_ROUNDS):
            now = clock.monotonic()
            datagrams = engine.transmit(now)
            if not datagrams:
                return
            self.has_answered = True
            outlet.send(datagrams, self.source)
            if engine.lost_count:
                self._note(datagrams, now)
            if not engine.more:
                return
            if outlet.blocked:
                break
        self.dirty = True

    def transmit_stamped(self) -> None:
        """Send what may be sent now, and note in `left_ns` when: after the engine's work, right before the socket's."""
        engine, now, self.left_ns = self.engine, clock.monotonic(), clock.monotonic_ns()
        if self._outlet.blocked:
            return
        datagrams = engine.transmit(now)
        self.left_ns = clock.monotonic_ns()
        if datagrams:
            self.has_answered = True
            self._outlet.send(datagrams, self.source)
            if engine.lost_count:
                self._note(datagrams, now)
        self.dirty = engine.more
        self.transmit()

    def allow_copies(self, share: float) -> None:
        """Let what may be lost leave again from now on: the handshake is done, which proves the peer's address.

        On one machine nothing does: what looks lost there came late, to a program that had to wait for a processor.

        Args:
            share: bytes of copies to bytes sent, at the most.
        """
        self._copy_share = 0.0 if is_local(self.address) else share
        self._lost_before = self.engine.lost_count

    def send_last(self, *, copies: int = 1) -> None:
        """Send the packet that ends the connection, if there is one; nobody acknowledges it, hence the copies."""
        try:
            datagrams = self.engine.transmit(clock.monotonic())
        except Exception as error:  # noqa: BLE001  # it has ended anyway
            logger.debug("! no last packet: %r", error)
        else:
            if datagrams:
                self.last_words = datagrams[-1][0]
                self._outlet.send(datagrams * copies, self.source)

    def rest(self, now: float) -> bool:
        """Set the timer again and return True if nothing is due, because it was done before the timer fired."""
        due = self._due()
        if self.dirty or due is None or due <= now:
            return False
        if self._timer is None:
            self._set_timer(due, now)
        return True

    def handle_timer(self, now: float) -> None:
        """Let the engine handle what is due, and send again what may be lost."""
        due = self.engine.timer()
        if due is not None and due <= now:
            self.dirty = True
            self.engine.handle_timer(now)
        if self._copies is not None and not self._outlet.blocked:
            again = self._copies.due(now)
            if again:
                self._outlet.send_again(again, self.source)

    def arm(self, at: float | None) -> None:
        """Set the timer to the engine's time or `at`, whichever comes first.

        An earlier timer stays and looks again when it fires, which is cheaper than to move it at every packet.
        """
        self._also_at = at
        now = clock.monotonic()
        if self._timer is not None:
            if self._timer_at <= now + _TICK:
                return
            due = self._due()
            if due is None or self._timer_at <= due:
                return
            self._timer.cancel()
        else:
            due = self._due()
        if due is not None:
            self._set_timer(due, now)

    def wake_soon(self) -> None:
        """Wake in the loop's next turn, if there is still something to send then.

        Until then the application hears what arrived, and what it says to it is flushed.
        """
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._fire_if_dirty)

    def stop(self) -> None:
        """Cancel the timer."""
        self._postponed = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self, datagrams: Datagrams, now: float) -> None:
        if self._copies is None:
            if not self._copy_share or self.engine.lost_count == self._lost_before:
                return
            self._copies = Copies(self.engine, self._copy_share, self._settings)
        self._copies.note(datagrams, now, is_reliable=not self.has_datagram)
        self.has_datagram = False

    def _due(self) -> float | None:
        """Return when something is to be done next."""
        due, also = self.engine.timer(), self._also_at
        if due is None or (also is not None and also < due):
            due = also
        if self._copies is not None:
            also = self._copies.timer()
            if due is None or (also is not None and also < due):
                due = also
        return due

    def _set_timer(self, due: float, now: float) -> None:
        if not self.engine.paced:
            due = max(due, now + _TICK)  # uvloop would fire at once, again and again until it is time
        self._timer_at = due
        self._timer = self._loop.call_later(max(0.0, due - now), self._fire)

    def _fire_if_dirty(self) -> None:
        self._soon = False
        if self.dirty or self._postponed:
            self._postponed = False
            self._wake()

    def _fire(self) -> None:
        self._timer = None
        if self._soon:  # an acknowledgement that is due goes along with what is said right now
            self._postponed = True
        else:
            self._wake()
