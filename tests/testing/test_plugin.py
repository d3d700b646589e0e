"""The pytest plugin, in small test runs of its own: with pytest-asyncio, and without it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import echostream.testing
import echostream.testing.factories
import echostream.transport.quic.engine_aioquic

pytest_plugins = ["pytester"]

SERVICE = """
import asyncio
import pytest
from echostream import ConfigurationError, RpcError, RpcServer, handler, service
from echostream.testing import ClientFactory, ServerFactory, SimClock, SimNetwork

@service("orders")
class Orders:
    def __init__(self):
        self.closed = 0

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def fail(self) -> None:
        raise ZeroDivisionError("bug")
"""

_PYTEST_ASYNCIO = ["-p", "pytest_asyncio.plugin", "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function"]
ASYNCIO = [*_PYTEST_ASYNCIO, "-o", "asyncio_mode=auto"]
STRICT = [*_PYTEST_ASYNCIO, "-o", "asyncio_mode=strict"]
ALONE = ["-W", "error"]
RUNNERS = {"auto": ASYNCIO, "strict": STRICT, "alone": ALONE}


@pytest.fixture(params=RUNNERS)
def arguments(request: pytest.FixtureRequest) -> list[str]:
    return RUNNERS[request.param]


@pytest.fixture(autouse=True)
def _only_this_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(SERVICE + text)
    return pytester.runpytest_inprocess("-p", "echostream.testing.plugin", "-p", "no:cacheprovider", *arguments)


def test_servers_and_clients_in_memory(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = run(
        pytester,
        """
made = []

async def test_add(es_server: ServerFactory, es_client: ClientFactory):
    server = await es_server(Orders())
    client = await es_client(server)
    made.extend([server, client])
    assert server.addresses[0].startswith("memory://")
    assert await client.proxy(Orders).add(1, b=2) == 3

def test_everything_is_closed():
    server, client = made
    assert server.addresses == []
    assert client.session.state == "closed"

async def test_bug(es_server, es_client):
    server = await es_server(Orders())
    with pytest.raises(ZeroDivisionError):
        await (await es_client(server)).proxy(Orders).fail()
    with pytest.raises(RpcError, match="internal error"):
        await (await es_client(server, raise_server_exceptions=False)).proxy(Orders).fail()

async def test_quic(es_server, es_client):
    client = await es_client(await es_server(Orders(), url="quic://127.0.0.1:0"), timeout=5.0)
    assert await client.proxy(Orders).add(1) == 1

async def test_a_server_of_ones_own(es_server, es_client):
    server = RpcServer("quic://0.0.0.0:4433")
    server.register(Orders())
    assert await es_server(server) is server
    assert server.addresses[0].startswith("memory://")
    assert await (await es_client(server)).proxy(Orders).add(1) == 1
    with pytest.raises(ConfigurationError, match="a server goes alone: register and set its options before"):
        await es_server(server, Orders())
""",
        *arguments,
    )
    result.assert_outcomes(passed=5)


def test_a_bug_that_nobody_waited_for_fails_the_test(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = run(
        pytester,
        """
async def test_listener(es_server, es_client):
    server = await es_server()
    def listen(payload):
        raise ZeroDivisionError("listener bug")
    server.on("price", listen)
    client = await es_client(server)
    await client.emit("price", 1, ack=True)
""",
        *arguments,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError: listener bug*"])


def test_a_whole_test_in_virtual_time(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = run(
        pytester,
        """
@pytest.mark.es_network(delay=0.5, seed=5)
async def test_add(es_network: SimNetwork, es_server, es_client, es_clock: SimClock):
    assert es_network.seed == 5
    server = await es_server(Orders())
    assert server.addresses == ["quic://10.0.0.1:4433"]
    before = es_clock.monotonic()
    client = await es_client(server, timeout=30.0)
    assert es_clock.monotonic() - before > 1.0
    assert await client.proxy(Orders).add(1) == 1
    await asyncio.sleep(1000)
    with es_network.host("phone"):
        other = await es_client(server, timeout=30.0)
        assert (await es_server(Orders())).addresses == ["quic://10.0.0.3:4433"]
    assert {record.host for record in es_network.trace} == {"server", "client"}

async def test_a_server_of_ones_own_is_on_its_host(es_network, es_server, es_client):
    server = RpcServer()
    server.register(Orders())
    await es_server(server)
    assert server.addresses == ["quic://10.0.0.1:4433"]
    assert await (await es_client(server)).proxy(Orders).add(1) == 1

