"""The simulated network: real servers and clients in it, in virtual time, the same again for the same seed."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from echostream import ConfigurationError, ConnectError, ConnectionLostError, RpcClient, RpcServer, Session, handler
from echostream.testing import FrameRecord, Link, SimHost, SimNetwork
from echostream.types import clock, random_bytes, random_source
from tests.serving import open_sockets

LOSSY = Link(delay=0.02, jitter=0.05, loss=0.05, reorder=0.2, duplicate=0.02, corrupt=0.02)
URL = "quic://server:4433"


@handler("double")
async def double(number: int) -> int:
    return 2 * number


@handler("slow")
async def slow(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def serve(network: SimNetwork, url: str = URL, host: str = "server") -> RpcServer:
    with network.host(host):
        server = RpcServer(url)
        server.register(double, slow)
        await server.start()
    return server


@asynccontextmanager
async def world(network: SimNetwork, url: str = URL, listen: str = URL) -> AsyncGenerator[RpcClient]:
    """A server on one host and a client of it on another."""
    server = await serve(network, listen)
    with network.host("phone"):
        async with RpcClient.connect(url, fingerprint=server.fingerprint, timeout=60.0) as client:
            yield client
    with network.host("server"):
        await server.stop()


async def ask(client: RpcClient, count: int, timeout: float = 60.0) -> None:
    calls = (client.request("double", number, returns=int, timeout=timeout) for number in range(count))
    assert await asyncio.gather(*calls) == [2 * number for number in range(count)]


async def talk(network: SimNetwork) -> None:
    async with world(network) as client:
        await ask(client, 100)


def trace_of(seed: int, scenario: Callable[[SimNetwork], Awaitable[None]] = talk, link: Link = LOSSY) -> str:
    network = SimNetwork(seed=seed, link=link)
    network.run(scenario)
    return hashlib.sha256("\n".join(map(str, network.trace)).encode()).hexdigest()


# The same again


def test_same_seed_gives_the_same_frame_trace() -> None:
    first, second, other = trace_of(7), trace_of(7), trace_of(8)
    assert first == second != other


def test_same_seed_gives_the_same_frame_trace_in_another_process(root: Path) -> None:
    code = (
        "import sys; ballast = [object() for _ in range(int(sys.argv[1]))];"
        "from tests.testing.test_network import trace_of; print(trace_of(7))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, ballast],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed, ballast in (("1", "0"), ("2", "12345"))
    }
    assert found == {trace_of(7)}


def test_a_scenario_changes_nothing_outside() -> None:
    before = random_source.getstate()

    async def scenario(_network: SimNetwork) -> tuple[bytes, float, float]:
        return random_bytes(8), random_source.random(), clock.monotonic()

    first, second = SimNetwork(seed=1).run(scenario), SimNetwork(seed=1).run(scenario)
    assert first == second
    assert random_source.getstate() == before
    assert random_bytes(8) != random_bytes(8) != first[0]
    assert clock.monotonic() == pytest.approx(time.monotonic(), abs=1)


def test_trace_can_be_read() -> None:
    network = SimNetwork(link=Link(delay=0.5))
    network.run(talk)
    request, *_ = [record for record in network.trace if record.kind == "Request"]
    assert isinstance(request, FrameRecord)
    assert (request.host, request.id) == ("server", 1)
    assert request.at > 1.5  # the handshake, and half a round trip
    printed = io.StringIO()
    network.print_trace(printed)
    assert str(request) in printed.getvalue().splitlines()
    assert str(request).split() == [f"{request.at:.6f}", "server", "Request", "1", request.digest]


def test_trace_is_printed_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    network = SimNetwork()
    network.run(talk)
    network.print_trace()
    assert len(capsys.readouterr().out.splitlines()) == len(network.trace) > 0


# What the network does


def test_packets_are_lost_and_every_call_still_answers() -> None:
    network = SimNetwork(seed=3, link=Link(loss=0.2, duplicate=0.2, corrupt=0.2))
    network.run(talk)
    state = network.link_state("phone", "server")
    assert min(state.lost, state.duplicated, state.corrupted) > 0


def test_delay_is_seen_by_a_call() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.join("phone", "server", Link(delay=0.2), back=Link(delay=0.3))
        async with world(network) as client:
            before = network.now
            await ask(client, 1)
            assert network.now - before == pytest.approx(0.5, abs=0.001)

    SimNetwork().run(scenario)


def test_packets_are_recorded_on_demand_with_their_fate() -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network) as client:
            assert not network.packets
            network.record_packets()
            network.join("phone", "server", Link(delay=0.2, duplicate=1.0), back=Link(delay=0.3, loss=1.0))
            call = asyncio.create_task(ask(client, 1))
            await asyncio.sleep(0.25)
            sent, answer, *_ = network.packets
            assert (sent.sender, sent.receiver, answer.sender, answer.receiver) == (
                "phone",
                "server",
                "server",
                "phone",
            )
            assert sent.source == answer.destination == ("10.0.0.2", 49152)
            assert sent.destination == answer.source == ("10.0.0.1", 4433)
            assert [arrival.data for arrival in sent.arrivals] == [sent.data] * 2
            assert sent.arrivals[0].at == pytest.approx(sent.at + 0.2)
            assert answer.arrivals == ()
            network.host("phone").move()
            network.join("phone", "server", Link(), back=Link())
            await asyncio.sleep(5)
            assert {packet.receiver for packet in network.packets if packet.destination == sent.source} == {"phone", ""}
            await call

    SimNetwork().run(scenario)


def test_chosen_packets_are_lost() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.record_packets()
        network.join("phone", "server", Link(drop=(1, 3)), back=Link())
        async with world(network) as client:
            await ask(client, 1)
        sent = [packet for packet in network.packets if packet.sender == "phone"]
        assert [number for number, packet in enumerate(sent, 1) if not packet.arrivals] == [1, 3]

    SimNetwork().run(scenario)


def test_bandwidth_holds_back_and_its_queue_overflows() -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network) as client:
            await ask(client, 1)
            narrow = Link(delay=0.01, bandwidth=100_000, queue_bytes=8_000)
            network.join("phone", "server", narrow, back=Link(delay=0.01))
            before = network.now
            await client.request("double", 1, returns=int, metadata={"pad": "x" * 7000}, timeout=60.0)
            assert network.now - before > 0.07
            await asyncio.gather(
                *(client.request("double", 1, metadata={"pad": "x" * 7000}, timeout=60.0) for _ in range(20))
            )
        assert network.link_state("phone", "server").overflowed > 0

    SimNetwork().run(scenario)


def test_packets_above_the_mtu_are_lost() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.join("phone", "server", Link(mtu=1100))
        server = await serve(network)
        with network.host("phone"), pytest.raises(ConnectError, match="cannot reach quic://server:4433 within 10 s"):
            await RpcClient.connect(URL, fingerprint=server.fingerprint)

    SimNetwork().run(scenario)


def test_partition_cuts_off_and_heals() -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network) as client:
            await ask(client, 1)
            network.partition("phone")
            network.host("latecomer")
            assert network.link_state("latecomer", "phone").is_cut
            assert not network.link_state("latecomer", "server").is_cut
            late = asyncio.create_task(ask(client, 1))
            await asyncio.sleep(5)
            assert not late.done()
            network.heal()
            await late
            network.partition("phone", "server")
            await ask(client, 1)
            assert network.link_state("latecomer", "phone").is_cut

    SimNetwork().run(scenario)


def test_partition_of_a_host_that_is_not_there() -> None:
    network = SimNetwork()
    network.host("server")
    with pytest.raises(ConfigurationError, match="no host 'sever', there are server"):
        network.partition("sever")


def test_a_peer_that_vanishes_is_noticed() -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network) as client:
            network.partition("phone")
            began = network.now
            with pytest.raises(ConnectionLostError):
                await client.request("slow", 1000.0, timeout=None)
            assert 30 < network.now - began < 120

    SimNetwork().run(scenario)


@pytest.mark.parametrize("change", [SimHost.move, SimHost.rebind])
def test_a_client_may_get_another_address_or_port(change: Callable[[SimHost], None]) -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network) as client:
            phone = network.host("phone")
            for _ in range(3):
                running = asyncio.create_task(client.request("slow", 2.0, returns=float, timeout=60.0))
                await asyncio.sleep(1)
                change(phone)
                await ask(client, 20)
                assert await running == 2.0

    SimNetwork(seed=2, link=Link(delay=0.02)).run(scenario)


def test_what_is_sent_to_an_old_address_is_lost() -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network) as client:
            await ask(client, 1)
            received = len(network.trace)
            task = asyncio.create_task(client.request("double", 1, timeout=60.0))
            await asyncio.sleep(0.15)  # the request has arrived, its answer is on the way
            network.host("phone").move()
            await asyncio.sleep(0.15)
            assert [record.kind for record in list(network.trace)[received:]] == ["Request"]
            network.host("phone")._moves -= 1
            await task

    SimNetwork(link=Link(delay=0.1)).run(scenario)


def test_nobody_listens() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.host("server")
        with network.host("phone"), pytest.raises(ConnectError, match="connection refused"):
            await RpcClient.connect(URL, insecure=True)
        assert network.now < 1

    SimNetwork(link=Link(delay=0.1)).run(scenario)


def test_names() -> None:
    async def scenario(network: SimNetwork) -> None:
        network.host("server")
        with pytest.raises(ConnectError, match="no host 'sever' in this simulation: name it with"):
            await RpcClient.connect("quic://sever:4433", insecure=True)
        with pytest.raises(ConnectError, match="cannot reach"):
            await RpcClient.connect("quic://10.9.9.9:4433", insecure=True)

    SimNetwork().run(scenario)


def test_no_more_hosts_than_addresses() -> None:
    network = SimNetwork()
    for number in range(254):
        network.host(f"host-{number}")
    with pytest.raises(ConfigurationError, match="at most 254 hosts"):
        network.host("one-more")


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("quic://[fd00::1]:4433", "quic://[fd00::1]:4433"),
        ("quic://[fd00:0:0::1]:4433", "quic://[::]:4433"),
        ("quic://10.0.0.1:4433", "quic://[::]:4433"),
        ("quic://server:4433", "quic://0.0.0.0:4433"),
        ("quic://server:4433", "quic://[fd00::1]:4433"),  # the name is tried as IPv4 first
    ],
)
def test_both_families(url: str, listen: str) -> None:
    async def scenario(network: SimNetwork) -> None:
        async with world(network, url, listen) as client:
            await ask(client, 1)
            network.host("phone").move()
            await ask(client, 1)

    SimNetwork().run(scenario)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "localhost"])
def test_loopback_is_each_hosts_own(address: str) -> None:
    async def scenario(network: SimNetwork) -> None:
        server = await serve(network, f"quic://{address}:4433")
        with network.host("server"):
            async with RpcClient.connect(f"quic://{address}:4433", fingerprint=server.fingerprint) as client:
                await ask(client, 1)
        with network.host("phone"), pytest.raises(ConnectError, match="connection refused"):
            await RpcClient.connect(f"quic://{address}:4433", insecure=True)
        await server.stop()

    SimNetwork().run(scenario)


def test_ports_and_addresses_are_taken_as_by_a_kernel() -> None:
    async def scenario(network: SimNetwork) -> None:
        server = await serve(network)
        with pytest.raises(ConnectError, match="is in use"):
            await serve(network)
        with pytest.raises(ConnectError, match="this machine has no such address"):
            await serve(network, "quic://10.0.0.77:1")
        free = await serve(network, "quic://server:0")
        assert free.addresses != server.addresses
        await server.stop()
        await serve(network)
        here = await serve(network, "quic://127.0.0.1:1", host="localhost")
        async with RpcClient.connect("quic://127.0.0.1:1", fingerprint=here.fingerprint) as client:
            await ask(client, 1)  # outside every block: on the host localhost

    SimNetwork().run(scenario)


def test_a_port_knows_where_it_is() -> None:
    network = SimNetwork()
    with network.host("server"):
        port = network.bind(socket.AF_INET6, ("::", 4433, 0, 0))
    assert repr(port) == "<SimPort server:4433>"
    assert port.getsockname() == ("::", 4433, 0, 0)
    with pytest.raises(OSError, match="not connected"):
        port.getpeername()
    assert repr(network.host("server")) == "<SimHost server 10.0.0.1>"
    assert repr(network) == "<SimNetwork seed=0 1 hosts at 0.000 s>"
    assert network.leaks() == ["socket server:4433"]
    port.close()
    port.close()
    assert network.leaks() == []
    network.loop.close()


# Clocks


@pytest.mark.parametrize("offset", [0.0, 1e6, -5.0])
def test_hosts_have_their_own_clocks(offset: float) -> None:
    async def scenario(network: SimNetwork) -> None:
        server, phone = network.host("server"), network.host("phone")
        server.offset, server.drift_ppm = offset, 200.0
        phone.drift_ppm = 50_000.0
        async with world(network) as client:
            await ask(client, 10)
            began = network.now
            await client.request("slow", 10.0, timeout=60.0)
            assert network.now - began == pytest.approx(10 / 1.0002, abs=0.01)
            began = network.now
            with pytest.raises(TimeoutError):
                await client.request("slow", 100.0, timeout=10.0)
            assert network.now - began == pytest.approx(10 / 1.05, abs=0.1)
            with server:
                assert network.loop.time() == clock.monotonic()
                assert clock.monotonic() == pytest.approx(network.now * 1.0002 + offset, abs=1e-6)

    SimNetwork().run(scenario)


def test_a_clock_may_step_and_drift_from_now_on() -> None:
    async def scenario(network: SimNetwork) -> None:
        phone = network.host("phone")
        assert (phone.offset, phone.drift_ppm) == (0.0, 0.0)
        with phone:
            await asyncio.sleep(10)
            phone.drift_ppm = 100_000.0
            assert clock.monotonic() == pytest.approx(10)
            await asyncio.sleep(11)
            assert network.now == pytest.approx(20)
            phone.offset = 5.0
            assert (clock.monotonic(), clock.monotonic_ns()) == pytest.approx((26, 26e9))
            phone.wall_offset = 86_400.0
            ahead = clock.wall()
        assert ahead - clock.wall() == pytest.approx(86_400)
        with pytest.raises(ConfigurationError, match="200000 is out of range"):
            phone.drift_ppm = 2e5

    SimNetwork().run(scenario)


def test_a_calendar_far_ahead_finds_certificates_expired() -> None:
    async def scenario(network: SimNetwork) -> None:
        await serve(network)
        phone = network.host("phone")
        phone.wall_offset = 50 * 365 * 86_400.0
        with phone, pytest.raises(ConfigurationError, match="expired"):
            await RpcClient.connect(URL, ca="dev")

    SimNetwork().run(scenario)


# The end


def test_what_a_scenario_leaves_running_is_named_and_ended() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(1)
            ended.append(1)

    async def scenario(network: SimNetwork) -> tuple[list[str], Session]:
        assert network.leaks() == []
        server = await serve(network)
        with network.host("phone"):
            client = await RpcClient.connect(URL, fingerprint=server.fingerprint)
        task = asyncio.create_task(forever(), name="background")
        await asyncio.sleep(0)
        assert not task.done()
        return network.leaks(), client.session

    sockets = open_sockets()
    network = SimNetwork()
    leaks, session = network.run(scenario)
    assert leaks[:2] == ["socket server:4433", "socket phone:49152"]
    task, *timers = leaks[2:]
    assert task.startswith("task background: ")
    assert "forever" in task
    assert any(timer.startswith("timer EnginePump._fire()") for timer in timers)
    assert ended == [1]
    assert network.leaks() == []
    assert open_sockets() == sockets
    assert network.loop.is_closed()
    del session
    gc.collect()


def test_a_timer_that_is_left_is_named() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def scenario(network: SimNetwork) -> list[str]:
        loop = asyncio.get_running_loop()
        loop.call_later(1e6, double, 1)
        loop.call_later(2e6, partial(double, 2))
        loop.call_later(1e6, double, 1).cancel()
        async with asyncio.timeout(1e6):
            await asyncio.sleep(1)
            sleeping = [
                asyncio.create_task(coroutine) for coroutine in (asyncio.sleep(9), asyncio.wait_for(never(), 9))
            ]
            await asyncio.sleep(1)
            found = network.leaks()
            assert [line.split()[0] for line in found] == ["task"] * (len(found) - 2) + ["timer"] * 2
            for task in sleeping:
                task.cancel()
            return found[-2:]

    named, unnamed = SimNetwork().run(scenario)
    assert named.startswith("timer double(1)")
    assert unnamed.startswith("timer double(2)()")


def test_what_cannot_be_ended_is_told() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(1e9)
            except asyncio.CancelledError:
                await asyncio.sleep(1e9)

    async def scenario(_network: SimNetwork) -> None:
        task = asyncio.create_task(stubborn(), name="stubborn")
        await asyncio.sleep(0)
        assert not task.done()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first") as caught:
        SimNetwork().run(scenario)
    assert "could not be ended" in caught.value.__notes__[1]
    assert "stubborn" in caught.value.__notes__[1]


def test_a_network_runs_once() -> None:
    async def scenario(_network: SimNetwork) -> None:
        pass

    network = SimNetwork()
    network.run(scenario)
    with pytest.raises(RuntimeError, match="this network has run already"):
        network.run(scenario)


def test_failure_names_seed_time_and_replay(root: Path) -> None:
    async def scenario(_network: SimNetwork) -> None:
        await asyncio.sleep(2.5)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        SimNetwork(seed=11).run(scenario)
    [note] = caught.value.__notes__
    test = f"{Path(__file__).relative_to(root).as_posix()}::test_failure_names_seed_time_and_replay"
    assert note == f'in a simulation: seed=11, at 2.500000 virtual seconds; replay: python -m pytest "{test}"'


def test_replay_outside_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    assert SimNetwork(seed=4).replay == "replay with SimNetwork(seed=4)"
