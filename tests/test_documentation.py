"""Every Python block of the README and the pages is run, and prints what the page says.

How the blocks of a page go together:

- A block with ``title="name.py"`` is a whole program in a file of its own, started as a reader would start it. One
  called ``server.py`` runs in the background until the page ends, and must stop in order at SIGTERM.
- The other blocks of a page are one program in pieces, run from top to bottom in one namespace, with `await` at the
  top level as in ``python -m asyncio``.
- A ``text`` block next to a Python block is exactly what it prints; without one it prints nothing.

On the way port 4433 becomes a free one and the name ``greeter`` one of its own, so that tests that run beside each
other never meet.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Generator, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.mark import ParameterSet

import echostream
import echostream_derive

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r"^[ >]*(?:```|~~~) *(?:py\b|python|pycon)", re.MULTILINE)
TITLE = re.compile(r'title="([\w.]+\.py)"')
MAKE = re.compile(r"^make ([a-z-]+)", re.MULTILINE)


GREETER = f"greeter_{os.urandom(4).hex()}"
SLOW = frozenset(("docs/topics/discovery.md", "docs/tutorial/quickstart.md"))
"""Pages whose programs wait for answers from the network."""


class Block(NamedTuple):
    """One Python block of a page."""

    line: int
    title: str | None
    text: str
    prints: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page, each with what it has to print."""
    text = page.read_text("utf-8")
    fences = list(FENCE.finditer(text))
    found = []
    for fence, after in zip_longest(fences, fences[1:]):
        language, _, rest = fence["info"].strip().partition(" ")
        if language == "python":
            title = TITLE.search(rest)
            prints = after["text"] if after is not None and after["info"].strip() == "text" else ""
            line = text.count("\n", 0, fence.start("text")) + 1
            found.append(Block(line, title[1] if title else None, fence["text"], prints))
    return found


def pieces_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.title is None]


def programs_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.title is not None]


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
                yield piece, printed.getvalue().replace(GREETER, "greeter")
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_python_on_a_page_escapes_these_tests(page: Path) -> None:
    assert len(blocks_of(page)) == len(SNIPPET.findall(page.read_text("utf-8")))


def apart(text: str) -> str:
    return text.replace(":4433", ":0").replace('"greeter', f'"{GREETER}')


def pages_with(blocks: Callable[[Path], list[Block]]) -> list[ParameterSet]:
    slow = {name: [pytest.mark.slow] for name in SLOW}
    return [pytest.param(page, marks=slow.get(name_of(page), []), id=name_of(page)) for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", pages_with(pieces_of))
def test_the_pieces_of_a_page_print_what_it_says(page: Path) -> None:
    for piece, printed in run_pieces(page, pieces_of(page)):
        assert printed == piece.prints, f"{name_of(page)}:{piece.line}"


@pytest.mark.parametrize("page", pages_with(programs_of))
def test_the_programs_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    programs = programs_of(page)
    for program in programs:
        (tmp_path / str(program.title)).write_text(apart(program.text), "utf-8")
    with contextlib.ExitStack() as servers:
        for program in programs:
            if program.title == "server.py":
                servers.enter_context(_running(program, tmp_path))
            else:
                done = _start(program, tmp_path)
                printed, complaints = done.communicate(timeout=15)
                printed = printed.replace(GREETER, "greeter")
                assert (printed, done.returncode) == (program.prints, 0), (
                    f"{name_of(page)}:{program.line}\n{complaints}"
                )


def _start(program: Block, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(program.title)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _running(program: Block, folder: Path) -> Generator[None]:
    process = _start(program, folder)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            printed, complaints = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (printed, process.returncode) == (program.prints, 0), complaints


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_command_of_a_page_is_a_target(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for match in FENCE.finditer(page.read_text("utf-8")):
        if match["info"].strip() == "sh":
            assert set(MAKE.findall(match["text"])) <= targets


@pytest.mark.parametrize("module", [echostream, echostream_derive], ids=lambda module: module.__name__)
def test_the_reference_shows_every_public_name(module: types.ModuleType) -> None:
    shown = set(
        re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference" / "api.md").read_text("utf-8"), re.MULTILINE)
    )
    missing = [name for name in module.__all__ if not any(path.endswith(f".{name}") for path in shown)]
    assert missing == []


def test_a_wrong_output_on_a_page_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\nprints:\n\n```text\n2\n```\n\n```python\nprint(3)\n```\n", "utf-8")
    assert [(piece.prints, printed) for piece, printed in run_pieces(page, blocks_of(page))] == [
        ("2\n", "1\n"),
        ("", "3\n"),
    ]
