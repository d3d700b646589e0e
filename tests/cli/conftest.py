"""One server for all commands that only ask it something."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from echostream.observability.logs import NOISY
from tests.cli.running import serving


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Undo what ``echostream serve`` does to the log of its process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Address of a running server of `tests/cli/app.py`."""
    with serving("tests.cli.app:server") as (_, address):
        yield address
