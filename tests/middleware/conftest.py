"""After each test: no task is left, and no error that nobody saw."""

from __future__ import annotations

from tests.tidy import nothing_is_left, what_is_there_already

__all__ = ("nothing_is_left", "what_is_there_already")
