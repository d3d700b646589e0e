"""`Session`: one connection as the user holds it, the same type on both sides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from echostream.errors import CloseCode, ConfigurationError, ConnectionLostError
from echostream.protocol.hello import Hello
from echostream.protocol.peer import PeerProtocol
from echostream.protocol.states import State
from echostream.session.api import Conversation
from echostream.session.early import EarlyGate
from echostream.session.emitter import Emitter
from echostream.session.inbox import EventInbox
from echostream.session.listeners import ListenerTable
from echostream.session.peer import Peer
from echostream.session.resources import Resources
from echostream.session.roles import CLOSED_HERE
from echostream.session.tasks import TaskSet
from echostream.session.timesync import beat
from echostream.types import Role

if TYPE_CHECKING:
    from echostream.protocol import events as ev
    from echostream.protocol import frames as f
    from echostream.protocol.records import IncomingCall
    from echostream.session.attempts import Attempts
    from echostream.session.clock import EstimatedClock, SessionClock
    from echostream.session.deadlines import Entry
    from echostream.session.runtime import Runtime
    from echostream.transport.base import Connection

__all__ = ("Principal", "Services", "Session", "SessionOwner", "checked_principal")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who the peer has proved to be."""

    name: str
    permissions: frozenset[str] = frozenset()
    """What ``requires=`` of handlers is checked against; any collection of texts is taken."""

    def __post_init__(self) -> None:
        """Make a set of any collection.

        Raises:
            ConfigurationError: `permissions` is one text, of which each part would be a permission.
        """
        if isinstance(self.permissions, str):
            raise ConfigurationError("permissions", f"{self.permissions!r} is one text: give a set, {{...}}")
        object.__setattr__(self, "permissions", frozenset(self.permissions))


def checked_principal(answer: object, field: str) -> Principal | None:
    """Return what a function of the user's found out about credentials: who has them, or None to refuse.

    Raises:
        ConfigurationError: it is something else: neither True nor False says who it is, and False must admit nobody.
    """
    if answer is None or isinstance(answer, Principal):
        return answer
    raise ConfigurationError(
        field,
        f"the function returned an object of {type(answer).__name__}: let it return a Principal, or None to refuse",
    )


class Services(Protocol):
    """What a session serves to its peer; made by the routing layer and handed down."""

    @property
    def listeners(self) -> ListenerTable:
        """The listeners of the session's events."""
        ...

    def register(self, *targets: object, name: str | None = None) -> None:
        """Add services and handlers for this session alone."""

    def is_safe(self, method: str) -> bool:
        """Return whether a method may be called in early data."""
        ...

    @property
    def kind_of_call(self) -> type[IncomingCall]:
        """What the machine makes of each call of the peer."""
        ...

    def on_calls(self, session: Session, calls: list[Any]) -> None:
        """Serve calls that came together, of the session's `kind_of_call`."""

    def on_stream(self, session: Session, event: ev.StreamOpened) -> None:
        """Serve an application stream."""


class SessionOwner(Protocol):
    """The server or client that a session belongs to."""

    def on_hello(self, session: Session) -> None:
        """The peer introduced itself."""

    def on_closed(self, session: Session) -> None:
        """The session ended."""


