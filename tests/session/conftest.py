"""After each test: no task is left, and no error that nobody saw."""

from __future__ import annotations

import pytest

from tests.tidy import nothing_is_left, what_is_there_already

__all__ = ("nothing_is_left", "what_is_there_already")


@pytest.fixture
def scheme() -> str:
    """The transport, unless a test asks for others."""
    return "memory"


@pytest.fixture
def way() -> str:
    """Who calls, unless a test asks for the other way too."""
    return "up"
