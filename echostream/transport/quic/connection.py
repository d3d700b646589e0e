"""One QUIC connection as the transport interface has it: streams, watermarks, what the endpoint and the engine call.

The endpoint feeds it packets. How it begins and ends is in `life.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from echostream.config import Limits, QuicSettings
from echostream.transport.base import Beat, TransportInfo
from echostream.transport.quic.codes import TransportCode
from echostream.transport.quic.engine import QuicEngine
from echostream.transport.quic.life import Admit, ConnectionLife, QuicLink, Refused, State
from echostream.transport.sockets import SocketAddress, format_address
from echostream.types import clock

__all__ = ("QuicConnection",)

_QUIET = 0.5
"""Seconds without a packet after which a client that waits for one looks around: no interval for PINGs is shorter."""


class QuicConnection(ConnectionLife):
    """An engine with a socket.

    Args:
        engine: with its first flight ready (client) or before its first packet (server).
        link: the endpoint.
        address: where the peer is.
        settings: timeouts.
        limits: watermarks.
        keepalive: whether this side keeps the connection alive (the client does).
        admit: called when the handshake is done; returns the receiver, or raises to refuse the peer.
        refused: called instead of `Receiver.closed` when the connection ends before it was admitted.
        refusal: why the peer is turned away after its first packet, or None.
        early_data: whether a server takes data before the handshake is done.
    """

    info = TransportInfo(scheme="quic", multiplexed=True, datagrams=True, secure=True)
    _beat: Beat | None = None
    _wants_stamps = False  # of the class: few ever do

    def __init__(
        self,
        engine: QuicEngine,
        link: QuicLink,
        *,
        address: SocketAddress,
        settings: QuicSettings,
        limits: Limits,
        keepalive: bool,
        admit: Admit,
        refused: Refused,
        refusal: str | None = None,
        early_data: bool = False,
    ) -> None:
        super().__init__(
            engine, link, address=address, settings=settings, admit=admit, refused=refused, refusal=refusal
        )
        self._high, self._low = limits.high_watermark_bytes, limits.low_watermark_bytes
        self._copy_share = limits.copy_share
        self._takes_early_data = early_data
        self._keepalive = settings.keepalive_interval if keepalive else None
        self._above: dict[int, int] = {}  # streams whose writers wait for `writable`: until so much is unsent
        self._notice: asyncio.Handle | None = None
        self._last_active = clock.monotonic()

    def __repr__(self) -> str:
        return f"<QuicConnection {self.peer_address} {self._state.name}>"

    # Connection

    def open_stream(self, *, unidirectional: bool = False) -> int | None:
        if self._state is not State.OPEN:
            return None
        return self._engine.open_stream(unidirectional=unidirectional)

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> bool:
        if self._state is not State.OPEN:
            return True
        self._pump.dirty = True
        if self._engine.send(stream_id, data, fin=fin) <= self._high:
            return True
        self._above.setdefault(stream_id, self._low)
        return False

    def sent(self, stream_id: int) -> bool:
        if self.unsent_bytes(stream_id):
            self._above[stream_id] = 0
            self.flush()
        return stream_id not in self._above

    def flush(self) -> None:
        if not self._pump.dirty or self._state is not State.OPEN:
            return
        self._guard(self._pump.transmit)
        if not self._in_burst:  # in a burst its end does the rest, once
            self._guard(self._look_after)
            if self._above and self._notice is None:  # not from within the writer's own call
                self._notice = asyncio.get_running_loop().call_soon(self._notify_later)

    def unsent_bytes(self, stream_id: int) -> int:
        return self._engine.unsent_bytes(stream_id) if self._state is State.OPEN else 0

    def has_undelivered(self) -> bool:
        return self._state is State.OPEN and self._engine.has_undelivered()

    def acknowledged(self) -> object:
        return self._engine.acknowledged()

    def reset_stream(self, stream_id: int, code: int) -> None:
        if self._state is State.OPEN:
            self._pump.dirty = True
            self._above.pop(stream_id, None)
            self._engine.reset(stream_id, code)

    def stop_stream(self, stream_id: int, code: int) -> None:
        if self._state is State.OPEN:
            self._pump.dirty = True
            self._engine.stop(stream_id, code)

    def send_datagram(self, data: bytes) -> bool:
        if self._state is not State.OPEN or not self._engine.send_datagram(data):
            return False
        self._pump.dirty = self._pump.has_datagram = True
        return True

    def send_datagram_now(self, data: bytes) -> int | None:
        if not self.send_datagram(data):
            return None
        self._guard(self._pump.transmit_stamped)
        if not self._in_burst:
            self._guard(self._look_after)
        return self._pump.left_ns

    def keep_alive(self, interval: float, beat: Beat) -> None:
        if self._keepalive is not None:
            self._keepalive, self._beat = max(_QUIET, min(self._keepalive, interval)), beat

    def stamp_arrivals(self, wanted: bool) -> None:
        if wanted is not self._wants_stamps and (self._state is State.OPEN or not wanted):
            self._wants_stamps = wanted
            self._link.stamp(wanted)

    @property
    def max_datagram_payload_bytes(self) -> int:
        return self._engine.max_datagram_payload_bytes if self._state is State.OPEN else 0

    @property
    def datagram_room_bytes(self) -> int:
        return self._engine.datagram_room() if self._state is State.OPEN else 0

    @property
    def rtt(self) -> float | None:
        return self._engine.rtt

    # Driven by the endpoint

    def receive(
        self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float, arrived_ns: int
    ) -> None:
        """Take packets of one wake-up; `finish` follows when all were handed out."""
        self._last_active = now
        self.arrived_ns = arrived_ns
        self._guard(self._receive, datagrams, address, source, now)

    def hand_up(self) -> None:
        """Hand up what arrived so far, before packets with another time of arrival follow."""
        if self._refusal is None:
            self._guard(self._deliver)

    def finish(self) -> None:
        """End a wake-up: hand up what arrived, let the receiver answer, transmit, set the timer."""
        self._guard(self._finish)

    def resume(self) -> None:
        """Transmit and look after all else: the first flight, after a wake-up, when the socket takes packets again."""
        self._guard(self._resume)

    def moved(self) -> None:
        """Go on from another address, with an id that nobody saw at the last one (RFC 9000 section 9.5)."""
        self._guard(self._change_path)
        self.resume()

    # EngineSink

    def on_handshake(self, protocol: str | None) -> None:
        super().on_handshake(protocol)
        self._pump.allow_copies(self._copy_share)

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if self._state is State.OPEN and self._receiver is not None:
            self._receiver.stream_data(stream_id, data, fin)
        elif self._state is State.HANDSHAKE:
            self._on_early_data(stream_id, data, fin)

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        if self._state is State.OPEN and self._receiver is not None:
            self._receiver.stream_reset(stream_id, code)

    def on_stream_stopped(self, stream_id: int, code: int) -> None:
        self._above.pop(stream_id, None)
        if self._state is State.OPEN and self._receiver is not None:
            self._receiver.stream_stopped(stream_id, code)

    def on_datagram(self, data: bytes) -> None:
        if self._state is State.OPEN and self._receiver is not None:
            self._receiver.datagram(data, self.arrived_ns)

    def on_streams_available(self) -> None:
        if self._state is State.OPEN and self._receiver is not None:
            self._receiver.streams_available()

    def on_connection_id(self, connection_id: bytes, *, issued: bool) -> None:
        if self._state is not State.CLOSED:
            route = self._link.route if issued else self._link.unroute
            route(connection_id, self)

    # Work

    def _on_early_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        """The first data of a client that does not wait for the handshake."""
        if not self._takes_early_data:
            self._refuse(TransportCode.PROTOCOL_VIOLATION, "early data, which this server does not take")
            return
        self.open_early()
        self.on_stream_data(stream_id, data, fin)

    def _receive(self, datagrams: Sequence[bytes], address: SocketAddress, source: bytes | None, now: float) -> None:
        if self._pump.receive(datagrams, address, source, now):
            self.peer_address = format_address(self._pump.address)

    def _deliver(self) -> None:
        self._in_burst = True
        try:
            self._engine.deliver(self)
        finally:
            self._in_burst = False

    def _finish(self) -> None:
        if self._refusal is not None:
            self._refuse(TransportCode.CONNECTION_REFUSED, self._refusal)
        self._in_burst = True
        try:
            self._engine.deliver(self)
            if self._receiver is not None and self._state is State.OPEN:
                self._receiver.burst_ended()
        finally:
            self._in_burst = False
        if self._pump.dirty and self._state is State.OPEN and not self._above:
            self._pump.wake_soon()  # what the application does next may share a packet with the acknowledgement
        elif self._state is not State.CLOSED:
            self._resume()

    def _resume(self) -> None:
        self._pump.transmit()
        self._settle()

    def _settle(self) -> None:
        """After a transmission: writers that may go on, the end of a close, the rest."""
        if self._above and self._state is State.OPEN:
            self._notify()
        if self._state is State.CLOSING and not self._engine.has_undelivered():
            self._leave()
        else:
            self._look_after()

    def _look_after(self) -> None:
        """Learn the connection ids that a transmission issued, and set the timer."""
        if self._engine.has_news:
            outer, self._in_burst = self._in_burst, True
            self._engine.deliver(self)
            self._in_burst = outer
            if self._state is State.CLOSED:
                return
        at = self._deadline
        if self._keepalive is not None and self._state is State.OPEN:  # without a deadline then
            at = self._last_active + self._keepalive
        self._pump.arm(at)

    def _change_path(self) -> None:
        self._engine.change_connection_id()
        self._pump.dirty = True
        self._engine.ping()  # tells the peer

    def _notify_later(self) -> None:
        self._notice = None
        self._guard(self._settle)

    def _notify(self) -> None:
        outer, self._in_burst = self._in_burst, True
        for stream_id, level in tuple(self._above.items()):
            if self._receiver is not None and self._engine.unsent_bytes(stream_id) <= level:
                self._above.pop(stream_id, None)
                self._receiver.writable(stream_id)
        self._in_burst = outer
        self._pump.transmit()

    def _on_timer(self) -> None:
        self._guard(self._tick, clock.monotonic())

    def _tick(self, now: float) -> None:
        if self._deadline is not None and now >= self._deadline:
            self._expire()
            return
        if self._keepalive is not None and self._state is State.OPEN and now >= self._last_active + _QUIET:
            self._link.look_around(now)
            if now >= self._last_active + self._keepalive:
                self._last_active = now
                if self._beat is None or not self._beat(self._receiver):
                    self._pump.dirty = True
                    self._engine.ping()
        if self._pump.rest(now):
            return
        self._pump.handle_timer(now)
        self._pump.transmit()
        self._settle()

    def _ended(self) -> None:
        self._above.clear()
        self.stamp_arrivals(False)
        if self._notice is not None:
            self._notice.cancel()
