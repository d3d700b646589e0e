"""What a module offers is what its `__all__` says, and the facade offers it without loading what it does not need."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import echostream

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("echostream", "echostream_derive")
    for path in (ROOT / package).rglob("*.py")
    if path.name == "__init__.py" or not path.name.startswith("_")
)
LIGHT = {"echostream", "__future__", "importlib", "typing"}
"""All that `import echostream` loads, with what these of Python's own modules need themselves."""


@pytest.mark.parametrize("path", MODULES)
def test_a_module_lists_its_names_in_a_sorted_tuple(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"), path)
    if not _defines_anything(tree):
        return  # a package without names of its own has none to list
    exported = _exported(tree)
    assert exported is not None, f"{path} has no __all__ tuple of strings"
    assert exported == sorted(set(exported), key=_order)


@pytest.mark.parametrize("path", MODULES)
def test_every_listed_name_exists(path: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
    assert missing == []


def test_the_facade_gives_the_objects_that_their_modules_give() -> None:
    for name in echostream.__all__:
        found = getattr(echostream, name)
        home = getattr(found, "__module__", None)
        if isinstance(home, str) and home.startswith("echostream"):
            assert getattr(importlib.import_module(home), name) is found, name


def test_importing_the_facade_loads_no_more_than_this() -> None:
    """Whatever it loaded besides would cost each program that imports it, however little of it that uses."""
    foundation = ", ".join(sorted(LIGHT - {"echostream"}))
    program = (
        f"import sys, {foundation}; had = {{*sys.modules}}; import echostream; print(*sorted({{*sys.modules}} - had))"
    )
    # -I: neither the environment nor a coverage hook loads anything beside it.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=15, check=False)
    assert (done.stdout.split(), done.stderr, done.returncode) == (["echostream"], "", 0)


def test_the_order_is_constants_then_classes_then_the_rest() -> None:
    names = ["send", "Stream10", "MAX", "Stream9", "_x", "A"]
    assert sorted(names, key=_order) == ["MAX", "A", "Stream9", "Stream10", "_x", "send"]


def test_a_list_or_a_missing_all_is_no_tuple() -> None:
    assert _exported(ast.parse("__all__ = ['a']")) is None
    assert _exported(ast.parse("x = 1")) is None
    assert _exported(ast.parse("__all__ = ('b', 'a')")) == ["b", "a"]
    assert _exported(ast.parse("__all__: Final = ('a',)")) == ["a"]


def _defines_anything(tree: ast.Module) -> bool:
    """Tell whether a module holds more than its docstring."""
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in tree.body)


def _exported(tree: ast.Module) -> list[str] | None:
    """Return the names of a literal `__all__` tuple, or None where there is no such tuple."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = getattr(node, "value", None)
            if isinstance(value, ast.Tuple) and all(isinstance(item, ast.Constant) for item in value.elts):
                return [ast.literal_eval(item) for item in value.elts]
    return None


def _order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Sort as ruff's RUF022 does: CONSTANTS, Classes, the rest; numbers by value."""
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2
    parts = [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
    return kind, parts
