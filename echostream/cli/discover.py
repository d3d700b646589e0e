"""``echostream discover``: who is there on the local network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echostream.cli.console import console, failures, print_json, run

if TYPE_CHECKING:
    from echostream.discovery.service import ServiceInfo

__all__ = ("discover",)


def discover(
    name: Annotated[str | None, typer.Argument(help="Only servers with this name or service.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds to look; 3, or with --watch for ever.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and show who comes and goes.")] = False,
    interface: Annotated[
        list[str] | None, typer.Option(help="Address of an interface to look on; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each.")] = False,
) -> None:
    """List the EchoStream servers on the local network; exits with 1 when there is none."""
    with failures():
        run(_watch(name, timeout, interface, as_json) if watch else _list(name, timeout, interface, as_json))


async def _list(name: str | None, timeout: float | None, interfaces: list[str] | None, as_json: bool) -> None:
    from echostream.client import RpcClient
    from echostream.config import DEFAULT_DISCOVER_TIMEOUT
    from echostream.discovery.query import Found, Query, not_found_error

    seconds = timeout or DEFAULT_DISCOVER_TIMEOUT
    if sys.stderr.isatty():
        typer.echo(f"looking for {seconds:g} s ...", err=True)
    seen = await RpcClient.services(seconds, interfaces=interfaces)
    found = [item for item in seen if item.matches(name)]
    if not found and not as_json:
        where = ", ".join(interfaces or ["the default interface"])
        raise not_found_error(Query(name), [Found([], seen, where)], seconds)
    for item in found:
        if as_json:
            print_json(_facts(item), compact=True)
    if as_json:
        raise typer.Exit(0 if found else 1)
    _show(found)


async def _watch(name: str | None, timeout: float | None, interfaces: list[str] | None, as_json: bool) -> None:
    from echostream.client import RpcClient
    from echostream.discovery.service import Arrived

    async for event in RpcClient.browse(timeout=timeout, name=name, interfaces=interfaces):
        word = "arrived" if isinstance(event, Arrived) else "departed"
        if as_json:
            print_json({"event": word, **_facts(event.service)}, compact=True)
        else:
            typer.echo(f"{word:8}  {event.service.escaped}")


def _show(found: list[ServiceInfo]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from echostream.discovery.service import safe_text

    table = Table(box=box.SIMPLE)
    for heading in ("name", "version", "address", "services", "metadata"):
        # An address without its end is none: the other columns make room for it.
        table.add_column(heading, overflow="fold", no_wrap=heading == "address")
    for item in found:
        metadata = " ".join(f"{key}={value}" for key, value in item.metadata.items())
        cells = (item.name, item.version, "\n".join(item.urls), ", ".join(item.services), metadata)
        table.add_row(*(Text("\n".join(map(safe_text, cell.split("\n")))) for cell in cells))
    console().print(table)


def _facts(item: ServiceInfo) -> dict[str, Any]:
    return {
        "name": item.name,
        "version": item.version,
        "urls": item.urls,
        "services": item.services,
        "metadata": dict(item.metadata),
        "fingerprint": item.fingerprint,
        "id": item.id,
    }
