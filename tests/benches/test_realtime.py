"""What the benches of real time make of their figures, and the models that they share."""

from __future__ import annotations

import json
from bisect import bisect
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from benches.realtime import __main__ as command
from benches.realtime import g16_path_cost, page, table
from benches.realtime.anchors import ANCHORS
from benches.realtime.clocks import LocalClock, Sample, World
from benches.realtime.delays import PATHS, QUANTILES
from benches.realtime.table import Figure, Plan

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("figure", "met", "anchor"),
    [
        (Figure("G1", "a", 10.0, goal=25.0, anchors={"x": 20.0, "y": 30.0}), True, "x"),
        (Figure("G1", "a", 21.0, goal=25.0, anchors={"x": 20.0}), False, "x"),
        (Figure("G1", "a", 26.0, goal=25.0, anchors={"x": 30.0}), False, "x"),
        (Figure("G1", "a", 99.95, goal=99.9, at_least=True, anchors={"x": 80.0, "y": 90.0}), True, "y"),
        (Figure("G1", "a", 99.8, goal=99.9, at_least=True), False, None),
        (Figure("G1", "a", 5.0), None, None),
        (Figure("G1", "a", why="not run: because"), None, None),
    ],
)
def test_a_figure_has_to_reach_its_goal_and_to_beat_the_best_anchor(
    figure: Figure, met: bool | None, anchor: str | None
) -> None:
    figure.judge()
    assert (figure.met, figure.anchor) == (met, anchor)


def test_a_run_prints_and_writes_what_its_modules_yield(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans: list[Plan] = []

    def measure(plan: Plan) -> list[Figure]:
        plans.append(plan)
        return [Figure("G1", "offset", 12.5, goal=25.0, anchors={"Other": 50.0}, why="because")]

    def fail(plan: Plan) -> list[Figure]:
        raise ValueError("no path")

    modules: Any = (SimpleNamespace(ID="G1", measure=measure), SimpleNamespace(ID="G2", measure=fail))
    monkeypatch.setattr(command, "MODULES", modules)
    file = tmp_path / "figures.json"
    assert command.main(["--seeds", "2", "--long", "--only", "g1", "--json", str(file)]) == 0
    assert (plans[0].seeds, plans[0].is_long) == (2, True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["G1", "offset", "12.5", "us", "<=25", "yes", "Other", "50.0", "us", "0.25x"]
    assert lines[2].strip() == "because"
    [row] = json.loads(file.read_text())
    assert (row["id"], row["value"], row["met"], row["anchors"]) == ("G1", 12.5, True, {"Other": 50.0})
    assert "python" in row["versions"]
    assert command.main(["--quick", "--only", "G1,G2"]) == 1
    out = capsys.readouterr().out
    assert "not run: no path" in out
    assert out.splitlines()[-1] == "2 figures: 1 reached, 0 missed, 0 behind another, 1 not run"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "G1,G99"], "unknown: G99; there are G1, "),
        (["--seeds", "0"], "0 is no count of seeds"),
        (["--json", "/nowhere/x.json"], "cannot write /nowhere/x.json"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_a_path_delays_as_its_table_says(path: Any) -> None:
    out, back = path.delays(Random(1))
    for delay, microseconds in ((out, path.out), (back, path.back)):
        drawn = sorted(delay(n * SECOND) / 1e3 for n in range(4000))
        for quantile, expected in zip(QUANTILES[1:-1], microseconds[1:-1], strict=True):
            assert bisect(drawn, expected) / 4000 == pytest.approx(quantile, abs=0.02)
        assert microseconds[0] <= drawn[0]
        assert drawn[-1] <= microseconds[-1]


def test_neighbours_in_a_burst_share_a_queue() -> None:
    out, _ = PATHS["ethernet"].delays(Random(1))
    drawn = [out(n * SECOND + k * 5_000_000) for n in range(1000) for k in range(2)]
    typical = sum(drawn) / len(drawn)
    shared = sum((a - typical) * (b - typical) for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert shared / sum((a - typical) ** 2 for a in drawn[::2]) > 0.5


@pytest.mark.parametrize("name", ANCHORS)
def test_every_anchor_finds_a_steady_offset(name: str) -> None:
    random = Random(0)
    clock = LocalClock(random, offset_ns=-(10**12), drift_ppm=0.0, wander=0.0)
    world = World(random, clock, *PATHS["ethernet"].delays(random))
    samples: list[Sample] = []
    for _ in world.run(30 * SECOND, SECOND, samples.append):
        pass
    anchor = ANCHORS[name]()
    assert anchor.offset_ns(0) == 0.0
    for sample in samples:
        anchor.add(sample)
    assert anchor.offset_ns(clock.read(world.now)) == pytest.approx(10**12, abs=100_000)


def test_the_cost_of_the_whole_receiving_side_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls are taped and played back as they were made, named arguments and all."""
    monkeypatch.setattr(g16_path_cost, "_SECONDS", 1)
    per_packet, share = g16_path_cost.measure(Plan(1))
    assert per_packet.value
    assert share.value
    assert per_packet.details["calls_per_packet"] > 4


def test_the_line_of_a_figure_that_was_not_run_says_why() -> None:
    assert table.line(Figure("G8", "warble", why="not run: no numpy")).split() == [
        "G8", "warble", "not", "run:", "no", "numpy"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (Figure("G1", "a", 30.0, goal=25.0, anchors={"x": 20.0}), "MISSED"),
        (Figure("G1", "a", 21.0, goal=25.0, anchors={"x": 20.0}), "behind"),
        (Figure("G1", "a", 21.0, anchors={"x": 20.0}), "behind"),
    ],
)
def test_a_line_tells_a_goal_that_is_missed_from_an_anchor_that_is_ahead(figure: Figure, said: str) -> None:
    assert said in table.line(figure.judge()).split()


def test_a_page_gets_the_figures_of_a_run_between_its_marks(tmp_path: Path) -> None:
    figures = [
        Figure("G1", "offset", 12.5, goal=25.0, anchors={"Other": 50.0}).judge(),
        Figure("G1", "skewed", 60.0, anchors={"Other": 50.0, "Another": 70.0}, why="queues").judge(),
        Figure("G10", "wrong", 0.0, "", goal=0.0).judge(),
    ]
    rows, file = tmp_path / "r.json", tmp_path / "page.md"
    table.write_json(figures, {}, rows)
    file.write_text(f"before\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n", encoding="utf-8")
    for _ in range(2):
        page.main([str(rows), str(file)])
    assert file.read_text(encoding="utf-8").splitlines() == [
        "before",
        "",
        page.BEGIN,
        "",
        "## G1: how wrong the offset is",
        "",
        "| figure | EchoStream | goal | Other | Another |",
        "|---|---|---|---|---|",
        "| offset | **12.5 us** | at most 25 | 50.0 us |  |",
        "| skewed | 60.0 us |  | 50.0 us | 70.0 us |",
        "",
        "- skewed: queues.",
        "",
        "## G10: order and counts",
        "",
        "| figure | EchoStream | goal |",
        "|---|---|---|",
        "| wrong | **0** | at most 0 |",
        "",
        page.END,
        "",
        "after",
    ]
    with pytest.raises(ValueError, match="no <!-- figures -->"):
        page.filled("a page without marks", "")
