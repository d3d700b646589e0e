"""Does what README.md and the quick start tell a newcomer, on a clean clone, and checks what they say comes out.

python tests/quickstart.py        or: make quickstart

What is committed is cloned, with a state folder of its own. Nothing is put in the place of what the pages print: port
4433 must be free, and nobody else on the network be called `greeter`. Only `make test`, which takes minutes, is left
out; `tests/pages.py` says how a page is read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from tests.pages import Block, blocks_of, commands_of  # noqa: E402

PAGES = ("README.md", "docs/tutorial/quickstart.md")
LEFT_OUT = ("make test", "source ")
TIMEOUT = 900.0
"""Seconds for one command; `make demo` fetches what it needs."""


class Wrong(Exception):
    """Something else came out than the page says."""


class Newcomer:
    """Types what a page says, in a clone of its own."""

    def __init__(self, clone: Path, state: Path) -> None:
        self._clone = clone
        scripts = clone / ".venv" / "bin"
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self._env = kept | {
            "ECHOSTREAM_STATE_DIR": str(state),
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }
        self._python = str(scripts / "python")

    def follow(self, page: str) -> None:
        """Do all that a page says, from top to bottom; its servers run until the end of the page."""
        with contextlib.ExitStack() as servers:
            for block in blocks_of(self._clone / page):
                if block.language == "sh":
                    self._type(block)
                elif block.title is not None:
                    (self._clone / block.title).write_text(block.text, "utf-8")
                    if block.title == "server.py":
                        servers.enter_context(self._running(block.title))
                    else:
                        _compare(block.title, self._run([self._python, block.title]), block.prints)

    def _type(self, block: Block) -> None:
        for command in commands_of(block):
            if not command.text.startswith(LEFT_OUT):
                printed = self._run(["bash", "-c", command.text])
                if command.prints is not None:
                    _compare(command.text, printed, command.prints)

    def _run(self, command: list[str]) -> str:
        begin = time.monotonic()
        done = subprocess.run(
            command, cwd=self._clone, env=self._env, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        shown = command[-1]
        if done.returncode != 0:
            raise Wrong(f"{shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        print(f"{time.monotonic() - begin:6.1f} s  {shown}", flush=True)
        return done.stdout

    @contextlib.contextmanager
    def _running(self, program: str) -> Iterator[None]:
        with subprocess.Popen([self._python, program], cwd=self._clone, env=self._env) as process:
            try:
                yield
                process.send_signal(signal.SIGINT)
                if process.wait(30) != 0:
                    raise Wrong(f"{program} ended with {process.returncode} at Ctrl-C")
            finally:
                process.kill()


def _compare(what: str, printed: str, expected: str) -> None:
    if printed != expected:
        raise Wrong(f"{what} printed\n{printed}\nand the page says\n{expected}")


def main() -> int:
    """Follow the pages; return an exit code."""
    with tempfile.TemporaryDirectory(prefix="echostream-quickstart-") as folder:
        clone = Path(folder) / "echostream"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=TIMEOUT)
        newcomer = Newcomer(clone, Path(folder) / "state")
        for page in PAGES:
            print(f"== {page}", flush=True)
            try:
                newcomer.follow(page)
            except (Wrong, subprocess.TimeoutExpired) as error:
                print(f"! {page}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
