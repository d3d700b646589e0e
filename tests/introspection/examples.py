"""The services of examples/, ready to be described."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from echostream import RpcServer
from echostream_derive import is_service

FOLDER = Path(__file__).parents[2] / "examples"


def _serves(path: Path) -> bool:
    tree = ast.parse(path.read_text("utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return "RpcServer" in names and bool(services_of(_module(path)))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts)


def _classes(example: str) -> list[type]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        module = importlib.import_module(example)
    return [item for item in vars(module).values() if isinstance(item, type)]


def services_of(example: str) -> list[type]:
    """The service classes of an example that can be served: no contracts."""
    return [cls for cls in _classes(example) if is_service(cls) and not getattr(cls, "_is_protocol", False)]


def serving(classes: list[type]) -> RpcServer:
    """A server of objects of these classes, which are never called and so need no `__init__`."""
    server = RpcServer("memory://examples")
    server.register(*(object.__new__(cls) for cls in classes))
    return server


EXAMPLES = [_module(path) for path in sorted(FOLDER.rglob("*.py")) if "test_" not in path.name and _serves(path)]
