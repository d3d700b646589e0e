"""``echostream new``: a small project that runs and passes its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from echostream.cli.console import Misuse, failures

__all__ = ("new",)

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")

_FILES: Final = {
    "pyproject.toml": """\
[project]
name = "{name}"
version = "0.1.0"
description = "{title}, served with EchoStream"
requires-python = ">=3.11"
dependencies = ["echostream[cli]"]

[project.optional-dependencies]
test = ["pytest>=8", "pytest-asyncio>=1"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]

[tool.pytest.ini_options]
asyncio_mode = "auto"
pythonpath = ["."]
""",
    "echostream.toml": """\
# What `echostream serve` does here; its options and the environment (ECHOSTREAM_...) win over it.
[serve]
app = "{package}.app:server"
""",
    "README.md": """\
# {title}

    pip install -e '.[test]'
    pytest
    echostream serve --reload

and in another terminal:

    echostream describe --service {package}
    echostream call {package}.hello world
""",
    ".gitignore": """\
__pycache__/
.pytest_cache/
.venv/
""",
    "{package}/__init__.py": '''\
"""{title}."""
''',
    "{package}/app.py": '''\
"""What {title} serves, and the server that serves it."""

from collections.abc import AsyncIterator

from echostream import RpcServer, handler, service


@service("{package}")
class {cls}:
    """Greets people and counts."""

    @handler
    async def hello(self, name: str) -> str:
        """Greet somebody by name."""
        return f"hello, {{name}}"

    @handler
    async def count(self, upto: int) -> AsyncIterator[int]:
        """Count from 1."""
        for number in range(1, upto + 1):
            yield number


server = RpcServer("quic://127.0.0.1:4433")
server.register({cls}())
server.enable_discovery("{package}")
''',
    "tests/test_app.py": '''\
"""What {title} promises. No network is needed for it."""

from echostream.testing import connect_in_memory

from {package}.app import {cls}, server


async def test_it_greets() -> None:
    async with connect_in_memory(server) as client:
        assert await client.proxy({cls}).hello("world") == "hello, world"


async def test_it_counts() -> None:
    async with connect_in_memory(server) as client:
        assert [number async for number in client.proxy({cls}).count(3)] == [1, 2, 3]
''',
}


def new(
    name: Annotated[str, typer.Argument(help="Name of the project and its folder: small letters, digits, - or _.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to make it.")] = Path(),
) -> None:
    """Make a project with a service, a server and a test."""
    with failures():
        made = _make(name, folder)
    typer.echo(
        f"made {made}\n\n    cd {made}\n    pytest\n    echostream serve --reload\n\nand in another terminal\n\n"
        f"    echostream call {name.replace('-', '_')}.hello world"
    )


def _make(name: str, folder: Path) -> Path:
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package) or package == "echostream":
        raise Misuse(
            f"{name!r} is no name for a project: small letters and digits, with - or _ between, such as my-app"
        )
    words = package.split("_")
    fill = {
        "name": name,
        "package": package,
        "title": " ".join(words).capitalize(),
        "cls": "".join(map(str.title, words)),
    }
    root = folder / name
    if root.exists():
        raise Misuse(f"{root} is there already: choose another name, or move it away")
    try:
        for path, text in _FILES.items():
            target = root / path.format(**fill)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.format(**fill), encoding="utf-8")
    except OSError as error:
        raise Misuse(f"cannot write {error.filename} ({error.strerror})") from None
    return root
