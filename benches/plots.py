"""Draws the curves of a run, SVG and PNG of each: one picture per kind of row, one line per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benches.core import Row

__all__ = ("PICTURES", "Picture", "draw")


@dataclass(frozen=True)
class Picture:
    """What a picture shows."""

    file: str
    id: str
    title: str
    x: str
    y: str
    containing: str = ""
    """Of the rows of this id only those whose name has this text."""
    x_scale: str = "log"
    y_scale: str = "log"


PICTURES: Final = (
    Picture("latency-alone", "LATENCY", "Typed calls, one at a time", "percentile", "ms", ", 1 in flight", "linear"),
    Picture("latency-64", "LATENCY", "Typed calls, 64 in flight", "percentile", "ms", ", 64 in flight", "linear"),
    Picture("throughput", "CONCURRENCY", "Typed calls per second", "calls in flight", "calls/s"),
    Picture(
        "sessions-cost", "SESSIONS", "A call among many sessions", "sessions", "us of the server", "processor time"
    ),
    Picture("sessions-memory", "SESSIONS", "Memory of a session", "sessions", "KiB", "memory of a session"),
    Picture("payload", "PAYLOAD", "A call that is answered with its own payload", "bytes", "ms"),
    Picture("datagrams", "DATAGRAM", "Bulk over one stream", "bytes a datagram", "MB/s"),
    Picture("handlers", "HANDLERS", "A call to a server with many handlers", "handlers", "us", y_scale="linear"),
    Picture("churn", "CHURN", "Sessions that come and go", "seconds", "MiB of the server", "", "linear", "linear"),
    Picture("loss", "LOSS", "99th percentile of calls under loss", "% lost", "ms", "64 bytes, 3% loss, ", "linear"),
    Picture(
        "lanes",
        "LOSS",
        "99th percentile of 1,000 bytes at 3 % loss",
        "lanes",
        "ms",
        "1,000 bytes on 4 lanes",
        "linear",
        "linear",
    ),
)


def draw(rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Draw every picture that there are points for.

    Returns:
        The files, as they are written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "echostream"  # the same picture is the same file
    for picture in PICTURES:
        lines = [row for row in rows if row.id == picture.id and row.points and picture.containing in row.name]
        if lines:
            yield from _draw_one(picture, lines, folder)


def _draw_one(picture: Picture, rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        x, y = ([point[key] for point in row.points] for key in ("x", "y"))
        axes.plot(x, y, marker="o", markersize=3, label=row.name.rpartition(", ")[2])
    axes.set(title=picture.title, xlabel=picture.x, ylabel=picture.y)
    axes.set(xscale=picture.x_scale, yscale=picture.y_scale)
    if picture.y_scale == "linear":
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 120})):
        file = folder / f"{picture.file}.{kind}"
        figure.savefig(file, **options)
        yield file
