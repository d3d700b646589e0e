"""The fuzz targets hold over what is kept and a bounded number of changes to it, and `run.py` says what it did."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from echostream.protocol.codec import FrameCodec
from echostream.protocol.link import Link
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.reader import FrameReader
from echostream.transport.quic.endpoint import Endpoint
from tests.fuzz import corpus, mutator
from tests.fuzz.run import describe, passed

RUN = Path(__file__).with_name("run.py")
EXECUTIONS = {"codec": 20_000, "peer": 6_000, "demux": 6_000}
"""Two to three seconds each."""

every_target = pytest.mark.parametrize("name", list(corpus.TARGETS))


@every_target
def test_the_seeds_are_those_that_the_command_makes(name: str) -> None:
    path = Path(__file__).parent / "corpus" / f"{name}.txt"
    assert path.read_text("utf-8") == corpus.seed_text(name), "run python -m tests.fuzz.corpus"


@every_target
def test_all_that_is_kept_is_handled(name: str) -> None:
    run = corpus.target(name).run
    kept = corpus.kept(name)
    assert len(kept) > 50
    assert len({title for title, _ in kept}) == len(kept)
    for title, data in kept:
        assert len(data) <= 4096, title
        run(data)


@every_target
@pytest.mark.slow
def test_changed_inputs_are_handled(name: str) -> None:
    run = corpus.target(name).run
    inputs = [data for _, data in corpus.kept(name)]
    for data in itertools.islice(mutator.mutations(inputs, seed=7), EXECUTIONS[name]):
        try:
            run(data)
        except Exception as error:
            raise AssertionError(f"keep this in crashes/{name}.txt: {data.hex()}") from error


# The targets see what goes wrong


def _broken(*_args: Any, **_options: Any) -> Any:
    raise KeyError("undocumented")


@pytest.mark.parametrize(
    ("name", "part", "method", "instead"),
    [
        ("codec", FrameReader, "feed", _broken),
        ("codec", FrameCodec, "_check_payload", lambda *_: None),
        ("codec", PayloadCodec, "encode", lambda *_: b"\xc0"),
        ("peer", Link, "late_or_wrong", _broken),
        ("peer", Link, "note_event", lambda self, number, wants_ack: self.owed_acks.update({number: None})),
        ("demux", Endpoint, "unroute", lambda *_: None),
        ("demux", Endpoint, "forget", lambda self, connection, *_: self.connections.pop(connection)),
    ],
)
def test_a_fault_is_found(name: str, part: Any, method: str, instead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, method, instead)
    with pytest.raises((AssertionError, KeyError)):
        _run_all(name)


def _run_all(name: str) -> None:
    for _, data in corpus.kept(name):
        corpus.target(name).run(data)


# The program

engines = pytest.mark.parametrize(
    "engine",
    ["mutator", pytest.param("atheris", marks=pytest.mark.skipif(not find_spec("atheris"), reason="the extra fuzz"))],
)


@engines
@pytest.mark.slow
def test_the_program_fuzzes_and_reports(engine: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(RUN), "codec", "--engine", engine, "--runs", "300", "--json", str(report)]
    done = subprocess.run(
        [*command, "--corpus", str(tmp_path / "corpus")], capture_output=True, text=True, check=False, timeout=18
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [told] = json.loads(report.read_text("utf-8"))
    assert (told["target"], told["engine"], told["crashes"]) == ("codec", engine, [])
    assert told["executions"] >= 300
    assert set(told["modules"]) == set(corpus.TARGETS["codec"])
    assert "branch coverage" in done.stdout


def test_a_crash_and_too_few_branches_are_failures() -> None:
    report: dict[str, Any] = {
        "target": "codec", "engine": "mutator", "executions": 7, "seconds": 0.1, "crashes": ["00ff"], "exit_code": 77,
        "peak_memory_mib": None, "corpus_inputs": 1,
        "modules": {"m": {"branches": 20, "reached": 18, "missed_at": [3]}},
    }  # fmt: skip
    assert not passed(report, 0)
    assert not passed(report | {"exit_code": 0}, 95)
    assert passed(report | {"exit_code": 0}, 90)
    text = describe(report)
    assert "keep it in crashes/codec.txt" in text
    assert "00ff" in text
    assert "18 of 20 branches, not all at line 3" in text
