"""The house rules: imports go strictly down, one library has one door, sans-IO stays pure, modules stay short and
keep to themselves what starts with an underscore.

`violations` judges a tree given as a mapping from file to source, so that its own tests feed it small made-up ones.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

LEVELS: dict[str, float] = {
    "echostream_derive": 0,
    "echostream.types": 1,
    "echostream.bucket": 1,
    "echostream.habits": 1,
    "echostream.errors": 2,
    "echostream.config": 3,
    "echostream.protocol": 4,
    "echostream.realtime": 4,
    "echostream.transport": 4,
    "echostream.discovery": 4,
    "echostream.binding": 4,
    "echostream.session": 5,
    "echostream.routing": 6,
    "echostream.middleware": 6,
    "echostream.plugin": 7,
    "echostream.introspection": 7,
    "echostream.settings": 7,
    "echostream.wiring": 6.5,
    "echostream.connecting": 7,
    "echostream.dialling": 7,
    "echostream.finding": 7,
    "echostream.hosting": 7,
    "echostream.presence": 7,
    "echostream.admission": 7.4,
    "echostream.builder": 7.5,
    "echostream.server": 8,
    "echostream.client": 8,
    "echostream.audio": 9,
    "echostream.cluster": 9,
    "echostream.observability": 9,
    "echostream.rooms": 10,
    "echostream.admin": 11,
    "echostream.testing": 12,
    "echostream": 13,  # the facade, echostream/__init__.py
    "echostream.cli": 14,
    "echostream.__main__": 15,  # starts the command line
}
"""Units and their levels: a unit imports itself and strictly lower ones."""

DOORS = {
    "aioquic": ["echostream/transport/quic/engine_aioquic*.py"],
    "av": ["echostream/audio/codec.py", "echostream/audio/source.py"],
    "cryptography": ["echostream/transport/tls*.py", "echostream/transport/certificates.py"],
    "fastapi": ["echostream/admin/*"],
    "jwt": ["echostream/middleware/auth.py"],
    "msgpack": ["echostream/protocol/payload.py"],
    "nats": ["echostream/cluster/*", "echostream/discovery/nats.py"],
    "numpy": ["echostream/audio/*"],
    "opentelemetry": ["echostream/middleware/tracing.py", "echostream/observability/*"],
    "prometheus_client": ["echostream/observability/*"],
    "pydantic": ["echostream/binding/*", "echostream/settings.py"],
    "pydantic_core": ["echostream/binding/*"],
    "pydantic_settings": ["echostream/settings.py"],
    "pytest": ["echostream/testing/*"],
    "qh3": ["echostream/transport/quic/engine_qh3*.py"],
    "redis": ["echostream/cluster/*"],
    "rich": ["echostream/cli/*"],
    "samplerate": ["echostream/audio/resample.py"],
    "sounddevice": ["echostream/audio/device.py"],
    "starlette": ["echostream/admin/*", "echostream/observability/*"],
    "typer": ["echostream/cli/*"],
    "uvicorn": ["echostream/admin/*", "echostream/observability/*"],
    "typing_extensions": ["echostream/*"],  # for type checkers only
    "uvloop": ["echostream/cli/*"],
    "watchfiles": ["echostream/cli/*"],
    "websockets": ["echostream/transport/websocket.py"],
    "zeroconf": ["echostream/discovery/mdns*.py"],
}
"""Third-party libraries and the only files that may import them."""

SANS_IO = ("echostream.protocol", "echostream.realtime")
IMPURE = frozenset((
    "asyncio", "concurrent", "multiprocessing", "os", "random", "secrets", "select", "selectors", "signal", "socket",
    "ssl", "subprocess", "threading", "time",
))  # fmt: skip
"""What sans-IO code may not import: bytes, `now` and randomness are handed in."""

STANDARD_LIBRARY = sys.stdlib_module_names | {"annotationlib"}  # new in 3.14

PRIVATE_TOUCHED = ("echostream/transport/quic/engine_*.py",)
"""Where another's private names are used: each engine's in one named function of its adapter, with a canary test."""

MAX_LINES = 400


def violations(sources: Mapping[str, str]) -> list[str]:
    """Judge a tree.

    Args:
        sources: text of each file by its path with forward slashes, such as ``"echostream/types.py"``.

    Returns:
        One sentence for each break of a rule, in the order of files and lines.
    """
    modules = {_module(path) for path in sources}
    found = []
    for path, source in sorted(sources.items()):
        count = len(source.splitlines())
        if count > MAX_LINES:
            found.append(f"{path}: {count} lines, at most {MAX_LINES}: look for the second thing hiding in it")
        if _unit(_module(path)) not in LEVELS:
            found.append(f"{path}: {_unit(_module(path))} is not in the table of levels")
            continue
        judged = ((line, _forbidden(path, target)) for line, target in _imports(path, source, modules))
        found += [f"{path}:{line}: {reason}" for line, reason in dict.fromkeys(judged) if reason]
        if not any(fnmatchcase(path, pattern) for pattern in PRIVATE_TOUCHED):
            foreign = sorted(_foreign(path, source))
            found += [f"{path}:{line}: uses {name}, which is private elsewhere" for line, name in foreign]
    return found


def _forbidden(path: str, target: str) -> str | None:
    """Say what is wrong with a file importing a module, if anything is."""
    unit, library = _unit(_module(path)), target.partition(".")[0]
    if library not in ("echostream", "echostream_derive"):
        return _forbidden_outside(path, unit, library)
    other = _unit(target)
    if other not in LEVELS:
        return f"imports {target}, and {other} is not in the table of levels"
    if other != unit and LEVELS[other] >= LEVELS[unit]:
        return f"{unit} (level {LEVELS[unit]}) imports {target} (level {LEVELS[other]}), which is not below it"
    return None


def _forbidden_outside(path: str, unit: str, library: str) -> str | None:
    if library in STANDARD_LIBRARY:
        if unit in SANS_IO and library in IMPURE:
            return f"{unit} is sans-IO and imports {library}"
        return None
    if unit == "echostream_derive":
        return f"echostream_derive imports {library}, it may use the standard library only"
    if library not in DOORS:
        return f"imports {library}, which has no door in the table"
    if not any(fnmatchcase(path, pattern) for pattern in DOORS[library]):
        return f"imports {library}, whose only door is {' or '.join(DOORS[library])}"
    return None


def _imports(path: str, source: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of every module imported, wherever in the file and however."""
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in modules or inner in LEVELS else base
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _absolute(path: str, node: ast.ImportFrom) -> str:
    """Resolve a relative import as the interpreter does."""
    if not node.level:
        return node.module or ""
    parents = path.split("/")[: -node.level]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _foreign(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of the private names that are used on other objects and not made in this file."""
    nodes = list(ast.walk(ast.parse(source, path)))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and _private(node.attr) and node.attr not in own and not _inherited(node):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if _private(alias.name))


def _private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")  # `__x__` and enum's `_x_` are the language's


def _inherited(node: ast.Attribute) -> bool:
    """Tell whether an attribute is the object's own: of `self`, `cls` or `super()`."""
    value = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(value, ast.Name) and value.id in ("self", "cls", "super")


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _unit(module: str) -> str:
    """Return the package or top-level module that has the level: ``echostream.transport.quic`` is in ``.transport``."""
    parts = module.split(".")
    return parts[0] if parts[0] == "echostream_derive" else ".".join(parts[:2])


# The house as it stands.


@pytest.fixture(scope="module")
def house(root: Path) -> dict[str, str]:
    files = [path for package in ("echostream", "echostream_derive") for path in (root / package).rglob("*.py")]
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files}


