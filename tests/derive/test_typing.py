"""Type checkers see decorated functions and classes as they were written, and refuse what the decorators refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """\
from collections.abc import AsyncIterator
from typing import Protocol

from echostream_derive import event, handler, listener, service, stream


@event("price.changed")
class PriceChanged:
    price: float = 1.0


@service("orders", version="1.0.0", strict=True)
class Orders:
    @handler
    async def place(self, symbol: str, *, count: int = 1) -> int:
        return count

    @handler(timeout=None, idempotent=True, raises=[ValueError])
    async def watch(self, symbol: str) -> AsyncIterator[float]:
        yield 1.0

    @handler(thread=True)
    def hash(self, data: bytes) -> bytes:
        return data

    @listener(PriceChanged)
    async def on_price(self, changed: PriceChanged) -> None: ...

    @stream("microphone")
    async def on_microphone(self, receiver: object) -> None: ...


@service
class Contract(Protocol):
    @handler
    def watch(self, symbol: str) -> AsyncIterator[float]: ...


@handler("echo")
async def echo(text: str) -> str:
    return text


async def take(orders: Orders, contract: Contract) -> None:
    reveal_type(await orders.place("x", count=2))
    reveal_type(orders.watch("x"))
    reveal_type(orders.hash(b""))
    reveal_type(orders.on_price)
    reveal_type(await echo("x"))
    reveal_type(PriceChanged().price)
    reveal_type(Orders())
    reveal_type(contract.watch("x"))
"""

WRONG = """\
from echostream_derive import event, handler, listener, service, stream

@handler
async def echo(text: str) -> str:
    return text

async def call() -> None:
    await echo(1)  # wrong
    await echo()  # wrong

service(7)  # wrong
handler(timeout="2")  # wrong
handler(raises=[int])  # wrong
event()  # wrong
listener(7)  # wrong
stream()  # wrong
"""


def checked(tool: str, program: str, folder: Path) -> str:
    path = folder / "program.py"
    path.write_text(program)
    command = {
        "mypy": ["mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache"), str(path)],
        "pyright": ["pyright", str(path)],
    }[tool]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "MYPYPATH": str(ROOT), "HOME": str(folder)}
    (folder / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"], "typeCheckingMode": "strict"}}')
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.stdout


def revealed(output: str) -> list[str]:
    return [
        re.sub(r"\b(collections\.abc|typing|program|builtins)\.", "", item)
        for item in re.findall(r'(?:Revealed type is|Type of ".*" is) "(.*)"', output)
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_decorated_things_keep_their_types(tool: str, tmp_path: Path) -> None:
    pytest.importorskip(tool)
    output = checked(tool, PROGRAM, tmp_path)
    assert "error" not in output.replace("0 errors", ""), output
    listener_type = {
        "mypy": "def (changed: PriceChanged) -> Coroutine[Any, Any, None]",
        "pyright": "(changed: PriceChanged) -> CoroutineType[Any, Any, None]",
    }[tool]
    iterator = "AsyncIterator[float]"
    assert revealed(output) == ["int", iterator, "bytes", listener_type, "str", "float", "Orders", iterator]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_wrong_uses_are_refused_by_checkers(tool: str, tmp_path: Path) -> None:
    pytest.importorskip(tool)
    output = checked(tool, WRONG, tmp_path)
    wrong = {index for index, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")}
    found = {int(line) for line in re.findall(r"program\.py:(\d+)(?::\d+)?(?: -|:) error", output)}
    assert found == wrong, output
