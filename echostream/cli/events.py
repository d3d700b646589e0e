"""``echostream emit`` and ``echostream events``: say something to a server, and hear what it says."""

from __future__ import annotations

import asyncio
import difflib
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from echostream.cli.console import FAILED, Misuse, failures, print_json, run
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from echostream.client import RpcClient
    from echostream.introspection.model import EventDescription
    from echostream.session.context import Context

__all__ = ("emit", "events")

_LONGEST: Final = 2000
"""Characters of an explanation that are shown: the network wrote a part of it."""


@with_target
def emit(
    event: Annotated[str, typer.Argument(help="Name of the event, such as price.changed.")],
    payload: Annotated[str | None, typer.Argument(help="JSON; - reads it from standard input.")] = None,
    ack: Annotated[bool, typer.Option(help="Wait until the listeners of the server ran, and say how many.")] = True,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to be sent and acknowledged.")] = 10.0,
    meta: Annotated[list[str] | None, typer.Option(help="Metadata sent along, key=value; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on one line, also on a terminal.")] = False,
    *,
    target: Target,
) -> None:
    """Send an event to a server."""
    with failures(as_json=as_json):
        run(_emit(target, event, payload, ack, timeout, meta or [], as_json))


async def _emit(
    target: Target, event: str, payload: str | None, ack: bool, timeout: float, meta: list[str], as_json: bool
) -> None:
    from echostream.cli.lines import all_of_stdin
    from echostream.cli.values import parse_json, parse_metadata
    from echostream.discovery.service import safe_text

    if not event or "*" in event:
        raise Misuse(f"{event!r} is no name of an event: only listeners have patterns")
    target.must_be_named()
    metadata = parse_metadata(meta)
    text = all_of_stdin() if payload == "-" else payload
    value = None if text is None else parse_json(text, "payload")
    async with target.connect() as client:
        if not ack:
            await client.emit(event, value, timeout=timeout, metadata=metadata)
            return
        answer = await client.emit(event, value, ack=True, timeout=timeout, metadata=metadata)
        print_json({"listeners": answer.listeners, "failed": answer.failed}, compact=as_json)
        if not answer.listeners or answer.failed:
            typer.echo(safe_text(await _explanation(client, event, failed=answer.failed), _LONGEST), err=True)
    if answer.failed:
        raise typer.Exit(FAILED)


async def _explanation(client: RpcClient, event: str, *, failed: int) -> str:
    """Say why an event reached nobody, or what its listeners wanted; the server's reflection knows more than we do."""
    from echostream.cli.remote import describe_server
    from echostream.errors import RpcError
    from echostream.introspection.text import fields_of, type_text

    known: list[EventDescription] = []
    with suppress(RpcError):  # without reflection there are no hints
        known = [item for service in await describe_server(client) for item in service.events]
    heard = {item.name: item.payload for item in known if item.direction == "received"}
    if not failed:
        near = difflib.get_close_matches(event, heard, 3, 0.6)
        return f"nobody on the server listens to {event}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    text = "its listener failed; the server's log says why"
    if (schema := heard.get(event)) is not None:
        fields = [f"{name}: {kind}" for _, rows in fields_of(schema)[:1] for name, kind, _ in rows]
        text += f"; expected {type_text(schema)}" + (f" with {', '.join(fields)}" if fields else "")
    return text


@with_target
def events(
    pattern: Annotated[str, typer.Argument(help="Name, or a pattern with * for any characters.")] = "*",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many.")] = None,
    *,
    target: Target,
) -> None:
    """Print the events that a server sends to its clients, one line of JSON each, until Ctrl-C."""
    with failures():
        run(_events(target, pattern, count))


async def _events(target: Target, pattern: str, count: int | None) -> None:
    from echostream.errors import ConnectionLostError

    done = asyncio.Event()
    left = count

    def show(payload: Any, ctx: Context) -> None:
        nonlocal left
        if left == 0:
            return
        print_json({"event": ctx.method, "payload": payload}, compact=True)
        if left is not None:
            left -= 1
            if left == 0:
                done.set()

    async with target.connect() as client:
        client.on(pattern, show)
        typer.echo(f"listening to {pattern} of {client.peer_address}", err=True)
        waits = [asyncio.ensure_future(done.wait()), asyncio.ensure_future(client.session.wait_closed())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not done.is_set():
            raise ConnectionLostError(client.session.ending or "the server ended the session")
