"""Every block of code and every command of the README and the pages is run, and prints what the page says.

`tests/pages.py` has the rules. What is not run stands here, with the reason.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import echostream
import echostream.audio
import echostream.realtime
import echostream_derive
from tests.cli.running import echostream as run_here
from tests.cli.running import log_as_before
from tests.pages import (
    PAGES,
    ROOT,
    Block,
    Command,
    apart,
    as_told,
    blocks_of,
    commands_of,
    free_port,
    modules_of,
    name_of,
    pieces_of,
    steps_of,
)  # fmt: skip

MAKE = re.compile(r"^make ([a-z-]+)", re.MULTILINE)
TIMEOUT = 20.0

SLOW = (
    "docs/how-to/deploy.md", "docs/how-to/sensors.md", "docs/how-to/testing.md", "docs/reference/command-line.md",
    "docs/topics/discovery.md",
)  # fmt: skip
"""Pages whose programs wait for answers from the network, or that type many commands; the tutorial does so, too."""

BEFORE = {
    "docs/how-to/packets.md": ROOT / "README.md",
    "docs/reference/command-line.md": ROOT / "docs" / "tutorial" / "quickstart.md",
}
"""Pages that go on from the files of another one, and from its server."""

NOT_RUN = {
    "make ": "takes minutes; there is such a target, and .ci/run and tests/quickstart.py make them",
    "source ": "tests/quickstart.py does it, with the .venv that `make install` made",
    "pip install ": "fetches from the network",
    ".venv/bin/python examples/": "tests/examples/ runs every one",
    "echostream --install-completion": "writes into the files of the reader's shell; tests/cli/test_app.py completes",
    "echostream events ": "waits for somebody's event; tests/cli/test_events.py has both",
    "echostream serve app:server --reload": "takes three processes; tests/cli/test_serve.py changes sources, too",
    "echostream cast ": "needs an audio file and goes on until it is over; tests/cli/test_cast.py casts and plays",
    "echostream play ": "goes on until the cast ends; tests/cli/test_cast.py",
    "echostream call cast.": "needs a cast; tests/audio/test_cast.py calls all of them",
    "tcpdump ": "needs the rights of root",
    "tshark ": "needs tcpdump's file; tests/transport/quic/ reads keys and qlogs",
}
"""Commands that are left out, by how they begin, and why."""

READ_ELSEWHERE = {
    "vector": "tests/protocol/test_codec.py", "refused": "tests/protocol/test_codec.py",
    "skipped": "tests/protocol/test_codec.py",
}  # fmt: skip
"""Languages of the protocol's page, and the test that reads their blocks."""


