"""The package has the names that it lists, imported when they are first used, and no others."""

from __future__ import annotations

import pytest

from echostream import realtime


def test_each_name_is_there_and_lives_where_the_table_says() -> None:
    for name in realtime.__all__:
        assert getattr(realtime, name).__module__ == realtime._HOME[name]
    assert realtime.__all__ == tuple(sorted(realtime._HOME))


def test_another_name_is_named() -> None:
    with pytest.raises(AttributeError, match=r"module 'echostream\.realtime' has no attribute 'ClockFilters'"):
        realtime.ClockFilters  # noqa: B018 - what is wanted is the error
