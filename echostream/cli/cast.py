"""``echostream cast``: send an audio file to all who listen, and see how well they keep step."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from echostream.cli.console import Misuse, console, failures, print_json, run

if TYPE_CHECKING:
    from rich.table import Table

    from echostream.audio import Caster, PlayReport

__all__ = ("cast", "must_have_audio", "receivers_table")

_INTERVAL: Final = 0.25
"""Seconds between two looks of the table: as often as receivers report."""

_JSON_INTERVAL: Final = 1.0


def cast(
    file: Annotated[Path, typer.Argument(help="Audio file, or a video with sound.", show_default=False)],
    bind: Annotated[str, typer.Option("--bind", "-b", help="Address to serve at.")] = "quic://0.0.0.0:0",
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name on the local network; left out, cast on this machine.")
    ] = None,
    latency: Annotated[
        float, typer.Option(min=0.06, max=10.0, help="Seconds until what is sent is heard everywhere.")
    ] = 0.3,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    wait: Annotated[int, typer.Option(min=0, max=256, help="Receivers that must be there before it begins.")] = 1,
    interface: Annotated[
        list[str] | None, typer.Option(help="Address of an interface to be found on; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each second, for each receiver.")] = False,
) -> None:
    """Cast an audio file: every `echostream play` on the network hears it in step."""
    with failures():
        must_have_audio()
        run(_cast(file, bind, name, latency, loop, wait, interface, as_json))


def must_have_audio() -> None:
    """Say which extra is missing.

    Raises:
        Misuse: it is.
    """
    if missing := [library for library in ("av", "numpy") if find_spec(library) is None]:
        raise Misuse(f"{' and '.join(missing)} missing: pip install 'echostream[cli,audio]'")


async def _cast(
    file: Path,
    bind: str,
    name: str | None,
    latency: float,
    loop: bool,
    wait: int,
    interfaces: list[str] | None,
    as_json: bool,
) -> None:
    from echostream.audio import Caster, FileSource
    from echostream.server import RpcServer

    source = await asyncio.to_thread(FileSource, file)
    try:
        caster = Caster(source, latency=latency, loop=loop, wait_for=wait)
        server = RpcServer(bind)
        server.register(caster)
        known_as = name or f"cast on {socket.gethostname()}"
        server.enable_discovery(known_as, interfaces=interfaces)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(server)
            length = "" if source.duration is None else f" ({source.duration:.0f} s)"
            where = ", ".join(server.addresses)
            typer.echo(f"casting {file.name}{length} as {known_as!r} at {where}{_begins(wait)}", err=True)
            showing = asyncio.create_task(_show(caster, as_json=as_json))
            stack.callback(showing.cancel)
            await caster.run()
    finally:
        source.close()


def _begins(wait: int) -> str:
    with_whom = "the first receiver" if wait == 1 else f"{wait} receivers"
    return f"; it begins with {with_whom}: echostream play" if wait else ""


async def _show(caster: Caster, *, as_json: bool) -> None:
    """Tell what the receivers report: a table on a terminal, lines of JSON elsewhere if they are wanted."""
    if as_json:
        told: dict[str, int] = {}
        while True:
            await asyncio.sleep(_INTERVAL)
            last, told = told, {}
            for report in (await caster.status()).receivers:  # the first one of each at once: a file may be short
                turns = told[report.name] = (last.get(report.name, 0) + 1) % round(_JSON_INTERVAL / _INTERVAL)
                if turns == 1:
                    print_json(asdict(report), compact=True)
    elif sys.stderr.isatty():
        from rich.live import Live

        with Live(console=console(stderr=True), refresh_per_second=4, transient=True) as live:
            while True:
                status = await caster.status()
                live.update(receivers_table(status.receivers, _where(status)))
                await asyncio.sleep(_INTERVAL)


def _where(status: Any) -> str:
    whole = "" if status.duration is None else f" of {status.duration:.0f}"
    volume = "" if status.volume == 1 else f", volume {status.volume:.0%}"
    latency = f", heard after {status.latency * 1e3:.0f} ms"
    return f"{status.position:.0f}{whole} s{', paused' if status.paused else ''}{volume}{latency}"


def receivers_table(reports: Sequence[PlayReport], title: str = "") -> Table:
    """Return how it goes at the receivers, for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from echostream.discovery.service import safe_text

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title=title or None, title_justify="left")
    table.add_column("receiver")
    table.add_column("state")
    for heading in ("skew us", "offset", "drift ppm", "bound us", "speed ppm", "buffer ms", "lost", "late"):
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)  # in 80 columns nothing is cut off
    for at in reports:
        table.add_row(
            Text(safe_text(at.name)),
            Text(safe_text(at.state)),
            f"{at.skew_ns / 1e3:+.0f}",
            _offset(at.offset_ns),
            f"{at.drift_ppm:+.1f}",
            f"{at.bound_ns / 1e3:.0f}",
            f"{at.speed_ppm:+.1f}",
            f"{at.buffer_ns / 1e6:.0f}",
            str(at.lost),
            str(at.late),
        )
    return table


def _offset(offset_ns: float) -> str:
    """Return it in the unit that suits it: clocks of machines that started on other days are days apart."""
    return f"{offset_ns / 1e6:+.3f} ms" if abs(offset_ns) < 1e9 else f"{offset_ns / 1e9:+.1f} s"
