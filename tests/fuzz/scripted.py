"""What stands around an endpoint that is fuzzed: an event loop whose time the fuzzer moves, and scripted engines.

No cryptography runs: the last byte of a packet says what its engine reports.
"""

from __future__ import annotations

import heapq
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from echostream.config import ALPN
from echostream.testing.loop import SimClock
from echostream.transport.quic.demux import CONNECTION_ID_BYTES
from echostream.transport.sockets import SocketAddress

__all__ = ("OF_ENGINES", "VERSIONS", "Engine", "Engines", "Loop", "Port", "Receiver", "SlowClock", "Socket")

VERSIONS: Final = (1, 0x6B3343CF)


class Loop:
    """As much of an event loop as connections need; the target moves its time."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._later: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()

    def call_soon(self, call: Callable[..., Any], *args: Any) -> Timer:
        return self.call_later(0.0, call, *args)

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        timer = Timer(call, args)
        heapq.heappush(self._later, (self._clock.monotonic() + delay, next(self._count), timer))
        return timer

    def run(self, seconds: float) -> None:
        """Let time pass, and do what becomes due."""
        end = self._clock.monotonic() + seconds
        if not seconds and (not self._later or self._later[0][0] > end):
            return
        for _ in range(10_000):
            if not self._later or self._later[0][0] > end:
                break
            due, _, timer = heapq.heappop(self._later)
            self._clock.advance(max(0.0, due - self._clock.monotonic()) + 1e-9)  # a turn takes time, as in SimLoop
            timer.run()
        else:
            raise AssertionError("timers spin")
        self._clock.advance(max(0.0, end - self._clock.monotonic()))

    @property
    def waiting(self) -> int:
        return sum(timer.call is not None for _, _, timer in self._later)


class SlowClock(SimClock):
    """A clock that goes on a little whenever it is read, as one of a busy machine does."""

    def monotonic_ns(self) -> int:
        self.now_ns += 100_000
        return self.now_ns


class Timer:
    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.call: Callable[..., Any] | None = call
        self._args = args

    def cancel(self) -> None:
        self.call = None

    def run(self) -> None:
        call, self.call = self.call, None
        if call is not None:
            call(*self._args)


OF_ENGINES: Final = (b"answer", b"close")


class Engine:
    """Does what the last bytes of its packets say."""

    more = paced = False
    has_news = True
    lost_count = 0
    peer_chain = ()
    resumed = False
    rtt = None
    max_datagram_payload_bytes = 0

    def __init__(self, ids: Iterator[int], address: SocketAddress | None) -> None:
        self._ids = ids
        self.connection_id = self._fresh_id()
        self.peer_address = address
        self._issued = [self.connection_id]
        self.retired: set[bytes] = set()
        self._reports: list[int] = []
        self._packets: list[bytes] = []
        self._is_done = False

    def datagram_room(self) -> int:
        return 0

    def _fresh_id(self) -> bytes:
        return next(self._ids).to_bytes(CONNECTION_ID_BYTES, "big")

    def receive(self, datagrams: Sequence[bytes], address: SocketAddress, now: float) -> None:
        self.peer_address = self.peer_address or address
        for data in datagrams:
            self._reports.append(data[-1] & 0x0F)
            if data[-1] & 0x80:
                self.peer_address = address
            if data[-1] & 0x40:
                self._packets.append(b"answer")

    def deliver(self, sink: Any) -> None:
        reports, self._reports = self._reports, []
        for report in reports:
            match report:
                case 1 | 2 if not self._is_done:
                    self._is_done = True
                    sink.on_handshake(ALPN if report == 1 else None)
                case 3:
                    self._issued.append(self._fresh_id())
                    sink.on_connection_id(self._issued[-1], issued=True)
                case 4 if self._issued:
                    self.retired.add(self._issued[0])
                    sink.on_connection_id(self._issued.pop(0), issued=False)
                case 5 | 6:
                    sink.on_closed(application=report == 5, code=3000, reason="bye", by_peer=True)
                case 7:
                    raise ArithmeticError("the engine is broken")
                case 8:
                    sink.on_stream_data(0, b"data", False)
                case _:
                    pass

    def transmit(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        packets, self._packets = self._packets, []
        return [(packet, self.peer_address) for packet in packets if self.peer_address is not None]

    def receive_reset(self, data: bytes, address: SocketAddress, now: float) -> bool:
        return data.endswith(b"\x05" * 16)

    def timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None:
        """Nothing is due."""

    def has_undelivered(self) -> bool:
        return False

    def unsent_bytes(self, stream_id: int) -> int:
        return 0

    def fail(self, code: int, reason: str) -> None:
        self._packets.append(b"close")

    close = fail


class Engines:
    versions = VERSIONS

    def __init__(self, *, needs_retry: bool) -> None:
        self.needs_retry = needs_retry
        self.ids = itertools.count(1 << 40)

    def acceptor(self, tls: Any, *_more: Any) -> Callable[..., Engine]:
        return self._accept

    def _accept(self, original: bytes, _retry: bytes | None) -> Engine:
        if original.startswith(b"\xfe"):
            raise ArithmeticError("no engine can be made")
        return Engine(self.ids, None)

    def retry_packet(
        self, *, version: int, source: bytes, destination: bytes, original_destination: bytes, token: bytes
    ) -> bytes:
        head = struct.pack("!BIB", 0xF0, version, len(destination)) + destination + bytes([len(source)]) + source
        return head + token + bytes(16)


class Socket:
    """Notes what is sent."""

    dropped_count = 0

    def __init__(self) -> None:
        self.blocked = False
        self.closed = False
        self.sent: list[tuple[bytes, SocketAddress]] = []

    def send(self, datagrams: Sequence[tuple[bytes, SocketAddress]], source: bytes | None = None) -> None:
        assert not self.closed or not datagrams, "sent on a closed socket"
        self.sent += datagrams

    def close(self) -> None:
        self.closed = True


class Port:
    """A port of the simulator whose socket is ours."""

    def __init__(self, sock: Any) -> None:
        self._socket = sock

    def attach(self, _handler: Any, **_options: Any) -> Any:
        return self._socket

    getsockname = getpeername = lambda self: ("192.0.2.9", 443)

    def close(self) -> None:
        """Nothing to release."""


class Receiver:
    """An application that hears of the end of its connection exactly once."""

    def __init__(self, open_now: set[Receiver]) -> None:
        self._open = open_now
        self._open.add(self)

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        assert self in self._open

    def burst_ended(self) -> None:
        assert self in self._open

    def closed(self, reason: Any) -> None:
        self._open.remove(self)