class Session(Conversation):
    """One conversation between two programs, both ways.

    Attributes:
        id: text that both sides know; given by the server.
        role: which side this program is.
        principal: who the peer has proved to be, or None.
        trusted: False for a server that was found by name and met for the first time: nothing secret goes to it.
        loop: the event loop that it lives on.
    """

    __echostream_role__ = "session"
    _clock: EstimatedClock | None = None  # of the class: most sessions have none

    def __init__(
        self, connection: Connection, hello: Hello, runtime: Runtime, services: Services, owner: SessionOwner
    ) -> None:
        protocol = PeerProtocol(
            hello, runtime.codec, runtime.payload, runtime.limits, runtime.clock.monotonic_ns, runtime.held
        )
        protocol.calls.kind = services.kind_of_call
        protocol.observe = runtime.observe_frame
        self.id = hello.session
        self.role = hello.role
        self.principal: Principal | None = None
        self.trusted = True
        self.loop = runtime.loop
        self.runtime = runtime
        self.chains = runtime.chains
        """The middleware around what goes through this session."""
        self.peer = Peer(connection, protocol, runtime, self)
        self.tasks = TaskSet(runtime.loop)
        """What runs for the peer: handlers and listeners. Cancelled at the end."""
        self.calls = TaskSet(runtime.loop)
        """What runs for this side: `Call` objects. They end by themselves, because their connection does."""
        self.attempts: dict[Attempts, None] = {}
        """The calls of this side that middleware is around; no set: they end in order."""
        self.opened: asyncio.Future[None] = runtime.loop.create_future()
        """Done when calls may be made; fails when the session ends before."""
        self.services = services
        """What is served to the peer here."""
        self.listeners = services.listeners
        self.events = Emitter(self)
        self._owner = owner
        self._inbox = EventInbox(self, self.peer, self.listeners, self.tasks)
        self._closed: asyncio.Event | None = None  # made for who waits
        self._resources: Resources | None = None
        self._hello_due: Entry | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id or '?'} {self.state} {self.peer_address}>"

    @property
    def _session(self) -> Session:
        return self

    @property
    def state(self) -> str:
        """``connecting``, ``open``, ``draining`` (no new calls) or ``closed``."""
        state = self.peer.protocol.state
        return state.name.lower() if state in (State.OPEN, State.DRAINING, State.CLOSED) else "connecting"

    @property
    def ending(self) -> str:
        """How the session ended, in words for a log; empty before."""
        return "" if self.peer.lost is None else self.peer.lost.message.removesuffix(CLOSED_HERE)

    @property
    def peer_address(self) -> str:
        """Where the peer is, as ``host:port``."""
        return self.peer.connection.peer_address

    @property
    def dropped_events(self) -> int:
        """Plain events dropped here because listeners were too slow."""
        return self._inbox.dropped

    @property
    def clock(self) -> SessionClock:
        """The time that all sessions of the server share; on a client it is estimated from now on, while it is read."""
        if self.role is Role.SERVER:
            return self.runtime.own_clock
        if self._clock is None:
            from echostream.session.clock import EstimatedClock

            self._clock = EstimatedClock(self.peer)
        return self._clock

    @property
    def estimated_clock(self) -> EstimatedClock | None:
        """The same where it is estimated already; to look at it so does not start it."""
        return self._clock

    @property
    def resources(self) -> Resources:
        """What lives as long as the session; made when it is first needed."""
        if self._resources is None:
            self._resources = Resources(self.loop, f"session {self.id}")
        return self._resources

    # Life

    def expect_hello(self) -> None:
        """Close the connection unless the peer's Hello comes in time (`hello_timeout`)."""
        due = self.loop.time() + self.runtime.limits.hello_timeout
        self._hello_due = self.runtime.deadlines.add(due, self._hello_late)

    def begin_early(self, greeting: object) -> None:
        """Let a client call before the server's Hello, which may take `hello_timeout`; `greeting` is its last one."""
        if isinstance(greeting, Hello):
            self.peer.begin_early(greeting)
            self.expect_hello()
            self.peer.flush()  # into the first packets

    def await_proof(self) -> None:
        """Hold what a replay must not do until the client's handshake is done."""
        gate = self.peer.owner = EarlyGate(self)
        self.peer.connection.on_proven = gate.release

    def _hello_over(self) -> None:
        if self._hello_due is not None:
            self.runtime.deadlines.remove(self._hello_due)
            self._hello_due = None

    def _hello_late(self) -> None:
        self.peer.close(CloseCode.HELLO_TIMEOUT, f"no hello within {self.runtime.limits.hello_timeout:g} s")

    def open(self) -> None:
        """The Hello exchange is over: calls may be made, and what came meanwhile is handled."""
        if not self.opened.done():
            self.opened.set_result(None)
        self.peer.start_taking()

    def drain(self, code: int, reason: str) -> None:
        """Take no new calls and streams from the peer; those that run go on."""
        if self.peer.open:
            self.peer.protocol.go_away(code, reason)
            self.peer.flush()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End the session: what was written is sent, calls that still run fail. Idempotent."""
        self.peer.close(code, reason)
        await self.wait_closed()
        await self.calls.wait()
        await self.tasks.wait()

    async def wait_closed(self) -> ConnectionLostError | None:
        """Wait until the session ended; return why."""
        if self.peer.lost is None:
            self._closed = self._closed or asyncio.Event()
            await self._closed.wait()
        return self.peer.lost

    # What the peer driver reports (PeerOwner)

    def on_hello(self) -> None:
        """Let the owner decide."""
        self._hello_over()
        hello = self.peer.protocol.peer_hello
        if self.role is Role.CLIENT and hello is not None:
            self.id = hello.session
            if hello.heartbeat_ms:
                self.peer.connection.keep_alive(hello.heartbeat_ms / 1000, beat)
        self._owner.on_hello(self)

    def on_calls(self, calls: list[IncomingCall]) -> None:
        """Hand calls to the services."""
        self.services.on_calls(self, calls)

    def on_event(self, frame: f.EventFrame) -> None:
        """Hand an event to the listeners."""
        self._inbox.receive(frame)

    def on_stream(self, event: ev.StreamOpened) -> None:
        """Hand a stream to the services."""
        self.services.on_stream(self, event)

    def on_go_away(self, event: ev.GoAwayReceived) -> None:
        """Nothing to do: the machine refuses new calls from now on."""

    def on_closed(self, error: ConnectionLostError) -> None:
        """Wake whoever waits for this session."""
        self._hello_over()
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # seen: a session that nobody waits for does not warn
        self.events.lost(error)
        if self.runtime.ledger is not None:
            self.runtime.ledger.closed(self)
        if self._clock is not None:
            self._clock.close()
        for attempts in list(self.attempts):
            attempts.lost()
        if self._closed is not None:
            self._closed.set()
        self.tasks.cancel_now()
        self.runtime.ending.adopt(self.tasks)
        if self._resources is not None:
            self.runtime.ending.start(self._end_resources(self._resources), "clean-up")
        self._owner.on_closed(self)

    async def _end_resources(self, resources: Resources) -> None:
        await self.tasks.wait()  # handlers that clean up may still need them
        await resources.close()
