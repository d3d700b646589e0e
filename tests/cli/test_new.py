"""Tests for echostream.cli.new: the project runs, and passes its test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import ROOT, echostream, process, serving

CALLED = """\
event: name='world'
hello, world
1
2
3
my_app.hello: INVALID_ARGUMENT: invalid my_app.hello: /guest/name: string should have at least 1 character
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_new_project_passes_its_tests_and_serves(tmp_path: Path) -> None:
    done = process("new", "my-app", folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "cd my-app" in done.out
    project = tmp_path / "my-app"
    tests = _python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tests.returncode == 0, tests.stdout
    assert "2 passed" in tests.stdout
    assert "Warning" not in tests.stdout + tests.stderr
    with serving("--bind", "quic://127.0.0.1:0", folder=project) as (_, url):
        assert echostream("call", "-u", url, "my_app.hello", '{"name": "world"}').out == '"hello, world"\n'
        called = _python(project, "client.py")
        assert called.stdout == CALLED, called.stderr
    linted = _python(project, "-m", "ruff", "check", "--no-cache", ".")
    assert linted.returncode == 0 or "No module named" in linted.stderr, linted.stdout


def _python(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the new project, with this EchoStream."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("name", ["My-App", "1app", "class", "../app", ""])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    done = echostream("new", name, "--folder", str(tmp_path))
    assert done.code == 2
    assert "is no name for a project" in done.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    done = echostream("new", "app", "--folder", str(tmp_path))
    assert done.code == 2
    assert "is there already" in done.err


@pytest.mark.parametrize("name", ["echostream", "client", "tests", "asyncio", "http"])
def test_a_name_that_would_hide_a_module_is_refused(name: str, tmp_path: Path) -> None:
    done = echostream("new", name, "--folder", str(tmp_path))
    assert done.code == 2
    assert f"such as my-{name}" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_project_named_like_a_class_of_its_own_gets_another_class(tmp_path: Path) -> None:
    assert echostream("new", "guest", "--folder", str(tmp_path)).code == 0
    assert "class GuestService:" in (tmp_path / "guest" / "guest" / "app.py").read_text("utf-8")
