"""`RpcClient`: dials a server by address or finds it by name. With `server.py` the only place that wires the parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from echostream.config import DEFAULT_CONNECT_TIMEOUT, DEFAULT_DISCOVER_TIMEOUT, Limits, checked_seconds
from echostream.connecting import Connecting
from echostream.dialling import DialOptions, check_dialled, client_tls, refused, too_late
from echostream.errors import ConfigurationError, ConnectError, ConnectionLostError
from echostream.finding import MET_FIRST, Trust, find_servers, meet
from echostream.middleware.base import Middleware, compile_chains
from echostream.protocol.hello import Hello, PeerLimits
from echostream.routing.dispatch import Dispatcher
from echostream.routing.router import Router
from echostream.session.api import Conversation
from echostream.session.runtime import Runtime
from echostream.session.session import Principal, Session
from echostream.transport.base import Address, Connection, Receiver
from echostream.types import Role
from echostream.wiring import AGENT, EPOCH, make_transport

if TYPE_CHECKING:
    from os import PathLike

    from echostream.discovery.choice import Choice
    from echostream.discovery.resolver import Resolver
    from echostream.discovery.service import Arrived, Departed, ServiceInfo
    from echostream.session.ledger import QualityLedger
    from echostream.transport.tls import ClientTls

__all__ = ("RpcClient",)

_log = logging.getLogger("echostream.client")


class RpcClient(Conversation):
    """A connection to a server, made by `connect` or `discover`. Its verbs are those of `Session`."""

    def __init__(self, runtime: Runtime) -> None:
        """For `connect` and `discover`.

        Raises:
            ConfigurationError: somebody else calls it.
        """
        if not isinstance(runtime, Runtime):  # pyright: ignore[reportUnnecessaryIsInstance] - URLs come here
            raise ConfigurationError("client", "make one with RpcClient.connect(url) or RpcClient.discover(name)")
        self._runtime = runtime
        self._current: Session | None = None
        self._services = Dispatcher(Router(), runtime, hints=lambda _: True)

    def __repr__(self) -> str:
        return f"<RpcClient {self._current!r}>"

    # Ways to one

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        ca: str | PathLike[str] | bytes | None = None,
        fingerprint: str | Iterable[str] | None = None,
        insecure: bool = False,
        credentials: str | None = None,
        timeout: float = DEFAULT_CONNECT_TIMEOUT,
        engine: str = "auto",
        limits: Limits | None = None,
        early_data: bool = False,
        middleware: Sequence[Middleware] = (),
    ) -> Connecting[RpcClient]:
        """Connect to an address: ``async with RpcClient.connect("quic://host:4433", ca="dev") as client``.

        Args:
            url: ``quic://host:port``, ``memory://name`` or ``pipe://name``.
            ca: who to trust: ``"dev"`` for this user's development authority, else PEM file or bytes; left out, the
                system's store.
            fingerprint: one or several hexadecimal SHA-256 of the server's certificate, instead of `ca`.
            insecure: trust anybody, and say so loudly.
            credentials: what the server's `authenticate` gets.
            timeout: seconds for address, handshake and Hello together.
            engine: QUIC engine: ``"auto"`` (qh3 where it is installed), ``"aioquic"`` or ``"qh3"``.
            limits: what the session may cost on this side.
            early_data: whether calls of methods that are marked safe may travel with the first packet (0-RTT). To a
                server that allows it and that this program was connected to within the last hour, `connect` then
                returns at once, before anybody has answered: what is wrong comes out of the calls. All else waits for
                the answer, which also brings `id`. Not with `credentials`, which always wait.
            middleware: layers around every call, event and item of this client, the outermost first.

        Raises:
            ConnectError: nobody there, refused, or not in time; says what to try.
            CertificateError: the server could not be trusted; says which check failed.
            RpcError: UNAUTHENTICATED, the server did not accept the credentials.
            ConfigurationError: the URL or an option is unusable.
        """
        address = Address.parse(url)
        check_dialled(address)
        checked_seconds("timeout", timeout)
        dial = DialOptions(timeout, engine, limits, credentials, early_data, compile_chains(middleware))

        async def start() -> RpcClient:
            tls = await asyncio.to_thread(client_tls, address, ca, fingerprint, insecure=insecure)
            return await cls._dial(address, tls, dial)

        start.__qualname__ = "RpcClient.connect"
        return Connecting(start())

    @classmethod
    def discover(
        cls,
        name: str | None = None,
        *,
        timeout: float = DEFAULT_DISCOVER_TIMEOUT,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        where: Callable[[ServiceInfo], bool] | None = None,
        choose: Choice = "first",
        resolvers: Sequence[Resolver] | None = None,
        trust: Trust = "known",
        ca: str | PathLike[str] | bytes | None = None,
        fingerprint: str | Iterable[str] | None = None,
        credentials: str | None = None,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
        interfaces: Sequence[str] | None = None,
        engine: str = "auto",
        limits: Limits | None = None,
        early_data: bool = False,
        middleware: Sequence[Middleware] = (),
    ) -> Connecting[RpcClient]:
        """Find a server on the local network and connect: ``async with RpcClient.discover("orders") as client``.

        Args:
            name: a service that it serves, or its own name; left out, any.
            timeout: seconds to look for it.
            version: wanted version or its first parts.
            metadata: entries that it must have announced.
            where: any further condition.
            choose: which of several: ``"first"`` that answers, ``"random"``, ``"least-loaded"`` (fewest sessions),
                ``"sticky"`` (the same each time, while it is there), or a function that puts them in order. The next
                one is tried when one cannot be reached.
            resolvers: ways to look, in turn, instead of mDNS alone: a `StaticResolver`, an `MdnsResolver`.
            trust: without `ca` and `fingerprint` the certificate that the server announced is remembered at the first
                contact with a name and required from then on. ``"known"`` keeps credentials and this side's services
                from a server met for the first time; ``"first-use"`` does not.
            ca: trust an authority instead, as in `connect`.
            fingerprint: trust this certificate instead, as in `connect`.
            credentials: what the server's `authenticate` gets.
            connect_timeout: seconds for the connection once the server is found.
            interfaces: addresses of the interfaces to look on; left out, the default one and loopback.
            engine: QUIC engine.
            limits: what the session may cost on this side.
            early_data: as in `connect`.
            middleware: layers around every call, event and item of this client, the outermost first.

        Raises:
            ServiceNotFoundError: none fits; says what was seen instead and how to name an address.
            CertificateError: its certificate changed since the last contact, or is not the announced one.
            ConnectError: it was found and could not be reached.
        """
        checked_seconds("connect_timeout", connect_timeout)
        dial = DialOptions(connect_timeout, engine, limits, credentials, early_data, compile_chains(middleware))

        async def start() -> RpcClient:
            from echostream.discovery.query import Query

            query = Query(name, version, metadata or {}, where)
            found = await find_servers(
                query, timeout=timeout, choose=choose, resolvers=resolvers, interfaces=interfaces
            )
            failures: list[str] = []
            for info in found:
                try:
                    if ca is None and fingerprint is None:
                        return await cls._dial_remembered(info, name or info.name, trust, dial)
                    tls = await asyncio.to_thread(client_tls, Address.parse(info.urls[0]), ca, fingerprint)
                    return await cls._dial_any(info, tls, dial)
                except ConnectError as error:
                    failures.append(error.message)
            raise ConnectError("; ".join(failures))

        start.__qualname__ = "RpcClient.discover"
        return Connecting(start())

    @staticmethod
    async def services(
        timeout: float = DEFAULT_DISCOVER_TIMEOUT,
        *,
        name: str | None = None,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        where: Callable[[ServiceInfo], bool] | None = None,
        interfaces: Sequence[str] | None = None,
    ) -> list[ServiceInfo]:
        """List the servers on the local network that answer within `timeout` seconds; filters as in `discover`."""
        from echostream.discovery.mdns_browser import list_servers
        from echostream.discovery.query import Query

        query = Query(name, version, metadata or {}, where)
        return await list_servers(query, timeout=timeout, interfaces=interfaces)

    @staticmethod
    async def browse(
        *,
        timeout: float | None = None,
        name: str | None = None,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        where: Callable[[ServiceInfo], bool] | None = None,
        interfaces: Sequence[str] | None = None,
    ) -> AsyncIterator[Arrived | Departed]:
        """Iterate over servers as they arrive and depart, for `timeout` seconds or for ever; filters as in `discover`.

        A server that changes what it says may arrive or depart by it. One that dies without a goodbye departs after
        two minutes.
        """
        from echostream.discovery.mdns_browser import Browser
        from echostream.discovery.query import Query

        query = Query(name, version, metadata or {}, where)
        async with Browser(query, timeout=timeout, interfaces=interfaces) as browser:
            async for event in browser:
                yield event

    # What it holds

    @property
    def session(self) -> Session:
        """The session that the verbs go to."""
        return self._session

    @property
    def _session(self) -> Session:
        if self._current is None:
            raise ConnectionLostError("the client is not connected")
        return self._current

    @property
    def id(self) -> str:
        """The session's id, which both sides know."""
        return self._session.id

    @property
    def state(self) -> str:
        """``connecting``, ``open``, ``draining`` (no new calls) or ``closed``."""
        return self._session.state

    @property
    def principal(self) -> Principal | None:
        """Who the server has proved to be beyond its certificate; always None as yet."""
        return self._session.principal

    @property
    def peer_address(self) -> str:
        """Where the server is, as ``host:port``."""
        return self._session.peer_address

    @property
    def ledger(self) -> QualityLedger:
        """What its streams came to, for `observe_quality`; made when it is first needed."""
        ledger = self._runtime.ledger
        if ledger is None:
            from echostream.session.ledger import QualityLedger

            ledger = QualityLedger(lambda: () if self._current is None else (self._current,))
            ledger.serve(self._runtime)
        return ledger

    @property
    def dependency_overrides(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        """Functions that stand in for those of dependencies, in what this client serves."""
        return self._services.overrides

    def register(self, *targets: object, name: str | None = None, middleware: Sequence[Middleware] = ()) -> None:
        """Serve objects of ``@service`` classes and ``@handler`` functions to the server.

        Args:
            *targets: what to serve; bound methods too.
            name: wire name of the one function given.
            middleware: layers around what comes in for these targets, inside those of the client.

        Raises:
            SignatureError: a type cannot be validated.
            ConfigurationError: a name is taken, or a target is neither.
        """
        self._services.register(*targets, name=name, chains=compile_chains(middleware))

    async def close(self) -> None:
        """End the session; what was written is sent. Idempotent."""
        if self._current is not None:
            await self._current.close()
        await self._runtime.close()

    # Making the connection

    @classmethod
    async def _dial_remembered(cls, info: ServiceInfo, name: str, trust: Trust, dial: DialOptions) -> RpcClient:
        """Connect to a server that only its announcement speaks for: trusted on first use, held to it afterwards."""
        met = await meet(info, name, trust, credentials=dial.credentials is not None)
        client = await cls._dial_any(info, met.tls, dial)
        try:
            await asyncio.to_thread(met.remember)
        except BaseException:
            await client.close()
            raise
        if not met.trusted:
            client._services.withhold(MET_FIRST)
            client._session.trusted = False
        return client

    @classmethod
    async def _dial_any(cls, info: ServiceInfo, tls: ClientTls | None, dial: DialOptions) -> RpcClient:
        """Try the addresses of a server in turn."""
        failures: list[str] = []
        for url in info.urls:
            try:
                return await cls._dial(Address.parse(url), tls, dial)
            except ConnectError as error:
                failures.append(error.message)
        raise ConnectError(f"found {info.escaped}, but could not reach it: {'; '.join(failures)}")

    @classmethod
    async def _dial(cls, address: Address, tls: ClientTls | None, dial: DialOptions) -> RpcClient:
        limits = dial.limits or Limits()
        early_data = dial.early_data and dial.credentials is None
        transport = make_transport(address.scheme, dial.engine, limits, early_data=early_data, patience=dial.timeout)
        client = cls(Runtime(limits, chains=dial.chains))
        hello = Hello(
            role=Role.CLIENT, epoch=EPOCH, agent=AGENT, credentials=dial.credentials, limits=PeerLimits.of(limits)
        )
        try:
            async with asyncio.timeout(dial.timeout):
                link = await transport.dial(address, accept=lambda link: client._accept(link, hello), tls=tls)
                if not link.early:
                    await asyncio.shield(client._session.opened)
        except TimeoutError:
            answered = client._current is not None
            await client._abort()
            raise too_late(address, dial.timeout, answered=answered) from None
        except ConnectionLostError as error:
            await client._abort()
            raise refused(address, error) from None
        except BaseException:
            await client._abort()
            raise
        return client

    def _accept(self, connection: Connection, hello: Hello) -> Receiver:
        session = self._current = Session(connection, hello, self._runtime, self._services, self)
        session.peer.introduce()
        if connection.early:
            session.begin_early(connection.greeting)
        return session.peer

    async def _abort(self) -> None:
        if self._current is not None:
            self._current.peer.connection.abort()
        await self._runtime.close()

    # SessionOwner of the session

    def on_hello(self, session: Session) -> None:
        """The server let this client in."""
        session.open()
        keep_greeting = session.peer.connection.keep_greeting
        if keep_greeting is not None:
            keep_greeting(session.peer.protocol.peer_hello)
        _log.info("= session %s to %s opened", session.id, session.peer_address)

    def on_closed(self, session: Session) -> None:
        """The session ended."""
        _log.info("= session %s to %s ended: %s", session.id or "?", session.peer_address, session.ending)
