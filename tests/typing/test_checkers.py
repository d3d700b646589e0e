"""mypy --strict and pyright accept the program of the documentation and a contract-only client, and refuse misuse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = ["mypy", "pyright"]
HERE = Path(__file__).parent
ROOT = HERE.parents[1]

REVEAL = """
from echostream import RpcClient
from tests.typing.program import Order, Orders

async def talk(client: RpcClient) -> None:
    reveal_type(await client.proxy(Orders).place(Order(symbol="ACME", qty=5)))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def check(tool: str, path: Path, folder: Path) -> str:
    """Return what a checker says about a file."""
    pytest.importorskip(tool)
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "strict", "include": [str(path)]}))
    arguments = {
        "mypy": ["--strict", "--no-error-summary", "--cache-dir", str(folder / "cache"), str(path)],
        "pyright": ["--project", str(config), "--pythonpath", sys.executable],
    }[tool]
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    return done.stdout


def lines_with_errors(output: str, name: str) -> set[int]:
    return {int(line) for line in re.findall(rf"{name}:(\d+)(?::\d+)?(?: -|:) error", output)}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", ["program.py", "contract.py"])
def test_programs_are_accepted(tool: str, name: str, tmp_path: Path) -> None:
    output = check(tool, HERE / name, tmp_path)
    assert output.strip() in ("", "0 errors, 0 warnings, 0 informations", "Success: no issues found in 1 source file")


@pytest.mark.parametrize("tool", TOOLS)
def test_misuse_is_refused(tool: str, tmp_path: Path) -> None:
    """A wrong argument type, a passed ctx, a missing argument and the like: every marked line, and no other."""
    source = (HERE / "wrong.py").read_text()
    marked = {number for number, line in enumerate(source.splitlines(), 1) if "# type: ignore[" in line}
    bare = tmp_path / "bare.py"
    bare.write_text(re.sub(r"  # type: ignore\[.*\]", "", source))
    output = check(tool, bare, tmp_path)
    assert lines_with_errors(output, "bare.py") == marked, output
    assert len(marked) > 20


@pytest.mark.parametrize("tool", TOOLS)
def test_result_of_a_proxy_is_revealed_as_its_type(tool: str, tmp_path: Path) -> None:
    program = tmp_path / "reveal.py"
    program.write_text(REVEAL)
    output = check(tool, program, tmp_path)
    (revealed,) = re.findall(r'(?:Revealed type is|Type of ".*" is) "(.*)"', output)
    assert revealed.rpartition(".")[2] == "Receipt"
