"""Fuzz target: packets of many addresses, ids, versions and tokens to one endpoint, of a server or of a client.

Nothing may be raised. The engines are scripted, so no cryptography runs: the last byte of a packet says what its engine
reports. Checked after every step: each id leads to a connection that knows it, the limits hold, no answer to a stranger
is larger than what it sent, every packet is counted; and at the end nothing is left once the handshakes timed out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from echostream.config import Limits, QuicSettings
from echostream.testing.loop import SimClock
from echostream.transport.quic.acceptor import Acceptor
from echostream.transport.quic.connection import QuicConnection
from echostream.transport.quic.demux import LongHeader
from echostream.transport.quic.endpoint import Endpoint
from echostream.transport.sockets import SocketAddress
from echostream.transport.udp import Packet
from echostream.types import clock, simulated
from tests.fuzz.scripted import OF_ENGINES, VERSIONS, Engine, Engines, Loop, Port, Receiver, SlowClock, Socket
from tests.fuzz.source import Script, Source

__all__ = ("run", "seeds")

SETTINGS: Final = QuicSettings(
    max_handshakes=6,
    max_handshakes_per_address=4,
    retry_above_handshakes=3,
    retry_above_rate=4,
    max_retries_per_second=16,
    max_resets_per_second=2,
    max_connections=8,
    max_connections_per_address=6,
)
LIMITS: Final = Limits()
ADDRESSES: Final[tuple[SocketAddress, ...]] = (
    ("192.0.2.1", 4433), ("192.0.2.1", 4434), ("192.0.2.2", 4433), ("198.51.100.7", 1),
    ("2001:db8::1", 4433, 0, 0), ("2001:db8::2", 4433, 0, 0), ("fe80::1%eth0", 4433, 0, 2),
    ("::ffff:192.0.2.1", 9, 0, 0),
)  # fmt: skip
CLIENT, NEEDS_RETRY, UNOPENED, HASTY, SLOW = 1, 2, 4, 8, 16
"""Options: whose endpoint; engines that need a Retry; before it has a socket; closed while connections are open; on a
machine where everything takes its time."""


class _Bugs(logging.Handler):
    """Notes what was caught and logged, but for what the scripted engines and the application raise."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, ArithmeticError | PermissionError):
            self.found.append(error)


