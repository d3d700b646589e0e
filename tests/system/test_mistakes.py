"""docs/how-to/mistakes.md tells the truth: each of its mistakes is made, and the message is the one that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system.mistakes import MISTAKES, Mistake

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mistakes.md"


def told() -> dict[str, str]:
    """The rows of the page: what somebody did, and what is shown; ``…`` stands for what differs."""
    rows = re.findall(r"^\| (.+?) \| `` (.+?) `` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a mistake stands there twice"
    return dict(rows)


def test_the_page_has_every_mistake_and_no_other() -> None:
    assert list(told()) == [mistake.title for mistake in MISTAKES]
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.run.__name__)
async def test_the_message_is_the_one_that_the_page_shows(mistake: Mistake) -> None:
    shown = told()[mistake.title]
    try:
        logged = await mistake.run()
    except Exception as error:  # noqa: BLE001  # which one, the page says
        seen = f"{type(error).__name__}: {error}"
    else:
        assert isinstance(logged, str), "nothing was said"
        seen = logged
    assert re.fullmatch(".+?".join(map(re.escape, shown.split("…"))), seen), seen