def test_the_house_keeps_its_rules(house: dict[str, str]) -> None:
    assert "echostream/types.py" in house
    assert violations(house) == []


# The checker sees what it must see.


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        (
            "echostream/types.py",
            "import echostream.errors",
            "echostream.types (level 1) imports echostream.errors (level 2), which is not below it",
        ),
        (
            "echostream/session/peer.py",
            "from echostream.server import RpcServer",
            "echostream.session (level 5) imports echostream.server (level 8), which is not below it",
        ),
        (
            "echostream/protocol/codec.py",
            "from echostream.transport.base import Connection",
            "echostream.protocol (level 4) imports echostream.transport.base (level 4), which is not below it",
        ),
        (
            "echostream/protocol/codec.py",
            "from ..transport import base",
            "echostream.protocol (level 4) imports echostream.transport (level 4), which is not below it",
        ),
        (
            "echostream/server.py",
            "from . import client",
            "echostream.server (level 8) imports echostream.client (level 8), which is not below it",
        ),
        (
            "echostream/client.py",
            "from echostream import RpcServer",
            "echostream.client (level 8) imports echostream (level 13), which is not below it",
        ),
        (
            "echostream_derive/spec.py",
            "from echostream.types import INJECTED",
            "echostream_derive (level 0) imports echostream.types (level 1), which is not below it",
        ),
        (
            "echostream/session/peer.py",
            "from importlib import import_module\ndef late():\n    return import_module('echostream.routing')",
            "echostream.session (level 5) imports echostream.routing (level 6), which is not below it",
        ),
        (
            "echostream/server.py",
            "import echostream.extras",
            "imports echostream.extras, and echostream.extras is not in the table of levels",
        ),
        ("echostream_derive/spec.py", "import pydantic", "echostream_derive imports pydantic, it may use the"),
        ("echostream/server.py", "import pandas", "imports pandas, which has no door in the table"),
        (
            "echostream/transport/quic/endpoint.py",
            "from aioquic.quic.connection import QuicConnection, QuicConnectionState",
            "imports aioquic, whose only door is echostream/transport/quic/engine_aioquic*.py",
        ),
        ("echostream/routing/router.py", "from pydantic import BaseModel", "imports pydantic, whose only door is"),
        ("echostream/protocol/codec.py", "import msgpack", "imports msgpack, whose only door is"),
        ("echostream/transport/udp.py", "from cryptography import x509", "imports cryptography, whose only door is"),
        ("echostream/protocol/peer.py", "import asyncio", "echostream.protocol is sans-IO and imports asyncio"),
        ("echostream/realtime/clock.py", "from time import time", "echostream.realtime is sans-IO and imports time"),
    ],
)
def test_a_forbidden_import_is_seen(path: str, source: str, expected: str) -> None:
    [found] = violations({path: source})
    assert expected in found
    assert found.startswith(f"{path}:{len(source.splitlines())}: ")


