"""What the benches make of their figures; the figures themselves are no matter for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from benches import core, report
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


def test_the_file_holds_one_object_per_figure_after_every_one(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    rows = [Row("P1", "calls", value=2.0, unit="calls/s", versions={"python": "3"})]
    for _ in range(2):
        report.write_json(rows, file)
        assert [item["id"] for item in json.loads(file.read_text())] == [row.id for row in rows]
        rows.append(Row("P3", "p50", note="not run: because"))
    first = json.loads(file.read_text())[0]
    assert list(first) == [
        "id", "name", "value", "unit", "against", "against_value", "ratio", "floor", "goal", "met", "rounds", "versions"
    ]  # fmt: skip


@pytest.mark.parametrize(("ratio", "mark"), [(20.0, "goal"), (12.0, "floor"), (5.0, "MISSED")])
def test_the_table_says_what_was_reached(ratio: float, mark: str) -> None:
    row = Row("P1", "calls", 100.0, "calls/s", "peer", 10.0, ratio, floor=10, goal=15).judge()
    assert report.line(row).endswith(mark)


def test_the_last_line_counts_what_was_reached() -> None:
    rows = [Row("P1", "calls", ratio=ratio, value=1.0, floor=10, goal=15).judge() for ratio in (20.0, 12.0, 5.0, 5.0)]
    rows += [Row("P4", "bytes", value=1.0), Row("P9", "loss", note="not run: needs root")]
    assert report.summary(rows) == "6 figures: 1 reach their goal, 1 their floor, 2 miss it, 1 not run"


def test_what_is_worse_than_in_a_former_run_is_named_and_noise_is_not() -> None:
    before: list[dict[str, Any]] = [
        {"id": "P1", "name": "calls, aioquic asyncio", "value": 5.0, "ratio": 10.0},
        {"id": "P3", "name": "p50", "value": 1.0, "ratio": 0.4},
        {"id": "P11", "name": "import", "value": 50.0, "ratio": None},
        {"id": "P9", "name": "p99, 1.31x the bytes, qh3", "value": None, "ratio": None},
    ]
    rows = [
        Row("P1", "calls, aioquic uvloop", value=9.0, ratio=8.0),
        Row("P3", "p50", value=2.0, ratio=0.44, lower_is_better=True),
        Row("P11", "import", value=61.0, lower_is_better=True),
        Row("P9", "p99, 1.25x the bytes, qh3", value=1.0, ratio=1.0),
        Row("P2", "new", value=1.0, ratio=1.0),
        Row("P4", "bytes", note="not run: because"),
    ]
    assert report.worse(rows, before) == ["P1 calls, aioquic uvloop: ratio 8, was 10", "P11 import: value 61, was 50"]
    assert report.worse(rows, []) == []


def test_who_watches_a_terminal_sees_how_far_it_is_and_a_file_gets_none_of_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, expected in ((Terminal(), "2 of 4, 0:00 P6 round 1"), (io.StringIO(), "")):
        progress = report.Progress(stream, 4)
        progress.begin("P1")
        progress.begin("P6")
        progress.tell("round 1")
        assert stream.getvalue().endswith(expected)
        assert ("[######------------------]" in stream.getvalue()) is bool(expected)
        progress.clear()
        assert stream.getvalue().endswith("\x1b[K" if expected else "")
