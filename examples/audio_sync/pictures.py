"""What happened, as a picture (skew.png) and as one page that needs no network (index.html)."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .check import Recording, Window, spread

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Audio in step</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
  table {{ border-collapse: collapse; margin: 1rem 0; }}
  th, td {{ text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #ddd; }}
  th:first-child, td:first-child {{ text-align: left; }}
  h2 {{ font-size: 1.1rem; margin-bottom: 0; }}
  svg {{ width: 100%; height: auto; }}
</style>
<h1>{verdict}</h1>
<p>{text}</p>
{tables}
{picture}
"""


def draw(recordings: Sequence[Recording], windows: Sequence[Window], folder: Path) -> str:
    """Write skew.png; return the same picture as SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    skew, apart, clock, buffer = figure.subplots(4, sharex=True)
    begin = min(item.began_ns for item in recordings)
    for number, item in enumerate(recordings):
        there = item.times >= item.settled_ns
        seconds = (item.times[there] - begin) / 1e9
        colour = f"C{number}"
        skew.plot(seconds, item.told("skew_ns")[there] / 1e3, color=colour, label=item.name)
        clock.plot(seconds, item.told("clock_error_ns")[there] / 1e3, color=colour)
        buffer.plot(seconds, item.told("buffer_ns")[there] / 1e6, color=colour, linewidth=0.7)
    when, width = spread(recordings)
    apart.fill_between((when - begin) / 1e9, width / 1e3, color="0.8", label="first and last receiver, as told")
    moments = [(window.at_ns - begin) / 1e9 for window in windows]
    lags = [abs(window.recorded_ns) / 1e3 for window in windows]
    apart.plot(moments, lags, ".", color="0.2", markersize=3, label="each two, as recorded")
    apart.legend(loc="upper right")
    skew.set(title="Heard too early (above 0) or too late", ylabel="µs")
    skew.legend(loc="upper right", ncols=len(recordings))
    apart.set(title="Apart", ylabel="µs")
    clock.set(title="Error of the clock, as only the demo can know it", ylabel="µs")
    buffer.set(title="Sound that waits", ylabel="ms", xlabel="seconds of the cast")
    for axes in (skew, apart, clock, buffer):
        axes.grid(visible=True, color="0.9")
    buffer.set_ylim(bottom=0)
    figure.savefig(folder / "skew.png", dpi=120)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue()


def write_page(report: dict[str, Any], picture: str, folder: Path) -> None:
    """Write index.html."""
    verdict = "Everything is in step" if report["ok"] else "Something is out of step"
    text = f"{len(report['receivers'])} receivers, {report['seconds']:.0f} s of {report['file']}"
    svg = picture[picture.index("<svg") :]
    page = PAGE.format(
        verdict=verdict,
        text=html.escape("; ".join([text, *report["faults"]])) + ".",
        tables="".join(
            f"<h2>{title}</h2>{_table(rows)}"
            for title, rows in (
                ("How far apart", _skew_rows(report["skew"])),
                ("Receivers", report["receivers"]),
                ("From the start of a process to its first sound", report["joined"]),
            )
            if rows
        ),
        picture=svg,
    )
    (folder / "index.html").write_text(page, "utf-8")


def _skew_rows(skew: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {
        "skew": "the first and the last receiver, as they said",
        "recorded": f"each two, as recorded, in {skew['compared']} windows",
        "told_wrong": "between what they said and what was recorded; a sample has 20.8",
    }
    shares = ("p50", "p99", "max")
    return [{"µs": text} | {share: skew[f"{kind}_{share}_us"] for share in shares} for kind, text in kinds.items()]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(name, cell))}</td>" for name, cell in row.items()) for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(name: str, cell: Any) -> str:
    if not isinstance(cell, float):
        return "never" if cell is None else str(cell)
    return f"{cell:.2f}" if "seconds" in name else f"{cell:.1f}"
