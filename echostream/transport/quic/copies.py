"""Small flights sent again on a path that loses packets, before the engine finds out what was lost.

A flight is what leaves at once. Where little is sent, no later packet shows the engine that one was lost, and its
probe timeout (RFC 9002 section 6.2) allows for the slowest of peers. So while losses are seen, the same packets leave a
second time: after a part of the round trip as far as the budget reaches, and when their acknowledgement is overdue. The
peer drops what it has, by the packet number (RFC 9000 section 12.3). Sans-IO: knows packets and the engine, no socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from echostream.config import QuicSettings
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.sockets import SocketAddress

__all__ = ("Copies", "Datagrams")

Datagrams = Sequence[tuple[bytes, SocketAddress]]

_UDP_IP_BYTES: Final = 28
"""Around each datagram, which cost the path as well."""
_LEAST_BYTES: Final = 48
"""Of a flight: a frame of the application has 14 bytes, its packet some 30 around it; less is an acknowledgement."""
_EARLY: Final = 1 / 8
"""Of the round trip, after which a copy leaves in any case: what loses a packet often loses the next one, too."""
_OVERDUE: Final = 1 + 1 / 8
"""Round trips after which an acknowledgement is overdue, as in RFC 9002 section 6.1.2."""
_SLACK: Final = 0.002
"""Seconds on top of it: an engine waits 1 ms before it acknowledges, and a loop keeps time to 1 ms."""
_MAX_LATE: Final = 3
"""Copies of one flight whose acknowledgement is overdue, a round trip apart; then the engine's probes have begun."""
_PROVING: Final = 3.0
"""Seconds after a move in which the new address is not proven (RFC 9000 section 8.2.4), at a usual round trip: until
then it gets no more than the engine allows."""


@dataclass(slots=True)
class _Flight:
    """What left at once, and may have to leave again."""

    due: float
    datagrams: Datagrams
    numbers: frozenset[int]
    """Of its packets that are to be acknowledged."""
    size: int
    """With IP headers."""
    late: int = -1
    """Late copies so far; -1 before the early one."""


class Copies:
    """The copies of one connection.

    Args:
        engine: whose packets they are.
        share: bytes of copies to bytes sent, at the most.
        settings: what is small, and for how long a loss counts.
    """

    __slots__ = (
        "_burst", "_engine", "_flights", "_left", "_lost", "_max_packets", "_memory", "_newest", "_paused_until",
        "_share", "_tokens",
    )  # fmt: skip

    def __init__(self, engine: QuicEngine, share: float, settings: QuicSettings) -> None:
        self._engine = engine
        self._share = share
        self._max_packets = settings.copy_flight_packets
        self._memory = settings.copy_after_loss_packets
        self._burst = self._tokens = float(settings.copy_burst_bytes)
        self._lost = 0
        self._left = 0  # packets for which the last loss still counts
        self._newest = -1
        self._flights: deque[_Flight] = deque()
        self._paused_until = 0.0

    def note(self, datagrams: Datagrams, now: float, *, is_reliable: bool = True) -> None:
        """Look at a flight that has left right now; what was sent to be lost rather than late leaves once."""
        engine = self._engine
        if engine.lost_count != self._lost:
            self._lost = engine.lost_count
            self._left = self._memory
        if self._left <= 0:
            return
        if not is_reliable:
            self._newest = max(engine.unacknowledged(), default=self._newest)
            return
        self._left -= len(datagrams)
        size = sum(len(data) for data, _ in datagrams) + _UDP_IP_BYTES * len(datagrams)
        self._tokens = min(self._burst, self._tokens + self._share * size)
        rtt = engine.rtt
        if len(datagrams) > self._max_packets or engine.more or rtt is None or now < self._paused_until:
            return
        if size < _LEAST_BYTES + _UDP_IP_BYTES or datagrams[0][0][0] & 0x80:  # or one of the handshake
            return
        if engine.has_unsent():  # more follows, and shows what was lost
            return
        numbers = [number for number in engine.unacknowledged() if number > self._newest]
        if numbers and engine.window_room() >= size:
            self._newest = max(numbers)
            self._flights.append(_Flight(now + rtt * _EARLY, datagrams, frozenset(numbers), size))

    def moved(self, now: float) -> None:
        """The peer has another address: nothing more goes to the last one, and little to the new one."""
        self._flights.clear()
        self._paused_until = now + max(_PROVING, 10 * (self._engine.rtt or 0.0))

    def timer(self) -> float | None:
        """Return when `due` wants to be called."""
        return min((flight.due for flight in self._flights), default=None)

    def due(self, now: float) -> Datagrams:
        """Return the packets that are to leave again now."""
        flights, self._flights = self._flights, deque()
        waiting: frozenset[int] | None = None
        found: list[tuple[bytes, SocketAddress]] = []
        for flight in flights:
            if flight.due > now:
                self._flights.append(flight)
                continue
            if waiting is None:
                waiting = frozenset(self._engine.unacknowledged())
            if not flight.numbers & waiting:
                continue  # arrived, or given up by the engine, which sends it again by itself
            if flight.late >= 0:
                self._left = self._memory  # as good as a loss
            elif self._engine.has_unsent():
                continue  # has followers now: it was the end of a piece of a transfer that goes on
            # Early copies leave the late ones, which are worth more, half of the budget.
            if self._tokens >= flight.size + (self._burst / 2 if flight.late < 0 else 0):
                self._tokens -= flight.size
                found += flight.datagrams
            self._watch_on(flight, now)
        return found

    def _watch_on(self, flight: _Flight, now: float) -> None:
        rtt = self._engine.rtt
        flight.late += 1
        if flight.late < _MAX_LATE and rtt is not None:
            flight.due = now + rtt * (_OVERDUE if flight.late else _OVERDUE - _EARLY) + _SLACK
            self._flights.append(flight)