class _Scene:
    """One endpoint, what it sent, and the steps of an input."""

    def __init__(self, options: int, clock: SimClock, loop: Loop) -> None:
        self._clock, self.loop = clock, loop
        self.socket = Socket()
        self.receivers: set[Receiver] = set()
        self.acceptor: Acceptor | None = None
        engines: Any = Engines(needs_retry=bool(options & NEEDS_RETRY))
        if options & CLIENT:
            self.endpoint = Endpoint()
            self._dial(engines)
        else:
            self.acceptor = Acceptor(engines, accept=self._accept, tls=None, settings=SETTINGS, limits=LIMITS, **_EXTRA)  # type: ignore[arg-type]
            self.endpoint = self.acceptor.endpoint
        port: Any = Port(self.socket)
        opening = self.endpoint.open(port, SETTINGS, connected=bool(options & CLIENT))
        if options & UNOPENED:
            opening.close()
        else:
            with contextlib.suppress(StopIteration):  # it has nothing to wait for
                opening.send(None)
        self.given = 0
        self.hasty = bool(options & HASTY)
        self._asked = 0
        self._burst: list[Packet] = []
        self._tokens: list[tuple[bytes, bytes]] = []

    def _accept(self, _connection: Any) -> Any:
        self._asked += 1
        if self._asked % 5 == 0:
            raise PermissionError("the application wants no more")
        return Receiver(self.receivers)

    def _dial(self, engines: Any) -> None:
        connection = QuicConnection(
            Engine(engines.ids, ADDRESSES[0]),  # type: ignore[arg-type]
            self.endpoint,
            address=ADDRESSES[0],
            settings=SETTINGS,
            limits=LIMITS,
            keepalive=False,
            admit=lambda connection, _chain: self._accept(connection),
            refused=lambda *_args: None,
        )
        self.endpoint.add(connection, (1 << 40).to_bytes(8, "big"))

    # Steps

    def add(self, data: bytes, address: SocketAddress) -> None:
        self._burst.append((data, address, None))

    def deliver(self) -> None:
        """Give the endpoint what was added, as one burst."""
        burst, self._burst = self._burst, []
        if not burst or self.socket.closed:
            return
        before = len(self.socket.sent)
        self.given += len(burst)
        self.endpoint.received(burst, clock.monotonic_ns())
        self._check_answers(self.socket.sent[before:], burst)

    def initial(self, source: Source) -> None:
        """Add an Initial whose ids, version and token are chosen."""
        address, what, version = self._address(source), source.number(), source.number()
        destination = self._id(source)
        token = b""
        if what & 0x03 == 1 and self._tokens:  # what a Retry gave, which names the id to use, perhaps changed
            destination, token = self._tokens[source.number() % len(self._tokens)]
        elif what & 0x03 == 2:
            token = source.piece()
        first = 0xD0 if version % 4 == 1 else 0xC0 | (what & 0x30)
        number = (*VERSIONS, 0, 0x0A0A0A0A)[version % 4]
        head = struct.pack("!BIB", first, number, len(destination)) + destination + b"\x04SRC1"
        size = 1200 if what & 0x80 else source.number(2) % 1500
        body = max(1, size - len(head) - len(token) - 6)
        middle = struct.pack("!H", 0x4000 | len(token)) + token + struct.pack("!H", 0x4000 | min(body, 0x3FFF))
        self.add((head + middle).ljust(size - 1, b"\0") + source.take(1).rjust(1, b"\0"), address)

    def short(self, source: Source) -> None:
        """Add a packet with a short header."""
        address, destination = self._address(source), self._id(source)
        self.add(b"\x40" + destination + source.piece(), address)

    def long(self, source: Source) -> None:
        """Add a long header of a later packet of a handshake."""
        address, destination = self._address(source), self._id(source)
        head = struct.pack("!BIB", 0xE0, 1, len(destination)) + destination + b"\x04SRC1"
        self.add(head + source.piece(), address)

    def raw(self, source: Source) -> None:
        address = self._address(source)
        self.add(source.piece(), address)

    def close_one(self, source: Source) -> None:
        connections: list[Any] = list(self.endpoint.connections)
        number, how = source.number(), source.number()
        if connections:
            connection = connections[number % len(connections)]
            connection.abort() if how & 1 else connection.close(3000, "done")

    def fail(self, source: Source) -> None:
        self.endpoint.failed(OSError(source.number() or errno.ECONNREFUSED, "reported"))

    def block(self, source: Source) -> None:
        self.socket.blocked = not self.socket.blocked
        self.endpoint.writable()

    def stop_accepting(self, source: Source) -> None:
        if self.acceptor is not None:
            self.acceptor.is_accepting = False

    def _address(self, source: Source) -> SocketAddress:
        return ADDRESSES[source.number() % len(ADDRESSES)]

    def _id(self, source: Source) -> bytes:
        """Return an id: one in use, or any of up to 22 bytes."""
        number = source.number()
        routes = list(self.endpoint._routes)
        if number < 128 and routes:
            return routes[number % len(routes)]
        return bytes([number]) * (source.number() % 23)

    # What must hold

    def _check_answers(self, answers: list[tuple[bytes, SocketAddress]], burst: list[Packet]) -> None:
        for data, address in answers:
            if data in OF_ENGINES:
                continue
            header = LongHeader.parse(data) if data[:1] >= b"\x80" else None
            if header is not None and data[0] & 0xF0 == 0xF0 and header.version in VERSIONS:
                offset = 7 + len(header.destination) + len(header.source)
                self._tokens = [*self._tokens[-7:], (header.source, data[offset:-16])]
            largest = max((len(packet) for packet, to, _ in burst if to == address), default=0)
            assert len(data) <= largest, "an answer to a stranger is larger than what it sent"

    def check(self) -> None:
        endpoint = self.endpoint
        ids = {each: connection for connection, known in endpoint.connections.items() for each in known}
        assert ids == endpoint._routes, "an id leads nowhere, or to the wrong connection"
        connections: list[Any] = list(endpoint.connections)
        assert not any(
            each in connection._engine.retired
            for connection in connections
            for each in endpoint.connections[connection]
        )
        assert endpoint.counters.packets_received == self.given
        assert len(endpoint.connections) <= SETTINGS.max_connections
        assert self.loop.waiting <= 4 * len(endpoint.connections) + 8, "timers pile up"
        if self.acceptor is not None:
            self._check_acceptor(self.acceptor)

    def _check_acceptor(self, acceptor: Acceptor) -> None:
        half_open = acceptor._half_open
        assert set(acceptor._networks) == set(self.endpoint.connections)
        assert half_open <= set(acceptor._networks)
        assert len(half_open) <= SETTINGS.max_handshakes
        counts = acceptor._per_network._counts
        assert counts.total() == len(acceptor._networks)
        assert all(0 < count <= SETTINGS.max_connections_per_address for count in counts.values())
        counts = acceptor._half_open_per_network._counts
        assert counts.total() == len(half_open)
        assert all(0 < count <= SETTINGS.max_handshakes_per_address for count in counts.values())

    def end(self) -> None:
        """Let the handshakes time out, then close."""
        self.deliver()
        self.socket.blocked = False
        if not self.hasty:
            self._time_out()
        self.endpoint.close()
        self.loop.run(1.0)
        self.check()
        assert not self.endpoint.connections
        assert not self.receivers, "a receiver was not told of the end"
        assert not self.loop.waiting
        if self.hasty:
            assert all(count >= 0 for count in self.endpoint.stats().values())

    def _time_out(self) -> None:
        self.loop.run(SETTINGS.handshake_timeout + SETTINGS.close_timeout)
        assert self.acceptor is None or not self.acceptor._half_open, "a handshake goes on for ever"
        self.check()


