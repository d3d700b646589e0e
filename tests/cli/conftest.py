"""One server for all commands that only ask it something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.running import log_as_before, serving


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    with log_as_before():
        yield


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Address of a running server of `tests/cli/app.py`."""
    with serving("tests.cli.app:server") as (_, address):
        yield address
