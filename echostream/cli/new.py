"""``echostream new``: a small project that runs and passes its test."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from echostream.cli.console import Misuse, failures

__all__ = ("new",)

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_TAKEN: Final = frozenset({"client", "echostream", "pydantic", "pytest", "tests"})
"""Beside those of Python: what the project's files import, or are called themselves."""
_CLASSES: Final = frozenset({"Arrived", "Context", "Field", "Guest"})
"""What app.py has already."""

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
asyncio_default_fixture_loop_scope = "function"
pythonpath = ["."]
""",
    "echostream.toml": """\
# What `echostream serve` does here; its options and the environment (ECHOSTREAM_...) win over it.
[serve]
app = "{package}.app:server"
""",
    "README.md": """\
# {title}

The service is in `{package}/app.py`. EchoStream is not on PyPI yet: `pip install '/path/to/its/clone[cli]'`, unless it
is there already. Serve it:

    echostream serve --reload

and in another terminal:

    python client.py
    echostream describe {package}
    echostream call {package}.hello '{{"name": "world"}}'

Its tests:

    pip install -e '.[test]'
    pytest
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

from echostream import INJECTED, Context, RpcServer, event, handler, service
from pydantic import BaseModel, Field


class Guest(BaseModel):
    name: str = Field(min_length=1)  # what does not fit is refused before the handler runs
    visits: int = Field(default=1, ge=1, le=100)


@event("{package}.arrived")
class Arrived(BaseModel):
    name: str


@service("{package}")
class {cls}:
    """Greets guests and counts."""

    @handler
    async def hello(self, guest: Guest, *, ctx: Context = INJECTED) -> str:
        """Greet a guest."""
        await ctx.session.emit(Arrived(name=guest.name))  # an event, to who called
        return f"hello, {{guest.name}}"

    @handler
    async def count(self, upto: int) -> AsyncIterator[int]:
        """Count from 1: a stream of answers."""
        for number in range(1, upto + 1):
            yield number


server = RpcServer("quic://127.0.0.1:0")  # any free port: it is found by name
server.register({cls}())
server.enable_discovery("{package}")
''',
    "client.py": '''\
"""Calls {title} from another program, which it finds by name."""

import asyncio

from echostream import RpcClient, RpcError

from {package}.app import Arrived, Guest, {cls}


async def main() -> None:
    async with RpcClient.discover("{package}") as client:
        client.on(Arrived, lambda arrived: print("event:", arrived))
        remote = client.proxy({cls})

        print(await remote.hello(Guest(name="world")))
        async for number in remote.count(3):
            print(number)

        try:
            await client.request("{package}.hello", {{"name": ""}})
        except RpcError as error:
            print(error)


asyncio.run(main())
''',
    "tests/test_app.py": '''\
"""What {title} promises. No network is needed for it."""

import asyncio

from echostream.testing import connect_in_memory

from {package}.app import Arrived, Guest, {cls}, server


async def test_it_greets() -> None:
    async with connect_in_memory(server) as client:
        heard: asyncio.Queue[Arrived] = asyncio.Queue()
        client.on(Arrived, heard.put_nowait)
        assert await client.proxy({cls}).hello(Guest(name="world")) == "hello, world"
        assert await heard.get() == Arrived(name="world")


async def test_it_counts() -> None:
    async with connect_in_memory(server) as client:
        assert [number async for number in client.proxy({cls}).count(3)] == [1, 2, 3]
''',
}

_NEXT: Final = """\
made {made}: its service is in {package}/app.py

    cd {made}
    echostream serve --reload

and there in another terminal

    python client.py
    echostream call {package}.hello '{{"name": "world"}}'

Its tests: pip install -e '.[test]', then pytest"""


def new(
    name: Annotated[str, typer.Argument(help="Name of the project and its folder: small letters, digits, - or _.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to make it.")] = Path(),
) -> None:
    """Make a project with a service, a server, a client and a test."""
    with failures():
        made = _make(name, folder)
    package = name.replace("-", "_")
    typer.echo(_NEXT.format(made=made, package=package))


def _make(name: str, folder: Path) -> Path:
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise Misuse(
            f"{name!r} is no name for a project: small letters and digits, with - or _ between, such as my-app"
        )
    if package in _TAKEN or package in sys.stdlib_module_names:
        raise Misuse(f"{name!r} is the name of another module, which it would hide: choose another, such as my-{name}")
    words = package.split("_")
    cls = "".join(map(str.title, words))
    fill = {
        "name": name,
        "package": package,
        "title": " ".join(words).capitalize(),
        "cls": f"{cls}Service" if cls in _CLASSES else cls,
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
