"""What the benches make of their figures; the figures themselves are no matter for tests."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from benches import core, report, run
from benches.core import Row, compare


def test_the_best_loop_of_each_side_counts_and_the_median_of_the_rounds_ratios() -> None:
    ours = {"slow": [{"rate": 1.0}] * 3, "fast": [{"rate": 100.0}, {"rate": 300.0}, {"rate": 90.0}]}
    theirs = {"peer": [{"rate": 10.0}, {"rate": 10.0}, {"rate": 30.0}], "idle": [{"rate": 0.1}] * 3}
    row = compare(Row("P1", "calls", unit="calls/s", floor=9, goal=15), ours, theirs, "rate")
    assert (row.name, row.against, row.value, row.against_value) == ("calls, fast", "peer", 100.0, 10.0)
    assert (row.ratio, row.met, row.reaches(15)) == (10.0, True, False)
    assert row.rounds[1] == {"value": 300.0, "against": 10.0}


def test_where_less_is_better_the_least_counts() -> None:
    row = Row("P3", "p50", unit="s", floor=0.6, goal=0.46, lower_is_better=True)
    compare(row, {"a": [{"p50": 0.7}], "b": [{"p50": 0.5}]}, {"peer": [{"p50": 1.0}]}, "p50")
    assert (row.name, row.ratio, row.met, row.reaches(0.46)) == ("p50, b", 0.5, True, False)


def test_without_a_peer_the_value_is_compared() -> None:
    assert Row("P11", "import", value=90, unit="ms", floor=110, goal=60, lower_is_better=True).judge().met
    assert not Row("P11", "import", value=120, unit="ms", floor=110, goal=60, lower_is_better=True).judge().met
    assert Row("P1", "not measured", floor=1).judge().met is None


def test_a_figure_without_a_limit_is_neither_reached_nor_missed() -> None:
    row = Row("MANY", "all they do", value=12.0, unit="s in all", lower_is_better=True).judge()
    assert row.met is None
    assert report.line(row).split() == ["MANY", "all", "they", "do", "12.0", "s", "in", "all"]


def test_a_missing_peer_is_named_with_the_way_to_get_it() -> None:
    text = core.missing("json", "no_such_module")
    assert text == "not run: no_such_module not installed; pip install 'echostream[bench]'"
    assert text in report.line(Row("P1", "calls", note=text))
    assert core.missing("json") == ""


def test_the_file_holds_one_object_per_figure_after_every_one() -> None:
    file = io.StringIO()
    rows = [Row("P1", "calls", value=2.0, unit="calls/s", versions={"python": "3"})]
    for _ in range(2):
        report.write_json(rows, file)
        assert [item["id"] for item in json.loads(file.getvalue())] == [row.id for row in rows]
        rows.append(Row("P3", "p50", note="not run: because"))
    first = json.loads(file.getvalue())[0]
    assert list(first) == [
        "id", "name", "value", "unit", "against", "against_value", "ratio", "floor", "goal", "met", "rounds", "versions"
    ]  # fmt: skip


def test_what_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    assert run._ids("p1,P11") == ["P1", "P11"]
    with pytest.raises(argparse.ArgumentTypeError, match="unknown: P99; there are P1, P2, P3"):
        run._ids("P1,P99")
    with pytest.raises(argparse.ArgumentTypeError, match=r"cannot write .*No such file"):
        run._writable(str(tmp_path / "no" / "file"))


@pytest.mark.parametrize(("ratio", "mark"), [(20.0, "goal"), (12.0, "ok"), (5.0, "MISSED")])
def test_the_table_says_what_was_reached(ratio: float, mark: str) -> None:
    row = Row("P1", "calls", 100.0, "calls/s", "peer", 10.0, ratio, floor=10, goal=15).judge()
    assert report.line(row).endswith(mark)
