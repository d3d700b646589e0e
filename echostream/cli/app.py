"""The commands and their names. What a command needs beyond its options is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from echostream.cli.call import call
from echostream.cli.certs import certs
from echostream.cli.describe import describe
from echostream.cli.discover import discover
from echostream.cli.docs import docs
from echostream.cli.events import emit, events
from echostream.cli.new import new
from echostream.cli.serve import serve

__all__ = ("app",)

app = typer.Typer(
    name="echostream",
    help="Serve, find, call and describe EchoStream programs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from echostream.wiring import AGENT

        typer.echo(AGENT.replace("-python/", " "))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Serve, find, call and describe EchoStream programs."""


for command in (serve, call, emit, events, discover, describe, new):
    app.command()(command)
app.add_typer(docs, name="docs")
app.add_typer(certs, name="certs")
