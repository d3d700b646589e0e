"""``echostream certs``: development certificates for servers and clients, and the memory of known servers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echostream.cli.console import Misuse, failures, print_json

if TYPE_CHECKING:
    from echostream.transport.tls_issue import Authority, Issued

__all__ = ("certs",)

certs = typer.Typer(
    help="Certificates for development, and servers that are remembered.", no_args_is_help=True, rich_markup_mode=None
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")]


@certs.command()
def init(as_json: AsJson = False) -> None:
    """Make this user's development authority, if there is none, and show it."""
    from echostream.transport.tls_issue import authority
    from echostream.types import clock

    with failures():
        _show(authority(clock.wall()), as_json=as_json)


@certs.command(name="rotate")
def rotate_authority(as_json: AsJson = False) -> None:
    """Replace this user's development authority: what the old one signed is trusted no more."""
    from echostream.transport.tls_issue import rotate
    from echostream.types import clock

    with failures():
        _show(rotate(clock.wall()), as_json=as_json)
        if not as_json:
            typer.echo("now start development servers anew, and make what `certs server` and `certs client` made again")


@certs.command()
def server(
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses that clients dial.")],
    name: Annotated[str, typer.Option(help="What the files are called.")] = "server",
    out: Out = Path(),
    days: Days = 365,
    as_json: AsJson = False,
) -> None:
    """Make a certificate for a server on another machine, signed by the development authority."""
    from echostream.types import clock

    with failures():
        issued = _issue(name, hosts, out, days, clock.wall(), as_json=as_json)
        if as_json:
            return
        typer.echo(
            f'serve with:  RpcServer(..., certificate="{issued.certificate}", private_key="{issued.private_key}")\n'
            f'connect with:  ca="{_authority_file()}", or fingerprint="{issued.fingerprint}"'
        )


@certs.command()
def client(
    name: Annotated[str, typer.Argument(help="Who the client is; the files are called so, too.")],
    out: Out = Path(),
    days: Days = 365,
    as_json: AsJson = False,
) -> None:
    """Make a certificate for a client, signed by the development authority. EchoStream's servers ask for none yet."""
    from echostream.types import clock

    with failures():
        _issue(name, [], out, days, clock.wall(), as_json=as_json)


@certs.command(name="list")
def list_known(as_json: AsJson = False) -> None:
    """List the servers whose certificates are remembered from their first contact."""
    from echostream.discovery.service import safe_text
    from echostream.transport.trust import KnownServers

    with failures():
        known = KnownServers().items()
        if as_json:
            print_json(dict(known))
            return
        for service, fingerprint in known:
            typer.echo(f"{fingerprint}  {safe_text(service)}")
        if not known:
            typer.echo("no server is remembered", err=True)


@certs.command()
def forget(service: Annotated[str, typer.Argument(help="Name under which the server was met.")]) -> None:
    """Forget a server, so that its certificate is trusted anew at the next contact."""
    import difflib

    from echostream.transport.trust import KnownServers

    with failures():
        known = KnownServers()
        if known.forget(service):
            typer.echo(f"forgot {service}: its certificate is trusted anew at the next contact")
            return
        near = difflib.get_close_matches(service, [name for name, _ in known.items()], 3, 0.5)
        raise Misuse(f"no server {service!r} is remembered" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _show(found: Authority, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(found), compact=True)
        return
    typer.echo(f"authority    {found.name}\nfile         {found.certificate}")
    typer.echo(f"fingerprint  {found.fingerprint}\nexpires      {found.expires:%Y-%m-%d}")


def _issue(name: str, hosts: list[str], out: Path, days: int, now: float, *, as_json: bool) -> Issued:
    from echostream.transport.tls_issue import issue

    issued = issue(name, hosts, out, now=now, days=days)
    if as_json:
        print_json(dataclasses.asdict(issued), compact=True)
        return issued
    typer.echo(f"certificate  {issued.certificate}\nkey          {issued.private_key}  (keep it secret)")
    typer.echo(f"fingerprint  {issued.fingerprint}")
    return issued


def _authority_file() -> Path:
    from echostream.transport.tls_issue import authority
    from echostream.types import clock

    return authority(clock.wall()).certificate
