"""`RpcServer`: what the user holds of a server, and its life from start to stop. With `client.py` the only wiring."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from echostream.admission import SHUTTING_DOWN, Admission, Authenticate
from echostream.builder import ServerBuilder
from echostream.config import DEFAULT_STOP_GRACE, Limits
from echostream.errors import CloseCode, LocalProtocolError
from echostream.hosting import Doors, until_stopped
from echostream.introspection import offer_reflection
from echostream.middleware.base import Middleware, compile_chains
from echostream.plugin import Hooked, Lifespan, Plugin, middleware_of
from echostream.presence import Announcement, Presence, Publicity
from echostream.routing.router import Router
from echostream.session.listeners import LEFT_OUT, CallbackT
from echostream.session.manager import BroadcastResult, SessionManager
from echostream.session.runtime import Runtime
from echostream.session.session import Session
from echostream.transport.base import Address, Listener

if TYPE_CHECKING:
    from os import PathLike

    from echostream.introspection.model import ServiceDescription
    from echostream.session.ledger import QualityLedger

__all__ = ("RpcServer",)

_log = logging.getLogger("echostream.server")


class RpcServer(Hooked):
    """Serves decorated objects and functions at one or several addresses.

    Start it with ``async with server:``, ``await server.start()``, or ``await server.serve()`` (until SIGINT or
    SIGTERM).
    """

    def __init__(
        self,
        *urls: str,
        certificate: str | PathLike[str] | bytes | None = None,
        private_key: str | PathLike[str] | bytes | None = None,
        authenticate: Authenticate | None = None,
        engine: str = "auto",
        limits: Limits | None = None,
        debug: bool = False,
        early_data: bool = False,
        reflection: bool = True,
        middleware: Sequence[Middleware] = (),
        plugins: Sequence[Plugin] = (),
        lifespan: Lifespan | None = None,
    ) -> None:
        """Prepare a server; nothing is opened yet.

        Args:
            *urls: where to listen, ``"quic://0.0.0.0:4433"``; port 0 takes a free one. None: a free port on loopback.
            certificate: PEM file or bytes, leaf first; left out, a development certificate made on first use.
            private_key: PEM file or bytes of its key.
            authenticate: decides who a client is by its credentials; left out, everybody is admitted as nobody.
            engine: QUIC engine: ``"auto"`` (qh3 where it is installed), ``"aioquic"`` or ``"qh3"``.
            limits: what a session may cost.
            debug: send the texts of unexpected errors to the peer. Never on a public address.
            early_data: run calls of methods that are marked safe before a handshake is done (0-RTT), which saves a
                client that comes back a round trip or two. Such a call may run a second time: who saw the client's
                first packets may send them again.
            reflection: tell clients what is served here when they ask, and names near to one that they got wrong.
            middleware: layers around every call, event and item of every session, the outermost first.
            plugins: bundles of handlers, middleware and hooks.
            lifespan: ``lifespan(server)`` is the block in which the server runs.

        Raises:
            ConfigurationError: an address, certificate or engine is unusable, or a layer is no middleware.
        """
        super().__init__(plugins, lifespan)
        self._limits = limits or Limits()
        self._debug = debug
        self._doors = Doors(
            engine, self._limits, early_data=early_data, certificate=certificate, private_key=private_key
        )
        self._chains = compile_chains((*middleware_of(plugins), *middleware))
        self._router = Router()
        self._sessions = SessionManager(self._chains.outbound_event)
        self._admission = Admission(
            self._router,
            self._sessions,
            self._hooks,
            authenticate,
            hints=reflection,
            is_stopping=lambda: self._stopping,
        )
        if reflection:
            offer_reflection(self._router, self._admission.may_hint)
        self._listeners: list[Listener] = []
        self._runtime: Runtime | None = None
        self._ledger: QualityLedger | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._discovery: Announcement | None = None
        self._publicity = Publicity()
        self._stopping = False
        self._stopped = asyncio.Event()
        self.bind(*urls or ("quic://127.0.0.1:0",))
        for plugin in plugins:
            self.register(*plugin.targets())
        if debug and not all(address.is_local for address in self._addresses):
            _log.warning("! debug=True on a public address: clients see the texts of internal errors")

    def __repr__(self) -> str:
        state = ", ".join(self.addresses) if self._listeners else "stopped"
        return f"<RpcServer {state} {len(self._sessions)} sessions>"

    @staticmethod
    def builder() -> ServerBuilder[RpcServer]:
        """Return a builder: ``RpcServer.builder().bind("quic://...").register(Orders()).build()``."""
        return ServerBuilder(RpcServer)

    # Before it starts

    @property
    def dependency_overrides(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """Functions that stand in for those of dependencies: ``server.dependency_overrides[get_db] = make_fake_db``."""
        return self._router.overrides

    def register(self, *targets: object, name: str | None = None, middleware: Sequence[Middleware] = ()) -> None:
        """Serve objects of ``@service`` classes, and functions marked ``@handler``, ``@listener`` or ``@stream``.

        Args:
            *targets: what to serve; bound methods too.
            name: wire name of the one function given.
            middleware: layers around what comes in for these targets, inside those of the server.

        Raises:
            SignatureError: a type cannot be validated; says where and what to write.
            ConfigurationError: a name is taken, or a target is nothing of these.
        """
        self._router.register(*targets, name=name, chains=compile_chains(middleware))

    @overload
    def on(self, event: type | str) -> Callable[[CallbackT], CallbackT]: ...
    @overload
    def on(self, event: type | str, callback: Callable[..., Any]) -> Callable[[], None]: ...
    def on(self, event: type | str, callback: Callable[..., Any] = LEFT_OUT) -> Callable[..., Any]:
        """Listen to an event of every session; return the function that unsubscribes.

        Without a callback it is a decorator: ``@server.on(PriceChanged)``. See `Session.on`.
        """
        return self._router.listeners.subscribe(event, callback)

    def describe(self) -> list[ServiceDescription]:
        """Describe what is registered, with JSON Schema of all that travels."""
        from echostream.introspection.describe import describe

        return describe(self._router)

    def enable_discovery(
        self,
        name: str | None = None,
        *,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        """Announce this server on the local network by mDNS, once it listens or from now on; goodbye when it stops.

        What is registered later, and how many sessions it has, is announced within some seconds.

        Args:
            name: what clients look for; left out, the first registered service.
            version: left out, that service's version.
            metadata: short texts that clients may filter by.
            interfaces: addresses of the interfaces to use; left out, the default one, or loopback alone when the
                server listens only there.

        Raises:
            ConfigurationError: the server runs, and this cannot be announced.
        """
        wanted = Announcement(name, version, metadata, interfaces)
        if self._runtime is not None and self._publicity.open:
            self._runtime.tasks.start(self._publicity.change(self._presence(wanted)), "announce")
        self._discovery = wanted

    def disable_discovery(self) -> None:
        """Take this server off the network's list; sessions go on."""
        self._discovery = None
        if self._runtime is not None and self._publicity.open:
            self._runtime.tasks.start(self._publicity.change(None), "withdraw")

    def bind(self, *urls: str) -> None:
        """Listen at these addresses instead of those that the server was made for.

        Raises:
            ConfigurationError: an address is unusable.
            LocalProtocolError: the server runs already.
        """
        if self._runtime is not None:
            raise LocalProtocolError("the server runs already: call bind() before it starts")
        addresses = [Address.parse(url) for url in urls]
        for address in addresses:
            self._doors.transport(address.scheme)
        self._addresses = addresses

    @property
    def urls(self) -> list[str]:
        """Where it is to listen, as it was told; see `addresses`."""
        return [*map(str, self._addresses)]

    # While it runs

    @property
    def addresses(self) -> list[str]:
        """The URLs really bound, port 0 resolved; empty while it does not run."""
        return [listener.url for listener in self._listeners]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the certificate, for ``RpcClient.connect(..., fingerprint=...)``."""
        return self._doors.tls().fingerprint

    @property
    def sessions(self) -> SessionManager:
        """The open sessions."""
        return self._sessions

    @property
    def ledger(self) -> QualityLedger:
        """What its streams and sessions came to, for `observe_quality`; made when it is first needed."""
        if self._ledger is None:
            from echostream.session.ledger import QualityLedger

            self._ledger = QualityLedger(self._sessions.__iter__)
            if self._runtime is not None:
                self._ledger.serve(self._runtime)
        return self._ledger

    def broadcast(
        self, event: object, *payload: object, where: Callable[[Session], bool] | None = None
    ) -> BroadcastResult:
        """Send an event to every session, or to those that `where` picks; waits for nobody."""
        return self._sessions.broadcast(event, *payload, where=where)

    async def start(self, *urls: str) -> None:
        """Open the listeners and announce the server.

        Args:
            *urls: where to listen this time, unannounced, instead of where the server was made for: for tests.

        Raises:
            ConnectError: an address cannot be bound.
            LocalProtocolError: it runs already, or was stopped before it had started.
        """
        if self._runtime is not None:
            raise LocalProtocolError("the server runs already: stop it first")
        self._stopping = False
        self._stopped = asyncio.Event()
        runtime = self._runtime = Runtime(self._limits, debug=self._debug, chains=self._chains)
        if self._ledger is not None:
            self._ledger.serve(runtime)
        task = self._starting = asyncio.current_task()
        try:
            await self._open(runtime, [Address.parse(url) for url in urls])
        except BaseException as error:
            stopped = self._stopping and isinstance(error, asyncio.CancelledError)
            await self._end(runtime, 0.0)
            if stopped and task is not None and not task.uncancel():
                raise LocalProtocolError("the server was stopped before it had started") from None
            raise
        finally:
            self._starting = None
        _log.info("= serving at %s", ", ".join(self.addresses))

    async def _open(self, runtime: Runtime, instead: Sequence[Address]) -> None:
        await self._hooks.start(self, runtime)
        for address in instead or self._addresses:
            self._listeners.append(await self._doors.open(address, partial(self._admission.accept, runtime)))
        announced = None if instead else self._discovery
        await self._publicity.begin(None if announced is None else self._presence(announced))

    async def stop(self, grace: float = DEFAULT_STOP_GRACE) -> None:
        """Stop: say goodbye, take no new calls, let running ones end for up to `grace` seconds.

        Idempotent; a second call meanwhile waits for the first. When it is cancelled, the grace is over. A start that
        is not done is cancelled.

        Raises:
            LocalProtocolError: a hook of the start calls this.
        """
        runtime, starting = self._runtime, self._starting
        if runtime is None:
            return
        if starting is None and not self._stopping:
            await self._end(runtime, grace)
            return
        if starting is asyncio.current_task():
            raise LocalProtocolError("the server is starting: to keep it from that, raise an error in the hook")
        if starting is not None and not self._stopping:
            self._stopping = True
            starting.cancel()
        await self._stopped.wait()

    async def _end(self, runtime: Runtime, grace: float) -> None:
        self._stopping = True
        try:
            await self._wind_down(grace)
        finally:
            await self._shut(runtime)
        _log.info("= stopped")

    async def _wind_down(self, grace: float) -> None:
        await self._publicity.end()
        for listener in self._listeners:
            listener.stop_accepting()
        sessions = [*self._sessions, *self._admission.arriving]
        for session in sessions:
            session.drain(CloseCode.SHUTDOWN, SHUTTING_DOWN)
        await asyncio.gather(*(session.tasks.wait(grace) for session in sessions))

    async def _shut(self, runtime: Runtime) -> None:
        sessions = [*self._sessions, *self._admission.arriving]
        await asyncio.gather(*(session.close(CloseCode.SHUTDOWN, SHUTTING_DOWN) for session in sessions))
        for listener in self._listeners:
            await listener.close()
        self._listeners.clear()
        await self._hooks.stop(runtime)
        await runtime.close()
        self._runtime = None
        self._stopped.set()

    async def serve(self) -> None:
        """Start, and run until SIGINT, SIGTERM, `stop()` or cancellation; then stop in order."""
        await self.start()
        try:
            await until_stopped(self._stopped)
        finally:
            await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop(grace=DEFAULT_STOP_GRACE if error is None else 0.0)

    # Inside

    def _presence(self, wanted: Announcement) -> Presence:
        load = self._sessions.__len__
        return Presence(wanted, self.addresses, self._router.services, self.fingerprint, load)
