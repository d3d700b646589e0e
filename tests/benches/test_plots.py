"""The pictures of a run: those that there are points for, and the same file for the same figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benches import plots, run
from benches.core import Row

POINTS = [{"x": 1.0, "y": 2.0}, {"x": 10.0, "y": 3.0}]


def test_every_picture_is_of_a_bench_that_there_is() -> None:
    assert {picture.id for picture in plots.PICTURES} <= set(run.BENCHES)
    assert {module.ID for module in run.GROWTH} <= {picture.id for picture in plots.PICTURES}
    files = [picture.file for picture in plots.PICTURES]
    assert len(set(files)) == len(files)


@pytest.mark.slow
def test_what_was_measured_is_drawn_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [Row("CONCURRENCY", f"cost, {name}", points=POINTS) for name in ("aioquic", "qh3")]
    rows += [Row("PAYLOAD", "failed", note="not run: because"), Row("P1", "calls", value=1.0)]
    drawn = list(plots.draw(rows, tmp_path))
    assert [file.name for file in drawn] == ["throughput.svg", "throughput.png"]
    svg = drawn[0].read_bytes()
    assert list(plots.draw(rows, tmp_path)) == drawn
    assert drawn[0].read_bytes() == svg
