"""``echostream sync``: how far apart this machine's clock and a server's are, how well that is known, what is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from echostream.cli.console import FAILED, Misuse, console, failures, print_json, run
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from rich.console import Group

    from echostream.session.clock_quality import ClockQuality

__all__ = ("sync",)

_BARS: Final = "▁▂▃▄▅▆▇█"
_HISTORY: Final = 60
"""Readings that are drawn."""


@with_target
def sync(
    address: Annotated[str | None, typer.Argument(metavar="URL", help="The server, as with --url.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many readings.")] = None,
    interval: Annotated[float, typer.Option(min=0.05, max=3600.0, help="Seconds between readings.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each reading.")] = False,
    *,
    target: Target,
) -> None:
    """Show how far apart this machine's clock and a server's are, and what is wrong, until Ctrl-C.

    Ends with 1 when the clock is not in step with the server's at the last reading.
    """
    with failures(as_json=as_json):
        run(_sync(_addressed(target, address), count, interval, as_json))


def _addressed(target: Target, address: str | None) -> Target:
    if address is None:
        target.must_be_named()
        return target
    if target.service is not None:
        raise Misuse("give an address or --service: not both")
    return dataclasses.replace(target, url=address)


async def _sync(target: Target, count: int | None, interval: float, as_json: bool) -> None:
    from echostream.errors import ConnectionLostError

    async with target.connect() as client:
        session, done = client.session, 0
        await session.clock.wait_locked(timeout=target.wait)
        with _view(as_json, f"session time of {client.peer_address}") as show:
            while True:
                quality = session.clock.quality
                show(quality)
                done += 1
                if done == count:
                    break
                await asyncio.sleep(interval)
                if session.state == "closed":
                    raise ConnectionLostError(session.ending or "the server ended the session")
    if not quality.locked:
        raise typer.Exit(FAILED)


class _Show(Protocol):
    def __call__(self, quality: ClockQuality) -> None: ...


@contextmanager
def _view(as_json: bool, title: str) -> Generator[_Show]:
    """Give what shows a reading: JSON, a picture that is drawn anew, or lines where nobody watches."""
    if as_json:
        yield lambda quality: print_json(_facts(quality), compact=True)
    elif not sys.stdout.isatty():
        yield lambda quality: typer.echo(_line(quality))
    else:
        from rich.live import Live

        readings: deque[ClockQuality] = deque(maxlen=_HISTORY)
        with Live(console=console(), auto_refresh=False) as live:

            def draw(quality: ClockQuality) -> None:
                readings.append(quality)
                live.update(_picture(title, readings), refresh=True)

            yield draw


def _picture(title: str, readings: Sequence[ClockQuality]) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    now, first = readings[-1], readings[0]
    rows = (
        ("offset", f"{now.offset_ns / 1e6:+.3f} ms", [(item.offset_ns - first.offset_ns) / 1e3 for item in readings]),
        ("drift", f"{now.drift_ppm:+.2f} ppm", [item.drift_ppm for item in readings]),
        ("round trip", _round_trip(now), [item.round_trip_ns for item in readings]),
        ("error bound", _bound(now), [item.error_bound_ns for item in readings]),
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value, history in rows:
        table.add_row(name, value, Text(_curve(history), style="cyan"))
    table.add_row("probes", f"{now.answered} of {now.sent} answered", "")
    good = now.locked and not now.faults
    verdict = Text(now.verdict, style="bold green" if good else "bold yellow")
    faults = (Text(f"- {fault}", style="yellow") for fault in now.faults)
    return Group(Text(title, style="bold"), table, verdict, *faults)


def _curve(values: Sequence[float]) -> str:
    """Return bars from the least to the greatest value; nothing while there is no such."""
    if not all(map(math.isfinite, values)):
        return ""
    low, high = min(values), max(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * steps) if high > low else 0] for value in values)


def _line(quality: ClockQuality) -> str:
    text = (
        f"offset {quality.offset_ns / 1e6:+.3f} ms  drift {quality.drift_ppm:+.2f} ppm"
        f"  round trip {_round_trip(quality)}  bound {_bound(quality)}  {quality.verdict}"
    )
    return "; ".join((text, *quality.faults))


def _round_trip(quality: ClockQuality) -> str:
    return f"{quality.round_trip_ns / 1e6:.3f} ms" if quality.round_trip_ns else "unknown"


def _bound(quality: ClockQuality) -> str:
    return "unknown" if math.isinf(quality.error_bound_ns) else f"±{quality.error_bound_ns / 1e6:.3f} ms"


def _facts(quality: ClockQuality) -> dict[str, Any]:
    facts = dataclasses.asdict(quality) | {"verdict": quality.verdict, "faults": quality.faults}
    if math.isinf(quality.error_bound_ns):
        facts["error_bound_ns"] = None  # JSON has no such number
    return facts
