"""Who comes in: each new connection of a server, from its first byte until its session is open or refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Final

from echostream.errors import CloseCode
from echostream.plugin import Hooks
from echostream.protocol.hello import Hello, PeerLimits
from echostream.routing.dispatch import Dispatcher
from echostream.routing.router import Router
from echostream.session.manager import SessionManager
from echostream.session.runtime import Runtime
from echostream.session.session import Principal, Session, checked_principal
from echostream.transport.base import Connection, Receiver
from echostream.types import Role, random_bytes
from echostream.wiring import AGENT, EPOCH

__all__ = ("SHUTTING_DOWN", "Admission", "Authenticate")

_log = logging.getLogger("echostream.server")

SHUTTING_DOWN: Final = "server is shutting down"
_NOT_ACCEPTED: Final = "credentials are not accepted: connect with others, credentials=..."

Authenticate = Callable[[str | None], Principal | Awaitable[Principal | None] | None]
"""Given the client's credentials, returns who it is, or None to refuse; plain or async."""


class Admission:
    """The owner of a server's sessions: lets clients in by their credentials, and takes note when they leave."""

    def __init__(
        self,
        router: Router,
        sessions: SessionManager,
        hooks: Hooks,
        authenticate: Authenticate | None,
        *,
        hints: bool,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Wait for connections.

        Args:
            router: what every session serves.
            sessions: those that are open.
            hooks: who hears of it.
            authenticate: that of `RpcServer`.
            hints: whether clients that were let in may learn what is served.
            is_stopping: whether nobody is let in any more.
        """
        self._router = router
        self._sessions = sessions
        self._hooks = hooks
        self._authenticate = authenticate
        self._hints = hints
        self._is_stopping = is_stopping
        self.arriving: dict[Session, None] = {}
        """Sessions that are not open yet."""

    def accept(self, runtime: Runtime, connection: Connection) -> Receiver:
        """Make a session of a connection: the rest follows when the client says hello."""
        hello = Hello(
            role=Role.SERVER,
            epoch=EPOCH,
            session=random_bytes(8).hex(),
            agent=AGENT,
            heartbeat_ms=round(runtime.limits.heartbeat_interval * 1000),
            limits=PeerLimits.of(runtime.limits),
        )
        services = Dispatcher(Router(self._router), runtime, hints=self.may_hint)
        session = Session(connection, hello, runtime, services, self)
        self.arriving[session] = None
        session.expect_hello()
        if connection.early:
            session.await_proof()
        return session.peer

    def may_hint(self, session: Session) -> bool:
        """Whether a client may learn what is served: only those who proved who they are, where that is asked for."""
        return self._hints and (self._authenticate is None or session.principal is not None)

    # SessionOwner

    def on_hello(self, session: Session) -> None:
        """A client introduced itself: find out who it is, then let it in."""
        if self._authenticate is None:
            self._admit(session)
        else:
            session.tasks.start(self._check_credentials(session, self._authenticate), "authenticate")

    def on_closed(self, session: Session) -> None:
        """A session ended."""
        self.arriving.pop(session, None)
        if session in self._sessions:
            self._hooks.closed(session)
        self._sessions.discard(session)
        _log.info("= session %s of %s ended: %s", session.id, session.peer_address, session.ending)

    # Inside

    async def _check_credentials(self, session: Session, authenticate: Authenticate) -> None:
        hello = session.peer.protocol.peer_hello
        credentials = hello.credentials if hello is not None else None
        try:
            async with asyncio.timeout(session.runtime.limits.hello_timeout):
                answer = authenticate(credentials)
                principal = checked_principal(await answer if isawaitable(answer) else answer, "authenticate")
        except Exception as error:  # noqa: BLE001 - the user's own code
            _log.exception("! authenticate raised for %s", session.peer_address)
            self._hooks.failed(session.runtime, error, None)
            session.peer.close(CloseCode.INTERNAL, "authentication is not possible now")
            return
        if principal is None:
            _log.warning("! %s was refused: its credentials are not accepted", session.peer_address)
            session.peer.close(CloseCode.UNAUTHENTICATED, _NOT_ACCEPTED)
            return
        session.principal = principal
        self._admit(session)

    def _admit(self, session: Session) -> None:
        if session.peer.lost is not None:
            return
        if self._is_stopping():
            session.peer.close(CloseCode.SHUTDOWN, SHUTTING_DOWN)
            return
        self.arriving.pop(session, None)
        self._sessions.add(session)
        session.peer.protocol.send_hello()
        session.open()
        self._hooks.opened(session)
        _log.info("= session %s of %s opened", session.id, session.peer_address)