class TestInAClass:
    @pytest.mark.parametrize("n", [1, 2])
    async def test_parameters(self, n, es_network):
        await asyncio.sleep(n)
        assert es_network.now == pytest.approx(n)

def test_by_hand(es_network, es_clock):
    async def scenario(network):
        await asyncio.sleep(5)
    es_network.run(scenario)
    assert es_clock.monotonic() == pytest.approx(5)

def test_network_that_does_not_run(es_network):
    pass
""",
        *arguments,
    )
    result.assert_outcomes(passed=6)


FAILING = """
@pytest.mark.es_network(loss=0.05, delay=0.02)
async def test_it(es_network, es_server, es_client):
    client = await es_client(await es_server(Orders()))
    assert await client.proxy(Orders).add(1) == 2
"""


def test_a_failure_prints_how_to_see_it_again(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = run(pytester, FAILING, *arguments)
    result.assert_outcomes(failed=1)
    command = 'replay: python -m pytest "test_a_failure_prints_how_to_see_it_again.py::test_it" --es-seed='
    [line] = [line for line in result.stdout.lines if line.startswith(command)]
    seed = line.removeprefix(command)
    again = run(pytester, FAILING, *arguments, f"--es-seed={seed}")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines([f"*in a simulation: seed={seed}, at * virtual seconds; replay:*", line])
    other = run(pytester, FAILING, *arguments, "--es-seed=77")
    other.stdout.fnmatch_lines(["*--es-seed=77"])


def test_the_seed_follows_from_the_test(pytester: pytest.Pytester) -> None:
    text = """
@pytest.mark.parametrize("n", [1, 2])
def test_it(es_network, n):
    print("seed", es_network.seed)
"""
    seeds = [re.findall(r"seed \d+", run(pytester, text, "-s").stdout.str()) for _ in range(2)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("0.05", "es_network takes keywords only, such as loss=0.05"),
        ("loss=2.0", "2.0 is out of range"),
        ("los=0.1", "es_network does not know 'los', only bandwidth, *, loss, *, seed"),
    ],
)
def test_a_wrong_marker_is_told(pytester: pytest.Pytester, marker: str, text: str) -> None:
    result = run(pytester, f"@pytest.mark.es_network({marker})\ndef test_it(es_network): pass\n", "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{text}*"])


@pytest.mark.parametrize("name", ["test_orders", "test_more_orders"])
def test_the_page_says_it_right(pytester: pytest.Pytester, arguments: list[str], root: Path, name: str) -> None:
    page = (root / "docs" / "how-to" / "testing.md").read_text("utf-8")
    text = page.partition(f'title="{name}.py"')[2].partition("```")[0]
    pytester.makepyfile(**{name: text})
    result = pytester.runpytest_inprocess("-p", "echostream.testing.plugin", "-p", "no:cacheprovider", *arguments)
    result.assert_outcomes(passed=2)


def test_a_forgotten_await_is_told(pytester: pytest.Pytester, arguments: list[str]) -> None:
    result = run(
        pytester,
        """
async def test_it(es_server, es_client):
    await es_client(es_server(Orders()))
""",
        *arguments,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*es_client: got a coroutine, expected a server: await es_server(...)*"])


def test_a_fixture_outside_the_simulation_is_told(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture
async def server(es_server):
    return await es_server(Orders())

async def test_it(es_network, server):
    pass
""",
        *ASYNCIO,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*es_server: called outside the simulation, as an async fixture is: *"])


def test_other_tests_are_left_alone(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_asyncio():
    await asyncio.sleep(0)

def test_plain():
    pass

@pytest.mark.anyio
async def test_of_another_plugin(es_server):
    pass
""",
        *STRICT,
        "-o",
        "markers=anyio",
        "-W",
        "ignore::pytest.PytestUnhandledCoroutineWarning"
        if hasattr(pytest, "PytestUnhandledCoroutineWarning")
        else "default",
    )
    result.assert_outcomes(passed=1, failed=2)


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, echostream.testing.plugin;"
        "print({'pydantic', 'echostream.server', 'echostream.testing.network'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_kit_names_what_it_has() -> None:
    for name in echostream.testing.__all__:
        assert getattr(echostream.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = importlib.import_module("echostream.testing").nothing
