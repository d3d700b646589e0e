"""``echostream emit`` and ``echostream events``: say something to a server, and hear what it says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echostream.cli.console import failures, print_json, run
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from echostream.session.context import Context

__all__ = ("emit", "events")


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
    if not answer.listeners:
        typer.echo(f"nobody on the server listens to {event}", err=True)
    if answer.failed:
        raise typer.Exit(1)


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