def test_imports_for_type_checkers_and_inside_functions_count() -> None:
    source = "if TYPE_CHECKING:\n    from echostream.client import A\ndef f():\n    import echostream.server\n"
    found = violations({"echostream/config.py": source})
    assert [text.split(": ")[0] for text in found] == ["echostream/config.py:2", "echostream/config.py:4"]


def test_a_unit_without_a_level_is_seen() -> None:
    assert violations({"echostream/utils.py": ""}) == [
        "echostream/utils.py: echostream.utils is not in the table of levels"
    ]


def test_the_use_of_what_is_private_elsewhere_is_seen() -> None:
    source = "def f(other):\n    return other._secret\nfrom echostream.types import _hidden\n"
    assert violations({"echostream/session/peer.py": source}) == [
        "echostream/session/peer.py:2: uses _secret, which is private elsewhere",
        "echostream/session/peer.py:3: uses _hidden, which is private elsewhere",
    ]
    assert violations({"echostream/transport/quic/engine_qh3.py": source}) == []


def test_a_long_module_is_seen() -> None:
    assert violations({"echostream/types.py": "\n" * 400}) == []
    [found] = violations({"echostream/types.py": "\n" * 401})
    assert found.startswith("echostream/types.py: 401 lines, at most 400")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("echostream/session/peer.py", "from echostream.protocol import peer\nimport asyncio, echostream.config"),
        ("echostream/protocol/codec.py", "from . import frames\nfrom .frames import Frame\nimport struct"),
        ("echostream/protocol/payload.py", "import msgpack"),
        ("echostream/transport/quic/engine_aioquic.py", "import aioquic.tls\nfrom ..base import Connection"),
        ("echostream/transport/tls_context.py", "from cryptography import x509"),
        ("echostream/binding/validators.py", "import pydantic, echostream_derive"),
        ("echostream/__init__.py", "from echostream.server import RpcServer\nfrom . import client"),
        ("echostream/__main__.py", "from echostream.cli import main"),
        (
            "echostream/session/peer.py",
            "class A:\n    def _f(self): self._x\ndef g(a): a._f(); super()._y; a.__class__",
        ),
    ],
)
def test_a_lawful_import_passes(path: str, source: str) -> None:
    assert violations({path: source}) == []
