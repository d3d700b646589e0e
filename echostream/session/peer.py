"""The asyncio driver of one connection: bytes to the protocol machine, its events to those whose business they are.

Writes are gathered and flushed once per loop turn, at the end of a received burst, or early when enough are queued.
What waits here: writers on a full transport stream and openers on a stream limit; callers wait in `places`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from echostream.errors import (
    CloseCode,
    ConnectionLostError,
    LocalProtocolError,
    RemoteProtocolError,
    Status,
)
from echostream.protocol import events as ev
from echostream.protocol.hello import Hello
from echostream.protocol.link import LANE
from echostream.protocol.peer import PeerProtocol
from echostream.protocol.records import IncomingCall, OutgoingCall
from echostream.protocol.states import State
from echostream.session.backlog import Backlog
from echostream.session.datagrams import DatagramPump
from echostream.session.due import DueCalls
from echostream.session.early import EarlyCalls
from echostream.session.lanes import Lanes
from echostream.session.pending import PendingCall, unprocessed
from echostream.session.places import Places
from echostream.session.reports import EVENT_HANDLERS
from echostream.session.roles import CLOSED_HERE, PeerOwner, ProbeHandle, UnexpectedErrors
from echostream.session.runtime import Runtime
from echostream.session.timesync import Stamping
from echostream.session.turns import Turns
from echostream.transport.base import CloseReason, Connection

__all__ = ("Peer",)

_log = logging.getLogger("echostream.session")

_EARLY_PUSH_BYTES: Final = 64 << 10

_FRESH: Final = -1
"""The line of those who wait for a fresh transport stream."""


class Peer:
    """A `Receiver` of its connection."""

    stamping: Stamping | None = None  # of the class: most have none
    datagrams: DatagramPump | None = None
    """What sends the items of streams that travel in datagrams, once there are some."""
    """Sees to the kernel's stamps while the peer probes in bursts."""

    def __init__(self, connection: Connection, protocol: PeerProtocol, runtime: Runtime, owner: PeerOwner) -> None:
        self.connection = connection
        self.protocol = protocol
        self.runtime = runtime
        self.lost: ConnectionLostError | None = None
        """Why the connection ended, once it has."""
        self.unexpected: UnexpectedErrors | None = None
        """Where both ends in one process pass exceptions that no peer may see; tests set it."""
        self.owner = owner
        """Whom it reports to."""
        self._loop = runtime.loop
        self._early_push_frames = runtime.limits.early_push_frames
        self._out = protocol.link.out
        self._flush_scheduled = False
        self._in_burst = False
        self.blocked: dict[int, None] = {}  # no set: it is small when empty, as it mostly is
        """Transport streams whose writers wait."""
        self._waiters: dict[int, deque[asyncio.Future[None]]] = {}  # by transport stream, or `_FRESH`
        limits, unsent = runtime.limits, runtime.unsent.open(runtime.limits.max_unsent_bytes)
        self.large = Turns(runtime.loop, limits.max_large_bytes)
        """Who may write a large payload on a stream of its own now: the peer holds unfinished ones in memory."""
        self.backlog = Backlog(
            connection, unsent, limits, runtime.deadlines, self.large, runtime.loop, self._go_on, self._give_up
        )
        """What was written and not sent; all writers wait while it is full."""
        self.places = Places(runtime.loop, protocol.calls.outgoing, protocol.link, runtime.deadlines)
        """How many more calls the peer takes now."""
        self.due = DueCalls(protocol.calls.outgoing, runtime.deadlines, runtime.loop)
        """Which calls take too long."""
        self.lanes = Lanes(protocol, runtime.limits, connection.open_stream)
        """Which transport stream a unary call of this side takes."""
        self.early: EarlyCalls | None = None
        """What a client may do before the server's Hello, where it may do anything."""
        self._event_stream_chosen = False
        self.probes: dict[int, ProbeHandle] = {}
        """Who waits for the answers to probes of this side, by nonce: each takes one."""

    def __repr__(self) -> str:
        return f"<Peer {self.connection.peer_address} {self.protocol!r}>"

    # Receiver: what the transport reports

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        """Take bytes."""
        self._in_burst = True
        try:
            events = self.protocol.receive_data(stream_id, data, fin=fin)
        except RemoteProtocolError as error:
            self.refuse(error)
        else:
            self._handle(events)

    def stream_reset(self, stream_id: int, code: int) -> None:
        """Take note that the peer abandoned a stream."""
        self._guarded(self.protocol.receive_reset, stream_id)

    def stream_stopped(self, stream_id: int, code: int) -> None:
        """Take note that the peer reads no more of a stream."""
        self.writable(stream_id)
        self._guarded(self.protocol.receive_stop, stream_id)

    def datagram(self, data: bytes, arrived_ns: int) -> None:
        """Take a datagram."""
        self._in_burst = True
        self._handle(self.protocol.receive_datagram(data, arrived_ns))

    def writable(self, stream_id: int) -> None:
        """Wake the writers of a stream."""
        self.blocked.pop(stream_id, None)
        for waiter in self._waiters.pop(stream_id, ()):
            _wake(waiter)

    def streams_available(self) -> None:
        """Wake those who want a transport stream."""
        self.writable(_FRESH)

    def burst_ended(self) -> None:
        """Send what the burst gave rise to."""
        self._in_burst = False
        if self._out.pending:
            self.flush()
        elif not self._flush_scheduled:  # behind those whom the burst woke: what they say goes at the end of their turn
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_soon)
        if self.datagrams is not None:
            self.datagrams.push()
        if self.backlog.full:
            self.backlog.count()

    def closed(self, reason: CloseReason) -> None:
        """Tell everybody who still waits."""
        who = "the peer" if reason.by_peer else "this side"
        why = f": {reason.reason}" if reason.reason else "" if reason.by_peer else CLOSED_HERE
        text = f"connection closed by {who}{why}"
        self._lose(ConnectionLostError(text, close_code=reason.code))

    # For the session layer

    @property
    def open(self) -> bool:
        """Whether frames may be sent."""
        return self.protocol.link.ready

    def touch(self) -> None:
        """Call after commands to the protocol machine: sends soon, or now when much is queued."""
        if self._out.frames >= self._early_push_frames or self._out.size >= _EARLY_PUSH_BYTES:
            self.flush()
        elif not self._flush_scheduled and not self._in_burst:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_soon)

    def flush(self) -> None:
        """Give everything queued to the transport now."""
        write, backlog = self.connection.write, self.backlog
        backlog.written_bytes += self._out.size
        for stream_id, data, fin in self._out.take_writes():
            backlog.streams[stream_id] = None
            if not write(stream_id, data, fin=fin):
                self.blocked[stream_id] = None
        for stream_id, reset, stop, code in self._out.take_aborts():
            if reset:
                self.connection.reset_stream(stream_id, code)
                self.writable(stream_id)
            if stop:
                self.connection.stop_stream(stream_id, code)
        self.connection.flush()
        if backlog.written_bytes >= backlog.count_at:
            backlog.count()

    def is_clear(self, stream_id: int) -> bool:
        """Whether a call may start on this lane now, without waiting for anything."""
        if stream_id in self.blocked or self.backlog.full or self.protocol.peer_gone_away:
            return False
        return self.places.free

    def is_blocked(self, stream_id: int) -> bool:
        """Whether writers of this transport stream wait."""
        return stream_id in self.blocked or self.backlog.full

    async def drain(self, stream_id: int) -> None:
        """Wait until a transport stream takes more.

        Raises:
            ConnectionLostError: the connection ended meanwhile.
        """
        while stream_id in self.blocked or self.backlog.full:
            await self._wait_in(stream_id)

    async def drain_whole(self, stream_id: int) -> None:
        """Send what is queued and wait until nothing of a transport stream is unsent.

        Raises:
            ConnectionLostError: the connection ended meanwhile.
        """
        self.flush()
        if not self.connection.sent(stream_id):
            self.blocked[stream_id] = None
        await self.drain(stream_id)

    async def open_transport_stream(self, *, unidirectional: bool = False) -> int:
        """Return a fresh transport stream; wait while the peer allows none.

        Raises:
            ConnectionLostError: the connection ended meanwhile.
        """
        while self.early or (stream_id := self.connection.open_stream(unidirectional=unidirectional)) is None:
            await self._wait_in(_FRESH)
        return stream_id

    def give_back(self, stream_id: int) -> None:
        """End a transport stream that was opened and then not used, so that it does not count for ever."""
        self.connection.reset_stream(stream_id, Status.CANCELLED)

    def cancel_call(self, call: OutgoingCall | None, status: Status) -> None:
        """Tell the peer that nobody waits for a call any more, if it started and has not ended."""
        if call is not None and self.protocol.calls.cancel(call, status):
            self.touch()
            self.places.freed()

    def choose_event_stream(self) -> int:
        """Return the transport stream for events, opened at the first one; the lane where the peer allows none."""
        if not self._event_stream_chosen:
            self._event_stream_chosen = True
            stream_id = self.connection.open_stream(unidirectional=True)
            self.protocol.event_stream = LANE if stream_id is None else stream_id
        return self.protocol.event_stream

    def introduce(self) -> None:
        """Open the lane and say hello: the client's first act."""
        lane = self.connection.open_stream()
        if lane != LANE:
            raise LocalProtocolError(f"the lane must be the connection's first stream, got {lane}")
        self.protocol.send_hello()
        self.touch()

    def begin_early(self, greeting: Hello) -> None:
        """Let safe calls go before the server's Hello, as it greeted last time; all else waits as for a full lane."""
        self.early = EarlyCalls(self.protocol, self.lanes, greeting)
        self._event_stream_chosen = True
        self.blocked[LANE] = None

    def start_taking(self) -> None:
        """The Hello exchange is over: handle what came meanwhile."""
        if self.early is not None:
            self.early.end()
            self.early, self._event_stream_chosen = None, False
            self.writable(LANE)
            self.streams_available()
        self._guarded(self.protocol.take_early)

    def close(self, code: int, reason: str = "") -> None:
        """Close in order; the rest follows through `closed`."""
        if self.lost is None:
            self.flush()
            self.connection.close(code, reason)

    # Inside

    async def _wait_in(self, line: int) -> None:
        """Wait until woken; who gives up is not left in the line."""
        self.check_alive()
        waiter = self._loop.create_future()
        waiters = self._waiters.setdefault(line, deque())
        waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter.cancelled():
                with suppress(ValueError):
                    waiters.remove(waiter)

    def _flush_soon(self) -> None:
        self._flush_scheduled = False
        if self._out.pending:
            self.flush()

    def _guarded(self, receive: Callable[..., list[ev.ProtocolEvent]], *args: int) -> None:
        try:
            events = receive(*args)
        except RemoteProtocolError as error:
            self.refuse(error)
        else:
            self._handle(events)
            self.touch()

    def _go_on(self) -> None:
        """The connection has room again."""
        for stream_id in [*self._waiters]:
            if stream_id not in self.blocked:
                self.writable(stream_id)

    def _give_up(self, reason: str) -> None:
        """The peer costs too much, or does not go on: end the connection."""
        if self.lost is None:
            _log.warning("! %s is given up: %s", self.connection.peer_address, reason)
            self.connection.close(CloseCode.SLOW, f"the peer does not keep up: {reason}")
            self._lose(ConnectionLostError(f"the peer does not keep up: {reason}", close_code=CloseCode.SLOW))

    def refuse(self, error: RemoteProtocolError) -> None:
        """The peer broke the protocol: end the connection with a code, and nothing else."""
        _log.warning("! %s: %s", self.connection.peer_address, error.message)
        self._in_burst = False
        self._handle(self.protocol.link.unreported)  # an answer that came before it has reached its caller
        self.connection.close(error.close_code, error.message[:200])
        self._lose(ConnectionLostError(f"peer broke the protocol: {error.message}", close_code=error.close_code))

    def _handle(self, events: list[ev.ProtocolEvent]) -> None:
        handlers, calls, is_broken = EVENT_HANDLERS, list[IncomingCall](), False
        for event in events:
            try:
                if type(event) is PendingCall:  # most are, and a method would cost each as much again
                    if not event.future.done():
                        event.future.set_result(True)
                    continue
                if isinstance(event, OutgoingCall):
                    event.on_answered()
                    continue
                if isinstance(event, IncomingCall):
                    calls.append(event)
                    continue
                handlers[type(event)](self, event)
            except Exception:  # noqa: BLE001  # a bug of ours: not hidden, and no end to connections of others
                _log.exception("! %s: cannot handle %s", self.connection.peer_address, type(event).__name__)
                self.connection.close(CloseCode.INTERNAL, "internal error")
                is_broken = True
            if self._out.frames >= self._early_push_frames:
                self.flush()
        self.places.freed()
        if calls:
            self.owner.on_calls(calls)
        if is_broken:  # after the rest: whose call has ended is not told again
            self._lose(ConnectionLostError("internal error", close_code=CloseCode.INTERNAL))

    def on_go_away(self, event: ev.GoAwayReceived) -> None:
        """Tell who waits for what the peer never saw, and the session."""
        for item in event.rejected:
            item.handle.on_lost(unprocessed("the peer is shutting down and did not see to this"))
        self.owner.on_go_away(event)

    def _lose(self, error: ConnectionLostError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        left: list[Any] = self.protocol.close() if self.protocol.state is not State.CLOSED else []
        self.blocked.clear()
        self.backlog.close()
        self.due.close()
        if self.datagrams is not None:
            self.datagrams.close()
        for item in left:
            if item.handle is not None:
                item.handle.on_lost(error)
        waiters: list[asyncio.Future[Any]] = [waiter for group in self._waiters.values() for waiter in group]
        waiters += self.large.take_waiters()
        self.places.lose(error)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error.again())
        self._waiters.clear()
        for waiting in self.probes.values():
            waiting.on_lost(error)
        self.probes.clear()
        if self.stamping is not None:
            self.stamping.close()
        self.owner.on_closed(error)

    def check_alive(self) -> None:
        """Raise ConnectionLostError when the connection has ended."""
        if self.lost is not None:
            raise self.lost.again()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
