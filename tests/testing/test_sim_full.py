"""The program behind `make sim-full`, with next to no load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.testing import sim_full
from tests.testing.storm import Load, Storm

TINY = Load(calls=5, items=2, events=2, chunks=2)


def test_figures_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sim_full, "FULL", TINY)
    monkeypatch.setattr(sim_full, "PROGRESS_EVERY", -1.0)
    monkeypatch.setattr(
        "sys.argv", ["sim_full", "--seeds", "2", "--engines", "aioquic-aioquic", "--json", str(tmp_path / "figures")]
    )
    assert sim_full.main() == 0
    printed, told = capsys.readouterr()
    figures = json.loads(printed)
    assert figures == json.loads((tmp_path / "figures").read_text())
    assert figures["load"] == {"calls": 5, "events": 2, "stream_bytes": 8192}
    assert [(run["seed"], run["failure"]) for run in figures["runs"]] == [(0, None), (1, None)]
    assert "2 of 2: aioquic-aioquic, seed 1" in told
    assert "virtual seconds" in told


def test_a_failure_is_in_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_served: Storm, _load: Load) -> None:
        raise AssertionError("lost")

    monkeypatch.setattr(Storm, "check", check)
    failure = sim_full.run(3, ("aioquic", "aioquic"), TINY)["failure"]
    assert failure.startswith("AssertionError: lost")
    assert "seed=3" in failure
