"""Write the figures of a run into a page: ``python -m benches.realtime.page FILE.json PAGE.md``.

What stands between the two marks of the page is replaced; figures there are never typed in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benches.realtime.table import number
from benches.realtime.trials import OURS

__all__ = ("BEGIN", "END", "filled", "main", "tables")

BEGIN: Final = "<!-- figures -->"
END: Final = "<!-- end of the figures -->"
_HEADINGS: Final = {
    "G1": "how wrong the offset is",
    "G2": "chrony's own scenario",
    "G3": "how soon the offset can be used",
    "G4": "how wrong the drift is",
    "G5": "steps, sleep, restarts",
    "G6": "over real sockets",
    "G7": "how far apart receivers play",
    "G8": "what is heard of the corrections",
    "G9": "how long items wait",
    "G10": "order and counts",
    "G13": "from capture to ear",
    "G16": "what it costs",
    "G17": "whether what is reported is true",
}


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return a heading and a table for each goal; under it why something is missed."""
    return "\n".join(line for id, group in groupby(rows, lambda row: row["id"]) for line in _table(id, list(group)))


def filled(page: str, text: str) -> str:
    """Return a page with a text between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f"the page has no {BEGIN} and {END} to write between")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    rows, page = (Path(name) for name in arguments)
    text = tables(json.loads(rows.read_text(encoding="utf-8")))
    page.write_text(filled(page.read_text(encoding="utf-8"), text), encoding="utf-8")


def _table(id: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    peers = list(dict.fromkeys(name for row in rows for name in row["anchors"]))
    heading = _HEADINGS[id]
    yield f"## {id}: {heading}\n"
    yield f"| {' | '.join(('figure', OURS, 'goal', *peers))} |"
    yield f"|{'---|' * (3 + len(peers))}"
    for row in rows:
        ours = number(row["value"], row["unit"]) if row["value"] is not None else "not run"
        goal = "" if row["goal"] is None else f"{'at least' if row['at_least'] else 'at most'} {row['goal']:g}"
        others = (number(row["anchors"][name], row["unit"]) if name in row["anchors"] else "" for name in peers)
        yield f"| {' | '.join((row['name'], f'**{ours}**' if row['met'] else ours, goal, *others))} |"
    yield ""
    for row in rows:
        if row["why"]:
            yield f"- {row['name']}: {row['why']}."
    if any(row["why"] for row in rows):
        yield ""


if __name__ == "__main__":
    main(sys.argv[1:])
