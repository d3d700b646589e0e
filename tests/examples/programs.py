"""Runs the programs of examples/ as a user does: as processes of their own, of which only the output is seen."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
TIMEOUT = 18.0


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / program), *arguments]


def slowly(program: str, *arguments: str) -> list[str]:
    """Run a program that sends a file in such small pieces that there is time to interrupt it."""
    name = program.removesuffix(".py")
    code = f"import asyncio, {name}; {name}.CHUNK_BYTES = 1024; main = {name}.main"
    start = "raise SystemExit(main())" if name == "demo" else "asyncio.run(main(*sys.argv[1:]))"
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); {code}; {start}", *arguments]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"} | more


def free_url() -> str:
    """An address for two processes that must agree on one: port 0 serves one of them only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"quic://127.0.0.1:{probe.getsockname()[1]}"


def run(program: str, *arguments: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command(program, *arguments),
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def module(name: str, *arguments: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a module to its end."""
    return subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def output(program: str, *arguments: str, folder: Path, url: str) -> str:
    """What a program prints that must end well."""
    done = run(program, *arguments, folder=folder, URL=url)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def serving(program: str, *, folder: Path, url: str) -> Iterator[None]:
    """Run an example as a server in the background; at the end it must stop in order at Ctrl-C."""
    with subprocess.Popen(
        command(program, "server"),
        cwd=folder,
        env=environment(URL=url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            read_until(process.stderr, "= serving at quic://")
            yield
            process.send_signal(signal.SIGINT)
            log = process.stderr.read()
            assert process.wait(TIMEOUT) == 0, log
            assert log.endswith("= stopped\n"), log
        finally:
            process.kill()


@contextmanager
def started(
    program: str, *arguments: str, folder: Path, url: str, line: Callable[..., list[str]] = command
) -> Iterator[subprocess.Popen[str]]:
    """Run a program in the background, with its input and output in hand; it is killed at the end."""
    with subprocess.Popen(
        line(program, *arguments),
        cwd=folder,
        env=environment(URL=url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if arguments == ("server",):
                read_until(process.stderr, "= serving at quic://")
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def read_until(lines: IO[str] | None, wanted: str) -> None:
    """Read lines up to one that has `wanted` in it."""
    assert lines is not None
    seen = ""
    for line in lines:
        seen += line
        if wanted in line:
            return
    raise AssertionError(f"{wanted!r} never came: {seen}")
