"""mypy --strict and pyright accept the program of the documentation and a contract-only client, and refuse misuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

REVEAL = """
from echostream import RpcClient
from tests.typing.program import Order, Orders

async def talk(client: RpcClient) -> None:
    reveal_type(await client.proxy(Orders).place(Order(symbol="ACME", qty=5)))
"""


def check(tool: str, folder: Path) -> str:
    """Return what a checker says about the files of a folder; mypy with the cache that `make types` fills."""
    pytest.importorskip(tool)
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps({"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}))
    arguments = {
        "mypy": ["--strict", "--no-error-summary", *map(str, sorted(folder.glob("*.py")))],
        "pyright": ["--project", str(config), "--pythonpath", sys.executable],
    }[tool]
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_programs_are_accepted_misuse_is_refused_and_proxies_have_types(tool: str, tmp_path: Path) -> None:
    """In one run, because it takes seconds.

    Misuse is a wrong argument type, a passed ctx, a missing argument and the like: every marked line, and no other.
    """
    source = (HERE / "wrong.py").read_text()
    marked = {("bare.py", number) for number, line in enumerate(source.splitlines(), 1) if "# type: ignore[" in line}
    (tmp_path / "bare.py").write_text(re.sub(r"  # type: ignore\[.*\]", "", source))
    (tmp_path / "reveal.py").write_text(REVEAL)
    for name in ("program.py", "contract.py"):
        shutil.copy(HERE / name, tmp_path)  # pyright looks at nothing outside the folder of its configuration
    output = check(tool, tmp_path)
    errors = re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) (?:error|warning)", output)
    assert {(name, int(line)) for name, line in errors} == marked, output
    assert len(marked) > 20
    (revealed,) = re.findall(r'(?:Revealed type is|Type of ".*" is) "(.*)"', output)
    assert revealed.rpartition(".")[2] == "Receipt"
