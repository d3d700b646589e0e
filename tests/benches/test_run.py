"""The one command: what it refuses, what it keeps when it is interrupted, and that a broken bench stops no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from benches import run
from benches.core import BenchError, Plan, Row

Measure = Callable[[Plan], Iterator[Row]]


def _row(name: str) -> Row:
    return Row("P1", name, value=1.0, unit="calls/s", floor=0.5, goal=2).judge()


def _install(monkeypatch: pytest.MonkeyPatch, **benches: Measure) -> None:
    for name, measure in benches.items():
        monkeypatch.setitem(run.BENCHES, name, cast("ModuleType", SimpleNamespace(ID=name, measure=measure)))


def test_all_figures_run_unless_others_are_asked_for() -> None:
    assert [module.ID for module in run.FIGURES] == list(run._parse([]).only)
    assert run._parse(["--only", "p11,FLOOD,P11"]).only == ["P11", "FLOOD"]
    assert run._parse(["--growth"]).only == [module.ID for module in run.GROWTH]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "P1,P99"], "unknown: P99; there are P1, P2, P3"),
        (["--only", ""], "unknown: nothing; there are P1, P2, P3"),
        (["--json", "/no/such/folder/figures.json"], "cannot write /no/such/folder/figures.json (No such file"),
        (["--json", "."], "cannot write . (Is a directory)"),
        (["--plots", "/dev/null/plots"], "cannot write into /dev/null/plots (Not a directory)"),
        (["--against", "/no/such/file.json"], "cannot read /no/such/file.json (No such file"),
        (["--against", "Makefile"], "Makefile is not what --json writes"),
        (["--growth", "--only", "P1"], "give --only or --growth, not both"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    monkeypatch.setattr(run, "missing", lambda *modules: "")
    with pytest.raises(SystemExit, match="2"):
        run.main(arguments)
    assert text in capsys.readouterr().err


def test_a_figure_that_is_worse_than_before_makes_the_run_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, P1=lambda plan: iter([_row("calls")]))
    file = tmp_path / "figures.json"
    assert run.main(["--only", "P1", "--json", str(file)]) == 0
    assert run.main(["--only", "P1", "--against", str(file)]) == 0
    file.write_text(file.read_text().replace('"value": 1.0', '"value": 1.5'))
    capsys.readouterr()
    assert run.main(["--only", "P1", "--against", str(file)]) == 1
    assert "worse than before: P1 calls: value 1, was 1.5" in capsys.readouterr().out


def test_plots_need_what_draws_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "missing", lambda *modules: f"not run: {modules[0]} not installed")
    with pytest.raises(SystemExit, match="2"):
        run.main(["--plots", "plots"])
    assert "--plots: not run: matplotlib not installed" in capsys.readouterr().err


def test_a_file_that_is_there_stays_when_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("[]")
    with pytest.raises(SystemExit):
        run.main(["--json", str(file), "--only", "P99"])
    assert file.read_text() == "[]"


def test_an_interrupted_run_keeps_what_it_had_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(plan: Plan) -> Iterator[Row]:
        yield _row("the first")
        raise KeyboardInterrupt

    _install(monkeypatch, P1=interrupted)
    file = tmp_path / "figures.json"
    file.write_text("of the last run, and longer than what comes" * 100)
    assert run.main(["--only", "P1,P2", "--json", str(file)]) == 130
    assert [row["name"] for row in json.loads(file.read_text())] == ["the first"]
    out, err = capsys.readouterr()
    assert "the first" in out
    assert "1 figures: 0 reach their goal, 1 their floor" in out
    assert "interrupted" in err


def test_a_bench_that_breaks_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(plan: Plan) -> Iterator[Row]:
        yield _row("before")
        raise BenchError("server ended: no such thing")

    def bug(plan: Plan) -> Iterator[Row]:
        raise ZeroDivisionError
        yield

    _install(monkeypatch, P1=broken, P2=bug, P3=lambda plan: iter([_row("after")]))
    assert run.main(["--only", "P1,P2,P3", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["P1", "P1", "P2", "P1"]
    assert "not run: server ended: no such thing" in lines[2]
    assert "not run: ZeroDivisionError" in lines[3]
    assert "after" in lines[4]
