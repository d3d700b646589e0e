"""The bench of the slow reader in small: two real processes over loopback, memory as the system counts it."""

from __future__ import annotations

import pytest

from benches import slow_reader
from benches.core import Plan, contest


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_reader_that_stops_lets_the_writer_wait_and_neither_side_grows() -> None:
    results = contest(slow_reader.contenders(), Plan(rounds=1, seconds=1.5))
    assert "aioquic" in results
    for (figures,) in results.values():
        assert figures["waits_at"] <= 8  # MB of 256
        assert figures["grew"] <= 32
        assert figures["grew_reading"] <= 4
        assert figures["rate"] > 0
