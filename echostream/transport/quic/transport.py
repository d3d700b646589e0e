"""``quic://``: dials and listens, finds addresses, checks certificates, and says in words what went wrong."""

from __future__ import annotations

import asyncio
import errno
import socket

from echostream.config import ALPN, Limits, QuicSettings
from echostream.errors import ConfigurationError, ConnectError
from echostream.transport.base import Accept, Address, Connection, Listener, Receiver, Transport
from echostream.transport.quic.acceptor import Acceptor
from echostream.transport.quic.codes import Refusal, TransportCode
from echostream.transport.quic.connection import QuicConnection
from echostream.transport.quic.endpoint import Endpoint
from echostream.transport.quic.engine import QuicEngines
from echostream.transport.quic.engines import check_engine, load_engines
from echostream.transport.quic.life import ConnectionLife
from echostream.transport.quic.roaming import RoamingEndpoint
from echostream.transport.quic.sharing import SHARES, PortShare
from echostream.transport.quic.tickets import Resumption, client_tickets
from echostream.transport.sockets import (
    SocketAddress,
    VirtualPort,
    describe_error,
    format_address,
    listen_udp,
)
from echostream.transport.tls import ClientTls, ServerTls
from echostream.types import clock

__all__ = ("QuicListener", "QuicTransport", "share_port")

Resolved = tuple[int, SocketAddress]
"""Address family and socket address."""


class QuicTransport(Transport[ClientTls, ServerTls]):
    """QUIC on our own batched UDP endpoint.

    Args:
        engine: ``"auto"``, ``"aioquic"`` or ``"qh3"``, see `engines.py`.
        settings: timeouts, windows, sizes.
        limits: watermarks of the streams.
        early_data: whether data may travel before the handshake is done (0-RTT): as a client to servers that gave a
            ticket for it, which makes `dial` return at once; as a server from clients that have one.
        patience: seconds that a handshake of this side may take as a client, where that is more than the setting.

    Raises:
        ConfigurationError: there is no such engine, or it is not installed.
    """

    scheme = "quic"

    def __init__(
        self,
        *,
        engine: str = "auto",
        settings: QuicSettings | None = None,
        limits: Limits | None = None,
        early_data: bool = False,
        patience: float = 0.0,
    ) -> None:
        check_engine(engine)
        self._engine = engine
        self._settings = settings or QuicSettings()
        self._limits = limits or Limits()
        self._early_data = early_data
        self._engines: QuicEngines | None = None
        self._patience = max(patience, self._settings.handshake_timeout)

    async def dial(self, address: Address, *, accept: Accept, tls: ClientTls) -> Connection:
        _require_port(address)
        resolved = await _resolve(address)
        failures: dict[Resolved, _UnreachableError] = {}
        deadline = clock.monotonic() + self._patience
        for target in resolved:
            left = deadline - clock.monotonic()
            timeout = left if target is resolved[-1] else min(left, self._settings.address_timeout)
            try:
                return await self._dial_one(address, target, timeout=timeout, accept=accept, tls=tls)
            except _UnreachableError as error:
                failures[target] = error
        silent = next((target for target in resolved[:-1] if failures[target].silent), None)
        if silent is not None and (left := deadline - clock.monotonic()) > 0:
            try:  # it may be there, and its packets lost, when the others are not
                return await self._dial_one(address, silent, timeout=left, accept=accept, tls=tls)
            except _UnreachableError as error:
                failures[silent] = error
        several = len(failures) > 1
        texts = (
            f"{format_address(target[1])}: {error}" if several else str(error) for target, error in failures.items()
        )
        raise ConnectError(f"cannot reach {address}: {'; '.join(texts)}")

    async def listen(self, address: Address, *, accept: Accept, tls: ServerTls) -> QuicListener:
        _require_port(address)
        share = (SHARES.get() or {}).get(str(address))
        resolved = await _resolve(address) if share is None else []
        engines = self._engines_for(tls)
        engines.warm_up(tls)
        acceptor = Acceptor(
            engines,
            accept=accept,
            tls=tls,
            settings=self._settings,
            limits=self._limits,
            reset_key=tls.derive_key(f"stateless reset of {address}"),
            early_data=self._early_data,
            share=share,
            token_key=None if share is None else tls.derive_key(f"Retry tokens of {address}"),
        )
        sock = _bind(address, resolved, self._settings.socket_buffer_bytes) if share is None else share.sock
        await acceptor.endpoint.open(sock, self._settings, connected=False)
        bound: SocketAddress = sock.getsockname()
        return QuicListener(acceptor, Address(self.scheme, bound[0], bound[1]))

    async def _dial_one(
        self, address: Address, target: Resolved, *, timeout: float, accept: Accept, tls: ClientTls
    ) -> QuicConnection:
        endpoint = RoamingEndpoint(*target, self._settings)
        try:
            peer = await endpoint.dial()
        except OSError as error:
            raise _UnreachableError(describe_error(error)) from None
        engines, server_name = self._load_engines(), tls.server_name or address.host
        resumption = Resumption(
            client_tickets(), (type(engines), peer), tls, server_name, self._settings, early_data=self._early_data
        )
        resumption.choose()
        dialler = _Dialler(address, endpoint, self._patience, accept=accept, resumption=resumption)
        try:
            engine = engines.connect(peer, server_name=server_name, now=clock.monotonic(), resumption=resumption)
            connection = QuicConnection(
                engine,
                endpoint,
                address=peer,
                settings=self._settings,
                limits=self._limits,
                keepalive=True,
                admit=dialler.admit,
                refused=dialler.refused,
            )
            connection.give(self._patience)
            endpoint.add(connection, engine.connection_id)
            if resumption.early_data:
                connection.open_early()
            connection.resume()  # sends the first flight
            await dialler.wait(timeout)
        except BaseException:
            dialler.done.cancel()
            endpoint.close()
            raise
        return connection

    def _load_engines(self) -> QuicEngines:
        if self._engines is None:
            self._engines = load_engines(self._engine, self._settings)
        return self._engines

    def _engines_for(self, tls: ServerTls) -> QuicEngines:
        """Return engines that can sign with a server's key."""
        engines = self._load_engines()
        if self._engine == "auto" and not engines.can_serve(tls):
            return load_engines("aioquic", self._settings)
        return engines