_EXTRA: Final[dict[str, Any]] = (
    {"reset_key": bytes(32)} if "reset_key" in inspect.signature(Acceptor.__init__).parameters else {}
)

_STEPS: Final[dict[int, Callable[[_Scene, Source], object]]] = {
    0: _Scene.raw,
    1: _Scene.initial,
    2: _Scene.short,
    3: _Scene.long,
    4: lambda scene, source: scene.deliver(),
    5: lambda scene, source: scene.loop.run(source.number(2) / 1000),
    6: _Scene.close_one,
    7: _Scene.fail,
    8: _Scene.block,
    9: _Scene.stop_accepting,
}
"""Operation: step. Numbers stay, so that inputs keep their meaning."""


def run(data: bytes) -> None:
    """Execute one input."""
    source = Source(data)
    options = source.number()
    clock = (SlowClock if options & SLOW else SimClock)(wall=1.7e9)
    loop = Loop(clock)
    logger, bugs = logging.getLogger("echostream.transport"), _Bugs()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(bugs)
    asyncio._set_running_loop(loop)  # type: ignore[arg-type]
    try:
        with simulated(clock, 1):
            scene = _Scene(options, clock, loop)
            while source.left:
                step = _STEPS.get(source.number() & 0x0F)
                if step is not None:
                    step(scene, source)
                    scene.loop.run(0.0)
                    scene.check()
            scene.end()
    finally:
        asyncio._set_running_loop(None)
        logger.removeHandler(bugs)
        logger.propagate = propagate
        logger.setLevel(level)
    assert not bugs.found, bugs.found


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield the first inputs."""
    # The client Initial of RFC 9001 appendix A.2, up to its packet number, and the Retry of appendix A.4.
    first = bytes.fromhex("c000000001088394c8f03e5157080000449e7b9aec34") + bytes(1178)
    retry = bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba")
    for name, packet in (("client Initial", first), ("Retry", retry)):
        yield f"RFC 9001 {name}", bytes(Script([0, 0, 0]).piece(packet) + b"\x04")
        yield f"RFC 9001 {name} to a client", bytes(Script([CLIENT, 0, 0]).piece(packet) + b"\x04")
    new = _initial(200, 9)
    for report in range(12):
        steps = new + bytes([4]) + _short(0, report | 0x40) + b"\x04" + _short(1, report) + b"\x04"
        yield f"accepted, then {report}", bytes([0]) + _initial(200, 0x41) + steps
        yield f"at once {report}", bytes([0]) + _initial(200, report | 0x40) + b"\x04"
        yield f"client, {report}", bytes([CLIENT]) + _short(0, 1) + b"\x04" + _short(0, report | 0xC0) + b"\x04"
    flood = b"".join(_initial(200 + at, 0x40, address=at) for at in range(10)) + b"\x04"
    yield "flood", bytes([0]) + flood
    for name, options in (("server", 0), ("client", CLIENT)):
        yield f"{name} closed in haste", bytes([options | HASTY]) + _initial(200, 0x41) + b"\x04" + _short(0, 0x41)
        yield f"{name} without a socket", bytes([options | UNOPENED]) + flood + _short(0, 0x41) + b"\x04"
    yield "flood on a slow machine", bytes([SLOW]) + flood + flood
    yield "flood on a slow machine, closed in haste", bytes([SLOW | HASTY]) + flood
    yield "the same first packet twice", bytes([0]) + 2 * _initial(200, 0x40) + b"\x04"
    no_engine = bytes([1, 0, 0x80, 0, 0xFE, 9, 0x41])
    yield "no engine can be made", bytes([SLOW]) + (no_engine + _initial(200, 0x41)) * 4 + b"\x04"
    yield "flood, then time", bytes([0]) + flood + bytes([5, 255, 255]) + flood
    back = bytes([1, 0, 0x81, 0, 200, 9, 0, 0x41, 4])
    all_back = b"".join(bytes([1, at + 3, 0x81, 0, 200, 9, at, 0x40]) for at in range(7))
    yield "flood that came back", bytes([0]) + flood + all_back + b"\x04" + _initial(250, 0x40) + b"\x04"
    yield "retry", bytes([NEEDS_RETRY]) + _initial(200, 0x40) + b"\x04" + back
    yield "retry, too late", bytes([NEEDS_RETRY]) + _initial(200, 0x40) + b"\x04" + bytes([5, 255, 255]) + back
    yield "retry from elsewhere", bytes([NEEDS_RETRY]) + _initial(200, 0x40) + b"\x04\x01\x01" + back[2:]
    yield "forged token", bytes([0]) + bytes(Script([1, 0, 0x82, 0, 200, 9]).piece(b"token" * 8)) + bytes([0, 4])
    yield (
        "full",
        bytes([0])
        + 3 * (_initial(200, 0x41) + b"\x04" + _initial(201, 0x41) + b"\x04" + _initial(202, 0x41) + b"\x04"),
    )
    later = bytes([5, 4, 0])  # a second, so that no Retry is asked for
    many = b"".join(_initial(200 + at, 0x41) + b"\x04" + later for at in range(12))
    yield "over the connections of an address", bytes([0]) + many
    yield (
        "over the connections",
        bytes([0]) + b"".join(_initial(200 + at, 0x41, address=at) + b"\x04" + later for at in range(14)),
    )
    again = b"".join(bytes([1, 0, 0x81, 0, 200, 9, at, 0x40]) for at in range(4))
    one = b"".join(_initial(200 + at, 0x40) for at in range(8))
    yield "over the handshakes of an address", bytes([0]) + one + b"\x04" + again + b"\x04"
    strange = bytes([1, 0, 0x80, 3, 200, 9, 0x41]) * 40
    yield "many of an unknown version", bytes([0]) + strange + b"\x04" + one * 4 + b"\x04"
    yield "not accepting", bytes([0, 9]) + new + bytes([4])
    yield "version 2", bytes([0, 1, 0, 0x80, 1, 200, 9, 0x41, 4])
    yield "no version", bytes([0, 1, 0, 0x80, 2, 200, 9, 0x41, 4])
    yield "unknown version", bytes([0, 1, 0, 0x80, 3, 200, 9, 0x41, 4])
    yield "short id", bytes([0, 1, 0, 0x80, 0, 200, 4, 0x41, 4])
    yield "long id", bytes([0, 1, 0, 0x80, 0, 200, 21, 0x41, 4])
    yield "small", bytes([0, 1, 0, 0, 0, 200, 9, 0, 200, 0x41, 4])
    yield "small, of the handshake", bytes(Script([0, 3, 0, 200, 9]).piece(bytes(60)) + b"\x04")
    yield "handshake of nobody", bytes(Script([0, 3, 0, 200, 9]).piece(bytes(1300)) + b"\x04")
    yield "handshake", bytes([0]) + new + b"\x04" + bytes(Script([3, 0, 0]).piece(bytes(60)) + b"\x04")
    yield "unknown ids", bytes([0]) + _short(255, 0) + b"\x04" + bytes([CLIENT])
    yield (
        "client: unknown ids",
        bytes([CLIENT]) + _short(255, 0) + bytes(Script([3, 0, 200, 9]).piece(bytes(60))) + b"\x04",
    )
    for name, options in (("server", 0), ("client", CLIENT)):
        stray = bytes([2, 0, 255, 8]) + bytes(Script().piece(bytes(14) + b"\x05" * 16)) + b"\x04"
        yield f"stateless resets of a {name}", bytes([options]) + stray * 3
    yield "late packets of a closed connection", bytes([0]) + (_initial(200, 0x41) + b"\x04\x06\x00\x01") * 4
    yield (
        "id that was retired",
        bytes([0]) + _initial(200, 0x41) + b"\x04" + _short(0, 3) + b"\x04" + _short(1, 4) + b"\x04" + _RETIRED * 3,
    )
    yield "malformed", bytes([0, 0, 0, 1, 0x40, 0, 0, 9, 0xC0, 0, 0, 0, 1, 9, 9, 9, 9, 4])
    yield (
        "bursts of two",
        bytes([0]) + _initial(200, 0x41) + _initial(201, 0x41, address=2) + _initial(200, 0x41) + b"\x04",
    )
    yield "moves", bytes([0]) + _initial(200, 0x41) + b"\x04" + bytes(Script([2, 3, 0]).piece(b"\0\xc0")) + b"\x04"
    yield (
        "closed and aborted",
        bytes([0]) + many[: len(new) * 3 + 2] + bytes([4, 6, 0, 0, 6, 1, 1, 5, 20, 0]) + _short(0, 0),
    )
    yield "errors of the socket", bytes([CLIENT, 7, 111, 8]) + _short(0, 0x41) + bytes([4, 7, 90, 8, 8, 7, 0])
    yield "blocked", bytes([0]) + many[:24] + bytes([8]) + _short(0, 0x40) + b"\x04" + _short(1, 0x40) + bytes([4, 8])


_RETIRED: Final = bytes(Script([0, 0]).piece(b"\x40" + (1 << 40).to_bytes(8, "big") + bytes(30)) + b"\x04")
"""A short packet to the first id that engines issue."""


def _initial(number: int, report: int, *, address: int = 0) -> bytes:
    """An Initial of 1,200 bytes to an id of 9 bytes that is not in use."""
    return bytes([1, address, 0x80, 0, number, 9, report])


def _short(number: int, report: int) -> bytes:
    """A short packet to an id in use, or not."""
    return bytes([2, 0, number, *([8] if number >= 128 else []), 3, 1, 1, report])
