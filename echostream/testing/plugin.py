"""The pytest plugin, found by its entry point: the fixtures `es_*`, and how to run a failed simulation once more.

- ``es_network``: a `SimNetwork` with a seed that follows from the test's id; an async test that uses it runs in
  virtual time. ``@pytest.mark.es_network(loss=0.05, delay=0.02, seed=7)`` sets values of `Link`, `seed` and `limit`.
- ``es_server``, ``es_client``: make servers and clients that are closed at the end of the test.
- ``es_clock``: the clock of ``es_network``.

Async tests need no other plugin; with pytest-asyncio or anyio those run them that do not use ``es_network``.
"""

from __future__ import annotations

import asyncio
import inspect
import zlib
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import AsyncExitStack
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:  # pytest imports this module wherever EchoStream is installed: the rest comes when a test asks for it
    from echostream.testing.factories import ClientFactory, ServerFactory
    from echostream.testing.loop import SimClock
    from echostream.testing.network import SimNetwork

__all__ = ("es_client", "es_clock", "es_network", "es_server")

_OPTIONS: Final = ("seed", "limit")
_OURS: Final = frozenset({"es_network", "es_server", "es_client", "es_clock"})

# Fixtures


@pytest.fixture
def es_network(request: pytest.FixtureRequest) -> Iterator[SimNetwork]:
    """A simulated network; its seed follows from the test's id, the marker ``es_network`` or ``--es-seed``."""
    network = _make_network(request)
    yield network
    if not network.loop.is_closed():
        network.loop.close()


@pytest.fixture
def es_clock(es_network: SimNetwork) -> SimClock:
    """The virtual clock of the test's ``es_network``."""
    return es_network.clock


@pytest.fixture
def es_server(request: pytest.FixtureRequest) -> ServerFactory:
    """A function that starts servers."""
    from echostream.testing.factories import ServerFactory

    return ServerFactory(_stack_of(request.node), _network_of(request))


@pytest.fixture
def es_client(request: pytest.FixtureRequest) -> ClientFactory:
    """A function that connects clients."""
    from echostream.testing.factories import ClientFactory

    return ClientFactory(_stack_of(request.node), _network_of(request))


def _make_network(request: pytest.FixtureRequest) -> SimNetwork:
    from echostream.testing.link import Link
    from echostream.testing.network import SimNetwork
    from echostream.testing.replay import replay_command

    marker = request.node.get_closest_marker("es_network")
    if marker is not None and marker.args:
        raise pytest.UsageError(f"{request.node.nodeid}: es_network takes keywords only, such as loss=0.05")
    wanted = dict(marker.kwargs) if marker is not None else {}
    options = {name: wanted.pop(name) for name in _OPTIONS if name in wanted}
    known = sorted(field.name for field in fields(Link))
    if unknown := sorted(set(wanted) - set(known)):
        text = f"es_network does not know {unknown[0]!r}, only {', '.join((*known, *_OPTIONS))}"
        raise pytest.UsageError(f"{request.node.nodeid}: {text}")
    given = request.config.getoption("--es-seed")
    if given is not None:
        options["seed"] = given
    options.setdefault("seed", zlib.crc32(request.node.nodeid.encode()))
    network = SimNetwork(link=Link(**wanted), **options)
    network.replay = replay_command(network.seed, option=True)
    return network


def _network_of(request: pytest.FixtureRequest) -> SimNetwork | None:
    if "es_network" not in request.fixturenames:
        return None
    network: SimNetwork = request.getfixturevalue("es_network")
    return network


# Running


_STACK: Final = pytest.StashKey[AsyncExitStack]()


def _stack_of(item: pytest.Item) -> AsyncExitStack:
    """Return what is closed at the end of a test, on the test's own loop."""
    return item.stash.setdefault(_STACK, AsyncExitStack())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--es-seed``."""
    group = parser.getgroup("echostream")
    group.addoption("--es-seed", type=int, default=None, help="seed of every es_network, to replay a failure")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "es_network(**values): values of Link, seed and limit for the fixture")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Let an async test close on its own loop what the factories made."""
    if isinstance(item, pytest.Function) and _OURS.intersection(item.fixturenames):
        function = item.obj
        if inspect.iscoroutinefunction(function):
            item.obj = _closing(function, _stack_of(item))


def _closing(
    function: Callable[..., Coroutine[Any, Any, None]], stack: AsyncExitStack
) -> Callable[..., Coroutine[Any, Any, None]]:
    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with stack:
            await function(*args, **kwargs)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test in virtual time, or, where no other plugin does it, on a fresh loop."""
    if not _OURS.intersection(pyfuncitem.fixturenames):
        return None
    function = pyfuncitem.obj
    network = cast("SimNetwork | None", pyfuncitem.funcargs.get("es_network"))
    if network is not None:
        while not inspect.iscoroutinefunction(function) and hasattr(function, "__wrapped__"):
            function = function.__wrapped__  # what pytest-asyncio made synchronous
    if not inspect.iscoroutinefunction(function) or pyfuncitem.get_closest_marker("anyio") is not None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(function).parameters}
    if network is not None:
        network.run(lambda _: function(**arguments))
    else:
        asyncio.run(function(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say below a failure how to see it again."""
    report = yield
    network: SimNetwork | None = getattr(item, "funcargs", {}).get("es_network")
    if network is not None and report.failed:
        report.sections.append(("es_network", network.replay))
    return report
