"""`make demo`: its table, its JSON, its progress bar, and how it ends when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.examples.programs import TIMEOUT, command, environment, run, slowly

pytestmark = pytest.mark.slow

STEPS = [
    "server process starts",
    "client finds it by mDNS",
    "call",
    "call, server streams",
    "call, client streams",
    "call, both stream",
    "server calls client",
    "event to the server",
    "event to the server, acknowledged",
    "event to the client, acknowledged",
    "event to all clients",
    "file of 50 MB",
    "server stops in order",
]


def test_the_demo_shows_a_table_of_what_it_did(tmp_path: Path) -> None:
    done = run("demo.py", folder=tmp_path, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows, last = done.stdout.splitlines()
    assert re.split(r"\s{2,}", head) == ["what", "result", "time"]
    table = [re.split(r"\s{2,}", row) for row in rows]
    assert [row[0] for row in table] == STEPS
    assert all(re.fullmatch(r"[\d.]+ m?s", row[2]) for row in table)
    results = {what: result for what, result, _ in table}
    assert results["call"] == "add(2, b=3) = 5"
    assert results["server calls client"] == "Are you there? Yes."
    assert re.fullmatch(r"at 127\.0\.0\.1:\d+, certificate verified", results["client finds it by mDNS"])
    assert re.fullmatch(r"\d+ MB/s, SHA-256 [0-9a-f]{12}\.\.\. on both sides", results["file of 50 MB"])
    assert re.fullmatch(r"13 of 13 steps done in [\d.]+ s", last)
    assert list(tmp_path.iterdir()) == []


def test_the_table_as_json(tmp_path: Path) -> None:
    done = run("demo.py", "--json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["ok"], report["error"]) == (True, None)
    assert [(step["what"], step["ok"]) for step in report["steps"]] == [(what, True) for what in STEPS]
    assert 0 < sum(step["seconds"] for step in report["steps"]) <= report["seconds"] < 60


def test_a_server_that_does_not_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    # The server's process cannot make its state folder: where it should lie, there is a file.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, sys\nif '--serve' in sys.argv: pathlib.Path(os.environ['ECHOSTREAM_STATE_DIR']).touch()\n"
    )
    done = run("demo.py", folder=tmp_path, PYTHONPATH=f"{environment()['PYTHONPATH']}:{tmp_path}")
    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert "state folder: " in done.stderr
    assert done.stderr.endswith(
        "the demo failed after 'server process starts' began: "
        "DemoError: expected 'ready', got 'the end of the server process'\n"
    )
    assert re.search(r"^server process starts  failed: expected 'ready', got 'the end of", done.stdout, re.MULTILINE)
    assert re.search(r"^0 of 1 steps done in ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        slowly("demo.py"),
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=other_end,
        text=True,
    ) as process:
        os.close(other_end)
        shown = _read(terminal, until="sending [")
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 130
        assert process.stdout is not None
        assert process.stdout.read() == ""
    # The server's process writes to the same terminal: it ends only when both are gone.
    shown += _read(terminal)
    os.close(terminal)
    assert re.fullmatch(r"(sending \[#* *\] [^\r]*\r| +\r)+", shown)
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_a_bar_and_colours_unless_it_wants_none(tmp_path: Path) -> None:
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal, other_end = pty.openpty()
        with subprocess.Popen(
            command("demo.py"), env=environment(**env), stdout=other_end, stderr=other_end
        ) as process:
            os.close(other_end)
            shown = _read(terminal)
            os.close(terminal)
            assert process.wait(TIMEOUT) == 0
        assert re.search(r"sending \[#* *\] +\d+% +\d+ MB/s\r", shown)
        assert ("\x1b[32mcall " in shown) is coloured
        assert ("\x1b" in shown) is coloured


def _read(terminal: int, until: str | None = None) -> str:
    """What is written to a terminal: up to some text, or until nobody is left who could write."""
    shown = ""
    while until is None or until not in shown:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux says EIO when the last writer is gone
            part = b""
        if not part:
            break
        shown += part.decode()
    return shown
