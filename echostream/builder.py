"""`ServerBuilder`: an `RpcServer` put together step by step instead of by keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from echostream.admission import Authenticate
from echostream.middleware.base import Middleware
from echostream.plugin import Lifespan, Plugin
from echostream.presence import Announcement

if TYPE_CHECKING:
    from os import PathLike

    from echostream.config import Limits

__all__ = ("ServerBuilder",)


class Buildable(Protocol):
    """What the builder needs of a server."""

    def register(self, *targets: object, name: str | None = None, middleware: Sequence[Middleware] = ()) -> None:
        """Serve more."""

    def enable_discovery(
        self,
        name: str | None = None,
        *,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        """Announce it."""


ServerT = TypeVar("ServerT", bound=Buildable)


class ServerBuilder(Generic[ServerT]):
    """Builds an `RpcServer` step by step; every step returns the builder."""

    def __init__(self, make: Callable[..., ServerT]) -> None:
        """For `RpcServer.builder`, which hands itself down."""
        self._make = make
        self._urls: list[str] = []
        self._options: dict[str, Any] = {}
        self._registrations: list[tuple[tuple[object, ...], dict[str, Any]]] = []
        self._discovery: Announcement | None = None

    def bind(self, url: str) -> Self:
        """Listen at an address; may be repeated."""
        self._urls.append(url)
        return self

    def register(self, *targets: object, name: str | None = None, middleware: Sequence[Middleware] = ()) -> Self:
        """Serve objects and functions, as `RpcServer.register`; may be repeated."""
        self._registrations.append((targets, {"name": name, "middleware": middleware}))
        return self

    def certificate(self, certificate: str | PathLike[str] | bytes, private_key: str | PathLike[str] | bytes) -> Self:
        """Show this certificate."""
        self._options.update(certificate=certificate, private_key=private_key)
        return self

    def authenticate(self, authenticate: Authenticate) -> Self:
        """Decide who a client is."""
        self._options["authenticate"] = authenticate
        return self

    def engine(self, engine: str) -> Self:
        """Choose the QUIC engine."""
        self._options["engine"] = engine
        return self

    def early_data(self, early_data: bool = True) -> Self:
        """Run safe calls before a handshake is done."""
        self._options["early_data"] = early_data
        return self

    def limits(self, limits: Limits) -> Self:
        """Set what a session may cost."""
        self._options["limits"] = limits
        return self

    def use(self, *middleware: Middleware) -> Self:
        """Put layers around every call, event and item, inside those given before; may be repeated."""
        self._options["middleware"] = (*self._options.get("middleware", ()), *middleware)
        return self

    def plugin(self, *plugins: Plugin) -> Self:
        """Add bundles of handlers, middleware and hooks; may be repeated."""
        self._options["plugins"] = (*self._options.get("plugins", ()), *plugins)
        return self

    def lifespan(self, lifespan: Lifespan) -> Self:
        """Run the server inside this block."""
        self._options["lifespan"] = lifespan
        return self

    def reflection(self, reflection: bool = True) -> Self:
        """Tell clients what is served here, or do not."""
        self._options["reflection"] = reflection
        return self

    def debug(self, debug: bool = True) -> Self:
        """Send the texts of unexpected errors to the peer."""
        self._options["debug"] = debug
        return self

    def enable_discovery(
        self,
        name: str | None = None,
        *,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        interfaces: Sequence[str] | None = None,
    ) -> Self:
        """Announce the server on the local network."""
        self._discovery = Announcement(name, version, metadata, interfaces)
        return self

    def build(self) -> ServerT:
        """Return the server.

        Raises:
            ConfigurationError, SignatureError: as `RpcServer` and `RpcServer.register`.
        """
        server = self._make(*self._urls, **self._options)
        for targets, options in self._registrations:
            server.register(*targets, **options)
        if self._discovery is not None:
            name, version, metadata, interfaces = self._discovery
            server.enable_discovery(name, version=version, metadata=metadata, interfaces=interfaces)
        return server
