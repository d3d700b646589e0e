"""The command line as its users run it: in this process through typer's runner, or as a process of its own."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from echostream.cli.app import app
from echostream.observability.logs import NOISY

ROOT = Path(__file__).parents[2]
TIMEOUT = 18.0


class Outcome(NamedTuple):
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def echostream(*arguments: str, stdin: str | None = None, **env: str) -> Outcome:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [*arguments], input=stdin, env={"NO_COLOR": "1", "COLUMNS": "200", **env})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@contextmanager
def log_as_before() -> Generator[None]:
    """Undo what ``echostream serve`` and `configure_logging` do to the log of this process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.NOTSET)


def environment(**env: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "NO_COLOR": "1"} | env


def started(*arguments: str, folder: Path = ROOT, **env: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "echostream", *arguments],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process(*arguments: str, folder: Path = ROOT, **env: str) -> Outcome:
    """Run a command as a process of its own, to its end."""
    with started(*arguments, folder=folder, **env) as running:
        out, err = running.communicate(timeout=TIMEOUT)
    return Outcome(running.returncode, out, err)


def read_until(running: subprocess.Popen[str], wanted: str) -> str:
    """Read the log up to a line that has `wanted` in it; return what was read."""
    assert running.stderr is not None
    seen = ""
    for line in running.stderr:
        seen += line
        if wanted in line:
            return seen
    raise AssertionError(f"{wanted!r} never came: {seen}")


@contextmanager
def serving(*arguments: str, folder: Path = ROOT, **env: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run ``echostream serve`` in the background; it must stop in order at Ctrl-C. Yields it and its address."""
    with started("serve", *arguments, folder=folder, **env) as running:
        try:
            log = read_until(running, "= serving at ")
            address = re.search(r"serving at (quic://[\d.:]+)", log)
            assert address is not None
            yield running, address[1]
            if running.poll() is None:
                running.send_signal(signal.SIGINT)
                _, rest = running.communicate(timeout=TIMEOUT)
                assert running.returncode == 0, rest
        finally:
            running.kill()
