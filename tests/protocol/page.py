"""docs/reference/protocol.md as the tests read it: vectors, tables, and the one part that is generated.

``python -m tests.protocol.page`` writes the generated part anew.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echostream.protocol.states import TRANSITIONS, Input, State
from echostream.types import Role

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"
BEGIN, END = "<!-- states: begin -->\n", "<!-- states: end -->\n"
BLOCK = re.compile(
    r'^```(?P<kind>vector|skipped|refused) title="(?P<title>.+)"\n(?P<json>.+)\n(?P<hex>[^`]+)```$', re.MULTILINE
)


@dataclass(frozen=True)
class Vector:
    """One example of the page."""

    title: str
    says: dict[str, Any]
    data: bytes


def text() -> str:
    return PAGE.read_text("utf-8")


def vectors(kind: str) -> list[Vector]:
    """Return the blocks of one kind: ``vector``, ``skipped`` or ``refused``."""
    return [
        Vector(block["title"], json.loads(block["json"]), bytes.fromhex(re.sub(r"#.*", "", block["hex"])))
        for block in BLOCK.finditer(text())
        if block["kind"] == kind
    ]


def rows(first_heading: str, page: str | None = None) -> list[list[str]]:
    """Return the cells of the only table whose heading begins with these words, without heading and ruler."""
    [table] = re.findall(
        rf"^\| {re.escape(first_heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page or text(), re.MULTILINE
    )
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()]


def states() -> str:
    """Return the table of states, drawn from the machine's own."""
    lines = ["| state | " + " | ".join(event.value for event in Input) + " |", "|---" * (len(Input) + 1) + "|"]
    lines += [f"| {state.value} | " + " | ".join(_next(state, event) for event in Input) + " |" for state in State]
    return "\n".join(lines) + "\n"


def _next(state: State, event: Input) -> str:
    after = {role: TRANSITIONS[role, state, event].value for role in Role if (role, state, event) in TRANSITIONS}
    if len(after) == len(Role) and len(set(after.values())) == 1:
        return after[Role.CLIENT]
    return ", ".join(f"{role}: {value}" for role, value in after.items())


def with_states(page: str) -> str:
    """Return the page with the table of states as it should be."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{states()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(with_states(text()), "utf-8")
