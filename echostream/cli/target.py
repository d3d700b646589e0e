"""Which server a command talks to: the options for it, and the connection."""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from echostream.cli.console import Misuse

if TYPE_CHECKING:
    from echostream.client import RpcClient
    from echostream.connecting import Connecting
    from echostream.finding import Trust

__all__ = ("Target", "with_target")

_PANEL = "Which server"


@dataclass(frozen=True)
class Target:
    """A server, as the options name it."""

    url: str | None
    service: str | None
    ca: str | None
    fingerprint: list[str]
    insecure: bool
    first_use: bool
    credentials: str | None
    token: str | None
    wait: float

    def must_be_named(self) -> None:
        """Refuse to talk to whichever server is found first.

        Raises:
            Misuse: the options name neither an address nor a service.
        """
        if self.url is None and self.service is None:
            raise Misuse("say which server: --url quic://host:port, or --service NAME (echostream discover lists them)")

    def connect(self, service: str | None = None) -> Connecting[RpcClient]:
        """Return the connection in the making.

        Args:
            service: what to look for on the local network when the options name neither address nor service.
        """
        from echostream.client import RpcClient
        from echostream.middleware import BearerToken

        ca = self.ca if self.ca in (None, "dev") else str(Path(self.ca).expanduser())
        trust: dict[str, Any] = {"ca": ca, "fingerprint": self.fingerprint or None, "credentials": self.credentials}
        if self.token is not None:
            trust["middleware"] = [BearerToken(self.token)]
        if self.url is None:
            if self.insecure:
                raise Misuse("--insecure goes with --url: a server that is found announces its certificate")
            found = self.service or service
            way: Trust = "first-use" if self.first_use else "known"
            return RpcClient.discover(found, timeout=self.wait, trust=way, connect_timeout=self.wait, **trust)
        if self.service is not None:
            raise Misuse("give --url or --service: an address, or a name to look for")
        if trust["ca"] is None and not self.fingerprint and not self.insecure and _is_loopback(self.url):
            trust["ca"] = "dev"
        return RpcClient.connect(self.url, insecure=self.insecure, timeout=self.wait, **trust)


def with_target(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name a server, and hand them to it as its parameter ``target``."""
    signature = inspect.signature(command, eval_str=True)
    options = inspect.signature(_options, eval_str=True).parameters

    def wrapped(**values: Any) -> None:
        target = Target(**{name: values.pop(name) for name in options})
        command(target=target, **values)

    own = [item for name, item in signature.parameters.items() if name != "target"]
    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in (*own, *options.values())]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {item.name: item.annotation for item in parameters}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def _options(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            "-u",
            envvar="ECHOSTREAM_URL",
            rich_help_panel=_PANEL,
            help="Address, quic://host:port. Left out, the server is looked for on the local network.",
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option("--service", "-s", rich_help_panel=_PANEL, help="Name to look for on the network.")
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option(rich_help_panel=_PANEL, help='Who to trust: a PEM file, or "dev" (the default on this machine).'),
    ] = None,
    fingerprint: Annotated[
        list[str] | None, typer.Option(rich_help_panel=_PANEL, help="SHA-256 of the server's certificate to trust.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", rich_help_panel=_PANEL, help="Trust anybody. For experiments only.")
    ] = False,
    first_use: Annotated[
        bool,
        typer.Option(
            "--first-use",
            rich_help_panel=_PANEL,
            help="Send credentials and token also to a server met for the first time, and trusted from then on.",
        ),
    ] = False,
    credentials: Annotated[
        str | None,
        typer.Option(envvar="ECHOSTREAM_CREDENTIALS", rich_help_panel=_PANEL, help="What its authenticate= gets."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="ECHOSTREAM_TOKEN", rich_help_panel=_PANEL, help="What its TokenAuthentication gets."),
    ] = None,
    wait: Annotated[
        float, typer.Option(rich_help_panel=_PANEL, min=0.1, help="Seconds to find it, and to connect.")
    ] = 5.0,
) -> None:
    """Declare the options of `Target`."""


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
