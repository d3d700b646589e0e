"""``MODULE:OBJECT`` from the command line to a server, and errors that name what is near."""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from echostream.cli.console import Misuse
from echostream.server import RpcServer
from echostream_derive import HandlerSpec, ListenerSpec, StreamSpec, is_service, marks_of

__all__ = ("Loaded", "load_server", "make_server")

_NEAR_NAMES: Final = 3

Loaded = Any
"""What the object turned out to be: a server, or something to be served."""


def load_server(source: str, *, factory: bool = False) -> RpcServer:
    """Return the server that ``MODULE:OBJECT`` stands for; see `make_server`.

    Raises:
        Misuse: there is no such module or object, or it is nothing that can be served.
    """
    return make_server(_load(source), source, factory=factory)


def make_server(loaded: Loaded, source: str, *, factory: bool = False) -> RpcServer:
    """Return the server: the object itself, what it returns, or a new one that serves it.

    Args:
        loaded: what was found.
        source: what the user called it, for texts.
        factory: whether it is a function that returns a server, plain or async.

    Raises:
        Misuse: it is nothing that can be served; says what to write.
    """
    if factory:
        if not callable(loaded):
            raise Misuse(f"{source} is {_kind(loaded)}, not a function: leave out --factory")
        try:
            inspect.signature(loaded).bind()
        except TypeError as error:
            raise Misuse(f"{source} is called without arguments as a factory: {error}") from None
        made = loaded()
        if inspect.isawaitable(made):
            made = asyncio.run(_awaited(made))
        if not isinstance(made, RpcServer):
            raise Misuse(f"{source} returned {_kind(made)}, expected an RpcServer: add `return server`")
        return made
    if isinstance(loaded, RpcServer):
        return loaded
    return _serving(loaded, source)


def _serving(loaded: Loaded, source: str) -> RpcServer:
    target = loaded
    if isinstance(loaded, type) and is_service(loaded):
        try:
            target = loaded()
        except TypeError as error:
            raise Misuse(f"{source} cannot be made without arguments ({error}): serve an object of it") from None
    elif not is_service(type(loaded)) and not _is_marked(loaded):
        hint = ": add --factory if it returns a server" if inspect.isroutine(loaded) else ""
        raise Misuse(
            f"{source} is {_kind(loaded)}, expected an RpcServer, a @service class or object of one, or a function"
            f" marked with @handler{hint}"
        )
    server = RpcServer("quic://127.0.0.1:4433")
    server.register(target)
    return server


async def _awaited(made: Any) -> Any:
    return await made


def _is_marked(loaded: Loaded) -> bool:
    return any(isinstance(mark, HandlerSpec | ListenerSpec | StreamSpec) for mark in marks_of(loaded))


def _load(source: str) -> Loaded:
    module_name, _, path = source.partition(":")
    if module_name.endswith(".py") or "/" in module_name or "\\" in module_name:
        dotted = ".".join(Path(module_name).with_suffix("").parts)
        raise Misuse(f"{module_name} is a file: give its module, {dotted}:{path or 'server'}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module = _import(module_name)
    if not path:
        return _only_server(module)
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise Misuse(f"{module_name} has no {path!r}{_objects_near(path, module)}")
        found = getattr(found, part)
    return found


def _import(name: str) -> ModuleType:
    importlib.invalidate_caches()
    if not all(part.isidentifier() for part in name.split(".")):
        raise Misuse(f"{name!r} is no name of a module: write MODULE:OBJECT, such as app.main:server")
    for end in range(1, name.count(".") + 2):  # parents first: the one that is missing is named
        part = ".".join(name.split(".")[:end])
        try:
            missing = find_spec(part) is None
        except (ImportError, ValueError):
            missing = part not in sys.modules
        if missing:
            raise Misuse(f"there is no module {part!r} here or among what is installed{_modules_near(part)}")
    return importlib.import_module(name)


def _modules_near(name: str) -> str:
    folder = Path.cwd().joinpath(*name.split(".")[:-1])
    paths = folder.iterdir() if folder.is_dir() else ()
    here = [path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").is_file()]
    prefix = name.rpartition(".")[0]
    near = difflib.get_close_matches(name.rpartition(".")[2], here, _NEAR_NAMES, 0.5)
    full = [f"{prefix}.{item}" if prefix else item for item in near]
    return f"; did you mean {' or '.join(full)}?" if full else f" (looked in {folder})"


def _objects_near(path: str, module: ModuleType) -> str:
    names = [name for name in vars(module) if not name.startswith("_")]
    near = difflib.get_close_matches(path, names, _NEAR_NAMES, 0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    servers = [*_servers(module)]
    return f"; it has {' and '.join(servers)}" if servers else "; it has no RpcServer at module level"


def _only_server(module: ModuleType) -> Loaded:
    servers = [*_servers(module)]
    if len(servers) == 1:
        return getattr(module, servers[0])
    name = module.__name__
    if servers:
        raise Misuse(f"{name} has several servers: say {' or '.join(f'{name}:{item}' for item in servers)}")
    services = [f"{name}:{item}" for item, value in vars(module).items() if _is_service_of(value, name)]
    which = " or ".join(services) or f"{name}:OBJECT"
    raise Misuse(f"{name} has no RpcServer at module level: say which object to serve, {which}")


def _is_service_of(value: object, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module and is_service(value)


def _servers(module: ModuleType) -> Iterator[str]:
    return (name for name, value in vars(module).items() if isinstance(value, RpcServer))


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '?')}"
    return f"an object of {type(value).__name__}"