# What there is


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_of_a_page_escapes_these_tests(page: Path) -> None:
    blocks = blocks_of(page)
    fences = re.findall(r"^[ >]*(?:```|~~~)", page.read_text("utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks)
    answers = sum(len(block.answers) for block in blocks if block.language in ("python", "sh"))
    for block in blocks:
        where = f"{name_of(page)}:{block.line}"
        assert block.language in {"python", "sh", "console", "toml", "json", "text", *READ_ELSEWHERE}, where
        assert block.language != "toml" or block.title, f"{where}: a file without a name is not written"
    assert answers >= sum(block.language == "json" for block in blocks), "JSON that nothing prints"


def test_a_reason_to_leave_out_a_command_is_needed() -> None:
    commands = [command.text for page in PAGES for block in _shells(page) for command in commands_of(block)]
    assert [begin for begin in NOT_RUN if not any(command.startswith(begin) for command in commands)] == []
    assert all((ROOT / test).exists() for test in READ_ELSEWHERE.values())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_on_a_page_are_run_by_a_command(page: Path) -> None:
    typed = " ".join(command.text for block in _shells(page) for command in commands_of(block))
    tests = [block.title for block in blocks_of(page) if (block.title or "").startswith("test_")]
    assert not tests or "python -m pytest" in typed


def _shells(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language in ("sh", "console")]


# Programs in pieces


def pages_with(blocks: Callable[[Path], list[Block]]) -> list[ParameterSet]:
    slow = {page: [pytest.mark.slow] for page in PAGES if name_of(page).startswith((*SLOW, "docs/tutorial/"))}
    return [pytest.param(page, marks=slow.get(page, []), id=name_of(page)) for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", pages_with(pieces_of))
def test_the_pieces_of_a_page_print_what_it_says(page: Path) -> None:
    with log_as_before():
        for piece, printed in run_pieces(page, pieces_of(page)):
            assert printed == piece.prints, f"{name_of(page)}:{piece.line}"


def run_pieces(page: Path, pieces: list[Block]) -> Iterator[tuple[Block, str]]:
    """Run the pieces one after the other on one event loop; yield what each printed."""
    module = types.ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module  # where annotations are looked up
    try:
        with asyncio.Runner() as runner:
            for piece in pieces:
                padded = "\n" * (piece.line - 1) + apart(piece.text)  # a traceback names the line of the page
                code = compile(padded, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    runner.run(_execute(code, module))
                yield piece, as_told(printed.getvalue())
            runner.run(_wait_for_the_rest(timeout=2))
    finally:
        del sys.modules[module.__name__]


async def _wait_for_the_rest(timeout: float) -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    if rest:  # the end of a generator that a `break` left
        _, rest = await asyncio.wait(rest, timeout=timeout)
    assert not rest, "the page leaves tasks behind: close what it opened"


async def _execute(code: types.CodeType, module: types.ModuleType) -> None:
    result = eval(code, vars(module))
    if inspect.isawaitable(result):
        await result


# Files and commands


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", pages_with(steps_of))
def test_the_files_and_commands_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    with contextlib.ExitStack() as running:
        before = BEFORE.get(name_of(page))
        for block in steps_of(before) if before is not None else []:
            reader.prepare(block, running, name_of(page))
        modules = modules_of(page)
        for block in steps_of(page):
            step = reader.prepare if block.title in modules else reader.do
            step(block, running, f"{name_of(page)}:{block.line}")
        reader.wait_for_servers()


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "work"
        self._folder.mkdir()
        self._port = free_port()
        self._starting = list[subprocess.Popen[str]]()
        command = folder / "echostream"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m echostream "$@"\n', "utf-8")
        command.chmod(0o700)
        self._env = os.environ | {
            "PATH": os.pathsep.join((str(folder), str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "echostream.testing.plugin",  # which pytest finds by itself where it is installed
        }

    def do(self, block: Block, running: contextlib.ExitStack, where: str) -> None:
        """Do what a block says; servers run until `running` ends."""
        if block.title is None:
            for command in commands_of(block):
                if not command.text.startswith(tuple(NOT_RUN)):
                    self._type(command, running, f"{where}: {command.text}", all_of_it=block.language == "console")
            return
        self.prepare(block, running, where)
        if block.language == "python" and block.title != "server.py" and not block.title.startswith("test_"):
            self.wait_for_servers()
            self._run([sys.executable, block.title], block.prints, where)

    def prepare(self, block: Block, running: contextlib.ExitStack, where: str) -> None:
        """Write a file; start it if it is the server."""
        if block.title is not None:
            (self._folder / block.title).write_text(apart(block.text, self._port), "utf-8")
        if block.title == "server.py":
            running.enter_context(self._running([sys.executable, "server.py"], block.prints, where))

    def _type(self, command: Command, running: contextlib.ExitStack, where: str, *, all_of_it: bool) -> None:
        line = apart(command.text, self._port)
        if command.serves:
            self._starting.append(running.enter_context(self._running(["bash", "-c", f"exec {line}"], "", where)))
            return
        self.wait_for_servers()
        if all_of_it:
            self._run(["bash", "-c", f"{line} 2>&1"], command.prints, where, code=None)
        elif is_plain(plain := line.rpartition(" | ")):
            with contextlib.chdir(self._folder):
                stdin = subprocess.check_output(["sh", "-c", plain[0]], text=True, timeout=TIMEOUT)
                done = run_here(*shlex.split(plain[2])[1:], stdin=stdin)
            assert (done.code, done.err) == (0, ""), where
            assert command.prints in (None, as_told(done.out)), f"{where} printed {done.out}"
        else:
            self._run(["bash", "-c", f"set -o pipefail; {line}"], command.prints, where)

    def _run(self, words: list[str], prints: str | None, where: str, *, code: int | None = 0) -> None:
        with self._start(words) as process:
            try:
                printed, complaints = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        assert code in (None, process.returncode), f"{where}\n{printed}{complaints}"
        assert prints in (None, as_told(printed)), f"{where} printed\n{printed}"

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def _running(self, words: list[str], prints: str, where: str) -> Generator[subprocess.Popen[str]]:
        with self._start(words) as process:
            try:
                yield process
                process.send_signal(signal.SIGTERM)
                printed, complaints = process.communicate(timeout=TIMEOUT)
            finally:
                process.kill()
        assert (as_told(printed), process.returncode) == (prints, 0), f"{where}\n{complaints}"

    def wait_for_servers(self) -> None:
        """Wait until those that the last commands started serve."""
        while self._starting:
            process = self._starting.pop()
            assert process.stderr is not None
            log = ""
            while "serving at " not in log:
                log += (line := process.stderr.readline())
                assert line, f"echostream serve ended: {log}"


def is_plain(line: tuple[str, str, str]) -> bool:
    """Whether what stands behind a pipe, if there is one, loads nothing of the page's: then this process may run it."""
    return line[2].startswith("echostream ") and not re.search(r">|\w:\w", line[2])


# The rest of the pages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_command_of_a_page_is_a_target(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for block in _shells(page):
        assert set(MAKE.findall(block.text)) <= targets


@pytest.mark.parametrize(
    "module", [echostream, echostream.audio, echostream.realtime, echostream_derive], ids=lambda module: module.__name__
)
def test_the_reference_shows_every_public_name(module: types.ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text("utf-8")
    shown = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    missing = [name for name in module.__all__ if not any(path.endswith(f".{name}") for path in shown)]
    assert missing == []


# These tests can fail


def test_a_wrong_output_on_a_page_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\nprints:\n\n```text\n2\n```\n\n```python\nprint(3)\n```\n", "utf-8")
    assert [(piece.prints, printed) for piece, printed in run_pieces(page, blocks_of(page)[::2])] == [
        ("2\n", "1\n"),
        ("", "3\n"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nfalse\n```\n",
        "```sh\necho 1\necho 2\n```\n\n```text\n1\n```\n\n```text\n3\n```\n",
        '```sh\necho 1   # {"a": 1}\n```\n',
        "```console\n$ echo 1\n2\n```\n",
        '```python title="it.py"\nprint(1)\n```\n',
    ],
)
def test_a_wrong_command_on_a_page_is_seen(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    [block] = steps_of(page)
    with contextlib.ExitStack() as running, pytest.raises(AssertionError):
        Reader(tmp_path).do(block, running, "page.md")
