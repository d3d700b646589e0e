"""Tests for echostream.cli.loading: MODULE:OBJECT, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from echostream import RpcServer
from echostream.cli.console import Misuse
from echostream.cli.loading import load_server, make_server

PROGRAM = """
from echostream import RpcServer, handler, service

@service("one")
class One:
    @handler
    async def get(self) -> int:
        return 1

@service("picky")
class Picky:
    def __init__(self, needed):
        pass

one = One()
server = RpcServer("memory://loading")
number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def module(folder: Path) -> str:
    name = f"loaded_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(PROGRAM, "utf-8")
    return name


def test_a_server_is_taken_as_it_is(module: str) -> None:
    assert load_server(f"{module}:server") is load_server(module)


@pytest.mark.parametrize("name", ["One", "one", "one.get"])
def test_a_service_gets_a_server(module: str, name: str) -> None:
    server = load_server(f"{module}:{name}")
    assert [method.name.rpartition(".")[2] for item in server.describe() for method in item.methods] == ["get"]


def test_a_factory_is_called() -> None:
    assert isinstance(load_server("tests.cli.app:make", factory=True), RpcServer)
    assert isinstance(load_server("tests.cli.app:make_later", factory=True), RpcServer)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{m}:servr", "{m} has no 'servr'; did you mean server"),
        ("{m}:zzzzzz", "{m} has no 'zzzzzz'; it has server"),
        ("{m}:number", "{m}:number is an object of int, expected an RpcServer, a @service class or object of one"),
        ("{m}:Picky", "{m}:Picky cannot be made without arguments"),
        ("{m}x:server", "there is no module '{m}x' here or among what is installed; did you mean {m}?"),
        ("{m}.py:server", "{m}.py is a file: give its module, {m}:server"),
        ("a b:server", "'a b' is no name of a module: write MODULE:OBJECT"),
        ("qqqq.x:server", "there is no module 'qqqq' here"),
        ("tests.cli.ap:server", "there is no module 'tests.cli.ap' here or among what is installed"),
        ("tests.cli.app", "tests.cli.app has several servers: say tests.cli.app:server or tests.cli.app:closed"),
        ("json", "json has no RpcServer at module level: say which object to serve, json:OBJECT"),
        ("tests.cli.parts", "say which object to serve, tests.cli.parts:Shop or tests.cli.parts:Till"),
        ("json:nothing_near", "json has no 'nothing_near'; it has no RpcServer at module level"),
        ("tests.cli.app:make", "tests.cli.app:make is the function make, expected an RpcServer"),
        ("tests.cli.app:make", ": add --factory if it returns a server"),
    ],
)
def test_what_cannot_be_served_is_told_with_what_is_near(module: str, source: str, text: str) -> None:
    with pytest.raises(Misuse) as caught:
        load_server(source.replace("{m}", module))
    assert text.replace("{m}", module) in str(caught.value)


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        (5, "x:y is an object of int, not a function: leave out --factory"),
        (lambda: None, "x:y returned an object of NoneType, expected an RpcServer: add `return server`"),
    ],
)
def test_a_factory_that_is_none_is_told(loaded: object, text: str) -> None:
    with pytest.raises(Misuse) as caught:
        make_server(loaded, "x:y", factory=True)
    assert str(caught.value) == text
