"""The commands and their names. What a command needs beyond its options is imported when it runs."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from echostream.cli.call import call
from echostream.cli.cast import cast
from echostream.cli.certs import certs
from echostream.cli.describe import describe
from echostream.cli.discover import discover
from echostream.cli.docs import docs
from echostream.cli.events import emit, events
from echostream.cli.new import new
from echostream.cli.play import play
from echostream.cli.serve import serve
from echostream.cli.sync import sync

__all__ = ("app",)

_ELSEWHERE: Final = {
    "serve": "run start",
    "call": "invoke req request",
    "emit": "pub publish",
    "events": "listen sub subscribe",
    "discover": "browse list ls",
    "sync": "clock ntp",
    "new": "create init",
}
"""What commands are called elsewhere."""


class Commands(TyperGroup):
    """Says what a command of elsewhere is called here."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None where there is none."""
        found = super().get_command(ctx, cmd_name)
        here = next((name for name, others in _ELSEWHERE.items() if cmd_name in others.split()), None)
        if found is None and here is not None and not ctx.resilient_parsing:
            ctx.fail(f"No such command {cmd_name!r}. Here it is {here!r}.")
        return found


app = typer.Typer(
    name="echostream",
    cls=Commands,
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


for command in (serve, call, emit, events, discover, describe, sync, cast, play, new):
    app.command()(command)
app.add_typer(docs, name="docs")
app.add_typer(certs, name="certs")