class QuicListener(Listener):
    """A bound socket that takes connections; `url` tells the port."""

    def __init__(self, acceptor: Acceptor, address: Address) -> None:
        self.url = str(address)
        self._acceptor = acceptor

    def __repr__(self) -> str:
        return f"<QuicListener {self.url} {len(self._acceptor.endpoint.connections)} connections>"

    def stop_accepting(self) -> None:
        self._acceptor.is_accepting = False

    async def close(self) -> None:
        self._acceptor.is_accepting = False
        self._acceptor.endpoint.close()

    def stats(self) -> dict[str, int]:
        """Return the endpoint's counters by name, see `EndpointStats`."""
        return self._acceptor.endpoint.stats()


class _UnreachableError(Exception):
    """One address of a host did not lead to a server; another may.

    Args:
        text: why.
        silent: whether nothing came back, so that it may be there all the same.
    """

    def __init__(self, text: str, *, silent: bool = False) -> None:
        super().__init__(text)
        self.silent = silent


class _Dialler:
    """Waits for one handshake, checks the certificate, and turns failures into errors."""

    def __init__(
        self, address: Address, endpoint: Endpoint, limit: float, *, accept: Accept, resumption: Resumption
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._address = address
        self._endpoint = endpoint
        self._limit = limit
        self._accept = accept
        self._resumption = resumption

    async def wait(self, timeout: float) -> None:
        """Wait for the end of the handshake: up to the limit when something was heard within `timeout` seconds."""
        await asyncio.wait([self.done], timeout=timeout)
        if not self.done.done() and self._endpoint.counters.packets_received:
            await asyncio.wait([self.done], timeout=self._limit - timeout)
        if not self.done.done():
            raise self._describe_silence(timeout)
        self.done.result()

    def admit(self, connection: ConnectionLife, chain: tuple[bytes, ...]) -> Receiver:
        resumption = self._resumption
        if connection.early or connection.resumed:  # its certificates passed when the ticket was chosen
            chain = resumption.chain
            connection.peer_certificate = chain[0]
        else:
            resumption.tls.verify(chain, resumption.server_name)
        if not connection.early:
            resumption.trust(chain)
        connection.greeting, connection.keep_greeting = resumption.greeting, resumption.greet
        receiver = connection.receiver or self._accept(connection)
        if not self.done.done():
            self.done.set_result(None)
        return receiver

    def refused(self, connection: ConnectionLife, refusal: Refusal) -> None:
        if not self.done.done():
            self.done.set_exception(self._translate(refusal))

    def _describe_silence(self, timeout: float) -> _UnreachableError:
        if self._endpoint.counters.packets_received:
            return _UnreachableError(f"the handshake took longer than {self._limit:g} s")
        return _UnreachableError(
            f"no answer within {timeout:.3g} s: check host and port, that the server runs, and that no firewall stops"
            " UDP",
            silent=True,
        )

    def _translate(self, refusal: Refusal) -> Exception:
        if refusal.code == TransportCode.NO_ERROR and not refusal.said:  # the connection's own limit
            return self._describe_silence(self._limit)
        if isinstance(refusal.error, OSError):
            return _UnreachableError(_explain_socket_error(refusal.error))
        if refusal.error is not None:
            return refusal.error
        if refusal.code == TransportCode.NO_APPLICATION_PROTOCOL or _is_about_alpn(refusal):
            return ConnectError(f"{self._address} does not speak {ALPN}: another program or version listens there")
        if refusal.code == TransportCode.CONNECTION_REFUSED:
            return ConnectError(f"{self._address} takes no new connections: {refusal.said}")
        return ConnectError(f"handshake with {self._address} failed: {refusal.reason}")


def _is_about_alpn(refusal: Refusal) -> bool:
    """Whether a server of qh3 refused the protocol: it says so with another alert than RFC 7301 section 3.2 has."""
    return refusal.code == TransportCode.HANDSHAKE_FAILURE and "ALPN" in refusal.said


async def share_port(address: Address, count: int) -> tuple[Address, list[PortShare]]:
    """Bind an address for several workers: returns it with its port, and each one's share.

    Raises:
        ConnectError: it cannot be bound.
        ConfigurationError: it has no port.
    """
    _require_port(address)
    buffer_bytes = QuicSettings().socket_buffer_bytes
    alone = _bind(address, await _resolve(address), buffer_bytes)  # not shared: who is there already is seen
    bound: SocketAddress = alone.getsockname()
    alone.close()
    family = socket.AF_INET6 if len(bound) == 4 else socket.AF_INET
    try:
        shares = PortShare.make(family, bound, count, buffer_bytes=buffer_bytes)
    except OSError as error:
        raise ConnectError(f"cannot share {address} among {count} workers: {describe_error(error)}") from None
    return Address(address.scheme, address.host, bound[1]), shares


def _require_port(address: Address) -> None:
    if address.port is None:
        raise ConfigurationError("url", f"{str(address)!r} has no port, expected like {address}:4433")


async def _resolve(address: Address) -> list[Resolved]:
    """Find the addresses of a host in the order to try them."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        cause = describe_error(error) if isinstance(error, OSError) else str(error)
        raise ConnectError(
            f"cannot resolve the host of {address}: {cause}; check its spelling, or give its IP address"
        ) from None
    resolved: dict[Resolved, None] = {}
    for family, _, _, _, (host, port, *rest) in found:
        if family == socket.AF_INET:
            resolved[family, (str(host), int(port))] = None
        elif family == socket.AF_INET6:
            resolved[family, (str(host), int(port), int(rest[0]), int(rest[1]))] = None
    return list(resolved)


def _bind(address: Address, resolved: list[Resolved], buffer_bytes: int) -> socket.socket | VirtualPort:
    """Bind the first address that this machine has."""
    failure: OSError | None = None
    for family, target in resolved:
        try:
            return listen_udp(family, target, buffer_bytes=buffer_bytes)
        except OSError as error:
            failure = failure or error
    raise ConnectError(_explain_bind_error(address, failure)) from None


def _explain_bind_error(address: Address, error: OSError | None) -> str:
    match error.errno if error is not None else None:
        case errno.EADDRINUSE:
            return f"{address} is in use by another program; stop it or listen on port 0 for a free one"
        case errno.EADDRNOTAVAIL:
            return f"cannot listen on {address}: this machine has no such address, try 0.0.0.0 or [::] for all it has"
        case errno.EACCES:
            return f"cannot listen on {address}: ports below 1024 need privileges, choose a higher one"
        case _:
            return f"cannot listen on {address}: {describe_error(error) if error is not None else 'no address'}"


def _explain_socket_error(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "connection refused: no program listens on that UDP port; start the server, or check the port"
    return describe_error(error)
