"""How monitoring.py shows its reports: as a live table to people, as lines of JSON to programs."""

import json
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

Report = dict[str, Any]
Show = Callable[[Report], None]
COLUMNS = ("sessions", "running", "calls", "failed", "bugs", "mean", "slowest", "round trip")
COLOURS = {"up": "green", "lost": "red", "departed": "dim"}


@contextmanager
def display(*, as_json: bool) -> Generator[Show]:
    """Give the function that shows a report: in a terminal in a table, unless JSON is wanted."""
    if as_json or not sys.stdout.isatty():
        yield lambda report: print(json.dumps(report), flush=True)
        return
    reports: dict[str, Report] = {}
    with Live(auto_refresh=False) as live:

        def show(report: Report) -> None:
            server = report["server"]
            reports[server] = reports.get(server, {}) | report  # what it said before stays until it says more
            live.update(table(reports.values()), refresh=True)

        yield show


def table(reports: Iterable[Report]) -> Table:
    drawn = Table("server", "state", *COLUMNS, box=None, header_style="bold", pad_edge=False)
    for column in drawn.columns[2:]:
        column.justify = "right"
    for report in reports:
        methods = report.get("methods", {})
        calls, failed = (sum(method[what] for method in methods.values()) for what in ("calls", "failed"))
        numbers = (report.get("sessions"), report.get("running"), calls, failed, report.get("bugs"))
        state = Text(report["state"], COLOURS[report["state"]])
        drawn.add_row(Text(report["server"]), state, *map(_number, numbers), "", "", _ms(report.get("round_trip")))
        for name, method in methods.items():
            mean = method["seconds"] / method["calls"]
            counts = (_number(method["calls"]), _number(method["failed"]))
            drawn.add_row(Text(f"  {name}"), "", "", "", *counts, "", _ms(mean), _ms(method["slowest"]))
    return drawn


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f} ms"
