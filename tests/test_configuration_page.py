"""docs/reference/configuration.md names every setting of the command line and every variable of the environment."""

from __future__ import annotations

import re
from pathlib import Path

from echostream.settings import ServeSettings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text("utf-8")

READ = re.compile(r'(?:environ(?:\.get\(|\[)|envvar=|_VARIABLE = )"([A-Z_]+)"')
OF_OTHERS = frozenset(("PYTEST_CURRENT_TEST",))
"""Set by pytest, for us to read."""


def cells(heading: str, column: int) -> list[str]:
    table = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line.split("|")[column + 1].strip() for line in table.splitlines() if line.startswith("| `")]


def test_every_setting_stands_there_with_its_default() -> None:
    told = dict(zip(cells("`echostream serve`", 0), cells("`echostream serve`", 1), strict=True))
    defaults = {
        name: field.get_default(call_default_factory=True) for name, field in ServeSettings.model_fields.items()
    }
    shown = {name: "" if default in (None, []) else f"`{str(default).lower()}`" for name, default in defaults.items()}
    assert told == {f"`{name}`": default for name, default in shown.items()}


def test_every_variable_that_is_read_stands_there_and_no_other() -> None:
    sources = "".join(path.read_text("utf-8") for path in sorted((ROOT / "echostream").rglob("*.py")))
    told = {name for cell in cells("The environment", 0) for name in re.findall(r"`(\w+)`", cell)}
    assert told == set(READ.findall(sources)) - OF_OTHERS
