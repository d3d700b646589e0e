"""What the texts show is Python, and the first program of the README runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles(page: str) -> None:
    for number, block in enumerate(BLOCK.findall((ROOT / page).read_text("utf-8"))):
        compile(block, f"{page}, block {number}", "exec")


def test_the_first_program_runs_as_it_stands(tmp_path: Path) -> None:
    [program] = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    (tmp_path / "first.py").write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, "first.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("hello, world\n1\n2\n3\n", 0), done.stderr
