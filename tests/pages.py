"""The pages as their tests read them: the fenced blocks, and what a reader would do with each.

- Python with ``title="name.py"`` is a file. It is written and run as a reader would; one called ``server.py`` runs in
  the background until the page ends, and must stop in order at SIGTERM; ``test_*.py`` waits for a command to run it.
  What another file imports, or ``echostream serve`` names, is run by that.
- The other Python blocks of a page are one program in pieces, run from top to bottom in one namespace, with `await` at
  the top level as in ``ipython``.
- ``toml`` with a title is a file as well.
- ``sh`` is a command in each line, in the folder with the files. All must succeed; ``echostream serve`` runs in the
  background like ``server.py``. ``console`` is commands after ``$``, each with all that it prints.
- ``text`` and ``json`` after Python or commands are exactly what is printed: of one program, or of one command each.
  So is JSON in a comment behind a command.

On the way port 4433 becomes a free one that is the page's, port 4434 any free one, the names ``greeter`` and ``market``
get an end of their own, and what listens to all interfaces listens to this machine alone, so that tests that run beside
each other never meet.
"""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ROADMAP.md")),
    *(ROOT / folder / "README.md" for folder in ("examples", "benches")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([\w.]+\.(?:py|toml))"')
ANSWERS = ("text", "json")
NAMES = re.compile(r"\b(greeter|market)\b")
"""What pages announce on the network."""
OWN = f"_{os.urandom(4).hex()}"


class Block(NamedTuple):
    """One fenced block of a page."""

    line: int
    language: str
    title: str | None
    text: str
    answers: list[str]
    """The blocks of output that follow it."""

    @property
    def prints(self) -> str:
        """What a program prints."""
        return "".join(self.answers[:1])


class Command(NamedTuple):
    """One line for a shell."""

    text: str
    prints: str | None
    """All that it must print; None where the page does not show it."""

    @property
    def serves(self) -> bool:
        """Whether it goes on until it is stopped."""
        return self.text.split()[:2] == ["echostream", "serve"] and "--check" not in self.text


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, each with what has to come out of it."""
    text = page.read_text("utf-8")
    fences = list(FENCE.finditer(text))
    languages = [(fence["info"].split() or [""])[0] for fence in fences]
    found = list[Block]()
    for at, (fence, language) in enumerate(zip(fences, languages, strict=True)):
        title = TITLE.search(fence["info"])
        following = takewhile(lambda pair: pair[1] in ANSWERS, zip(fences[at + 1 :], languages[at + 1 :], strict=True))
        answers = [answer["text"] for answer, _ in following]
        line = text.count("\n", 0, fence.start("text")) + 1
        found.append(Block(line, language, title[1] if title else None, fence["text"], answers))
    return found


def pieces_of(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python" and block.title is None]


def steps_of(page: Path) -> list[Block]:
    """What is done in a folder: files and commands."""
    return [block for block in blocks_of(page) if block.title is not None or block.language in ("sh", "console")]


def modules_of(page: Path) -> set[str]:
    """The files that others of the page import, or that a command names: they are run by that."""
    text = page.read_text("utf-8")
    titles = {block.title for block in blocks_of(page) if block.title is not None}
    return {
        title for title in titles if re.search(rf"^from {title[:-3]} import|serve {title[:-3]}:", text, re.MULTILINE)
    }


def commands_of(block: Block) -> list[Command]:
    """The commands of a block for a shell."""
    return list(_typed(block) if block.language == "console" else _listed(block))


def _listed(block: Block) -> Iterator[Command]:
    lines = [line for line in block.text.replace("\\\n", "").splitlines() if line.strip()]
    for at, line in enumerate(lines):
        command, _, comment = line.partition("  #")
        told = comment.strip() + "\n" if comment.strip().startswith("{") else None
        yield Command(command.strip(), block.answers[at] if at < len(block.answers) else told)


def _typed(block: Block) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, prints = part.partition("\n")
        yield Command(command, prints)


def apart(text: str, port: int = 0) -> str:
    """Return a program or a command as it is run here."""
    renamed = NAMES.sub(rf"\1{OWN}", re.sub(r"0\.0\.0\.0|\[::\]", "127.0.0.1", text))
    return renamed.replace(":4433", f":{port}").replace(":4434", ":0")


def as_told(printed: str) -> str:
    """Return what was printed as the page has it."""
    return printed.replace(OWN, "")


def free_port() -> int:
    """Return a free port below those that systems give out by themselves, so that nobody gets it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
