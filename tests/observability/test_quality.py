"""Metrics of quality, read by OpenTelemetry's own SDK: what is told, exactly, and on whose thread."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from echostream import (
    ConfigurationError,
    LocalProtocolError,
    RpcClient,
    RpcError,
    RpcServer,
    StreamReceiver,
    StreamSender,
    stream,
)
from echostream.observability import figures, quality
from echostream.observability.quality import observe_quality
from echostream.session import ledger
from echostream.testing import Link, SimNetwork
from tests.serving import joined, linked, served, session_of, until

URL = "quic://server:4433"

Series = dict[frozenset[tuple[str, Any]], float]


class Metrics:
    """A meter, and what a reader of its provider sees."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.meter: Meter = self._provider.get_meter("test")

    def read(self) -> dict[str, Series]:
        """Every metric that has values, by name; values by attributes."""
        data = self._reader.get_metrics_data()
        found: dict[str, Series] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data is not None else ():
            assert metric.name not in found, "two instruments of one name"
            found[metric.name] = {
                frozenset((point.attributes or {}).items()): point.value  # type: ignore[union-attr]
                for point in metric.data.data_points
            }
        return found

    def counters(self) -> dict[tuple[str, frozenset[tuple[str, Any]]], float]:
        """Every monotonic sum."""
        data = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics if data is not None else ()
        return {
            (metric.name, frozenset((point.attributes or {}).items())): point.value
            for metric in metrics
            if isinstance(metric.data, Sum) and metric.data.is_monotonic
            for point in metric.data.data_points
        }


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made._provider.shutdown()


def series(read: dict[str, Series], metric: str, **wanted: str) -> list[float]:
    """The values of a metric whose attributes are at least these, named by the last part of theirs."""
    return [
        value
        for attributes, value in read.get(f"echostream.{metric}", {}).items()
        if {key.rpartition(".")[2]: text for key, text in attributes}.items() >= wanted.items()
    ]


def only(read: dict[str, Series], metric: str, **wanted: str) -> float:
    [value] = series(read, metric, **wanted)
    return value


def never_back(before: dict[Any, float], after: dict[Any, float]) -> None:
    """No counter has fallen, or gone."""
    assert [key for key, value in before.items() if after.get(key, -1) < value] == []


class Hall:
    """Streams that are read in different ways."""

    def __init__(self) -> None:
        self.receivers: list[StreamReceiver[Any]] = []
        self.got = 0
        self.gate = asyncio.Event()

    def served(self) -> tuple[Callable[..., Any], ...]:
        @stream("timed")
        async def timed(receiver: StreamReceiver[Any]) -> None:
            self.receivers.append(receiver)
            async for _ in receiver.timed():
                self.got += 1

        @stream("aligned")
        async def aligned(receiver: StreamReceiver[Any]) -> None:
            self.receivers.append(receiver)
            while True:
                try:
                    await receiver.recv_aligned(frame=0.02, latency=0.05)
                except StopAsyncIteration:
                    return

        @stream("plain")
        async def plain(receiver: StreamReceiver[Any]) -> None:
            self.receivers.append(receiver)
            await self.gate.wait()
            async for _ in receiver:
                self.got += 1

        @stream("fill")
        async def fill(receiver: StreamReceiver[int]) -> None:
            async for count in receiver:
                for number in range(count):
                    await receiver.sender.send(number)
                receiver.sender.end()

        return timed, aligned, plain, fill


@pytest.fixture
async def hall() -> Hall:
    return Hall()


async def send(sender: StreamSender[Any], count: int, size: int = 100) -> None:
    for _ in range(count):
        await sender.send(bytes(size))
        await asyncio.sleep(0)


# What is told


@pytest.mark.parametrize("url", [None, "quic://127.0.0.1:0"], ids=["memory", "quic"])
async def test_both_sides_tell_what_goes_through_a_stream(metrics: Metrics, hall: Hall, url: str | None) -> None:
    async with linked(*hall.served(), url=url) as (server, client):
        for one in (server, client):
            observe_quality(one, metrics.meter)
        async with client.open_stream("timed", mode="datagram", time_sync=True, max_age=60.0) as sender:
            await send(sender, 20)
            await until(lambda: hall.got == 20)
            read = metrics.read()
            for role, direction in (("client", "transmit"), ("server", "receive")):
                assert only(read, "stream.items", role=role, name="timed", direction=direction) == 20
                assert only(read, "stream.io", role=role, direction=direction) == 2000
                assert only(read, "active_streams", role=role, name="timed") == 1
            told = hall.receivers[0].quality()
            assert only(read, "stream.jitter", role="server") == told.jitter
            assert only(read, "stream.latency", role="server") == told.latency
            assert sum(series(read, "stream.lost")) == 0
            assert only(read, "clock.error", role="client") == pytest.approx(client.clock.error_bound_ns / 1e9, rel=0.5)
            [key] = read["echostream.stream.latency"]
            peer = "127.0.0.1" if url else session_of(server, client).peer_address
            assert dict(key)["network.peer.address"] == peer
            assert bool(series(read, "rtt")) is (url is not None)
        read = metrics.read()
        assert only(read, "stream.items", role="server", direction="receive") == 20
        assert [series(read, name) for name in ("active_streams", "stream.jitter", "stream.latency")] == [[], [], []]
        assert only(read, "send_queue", role="server") == 0
    read = metrics.read()
    assert only(read, "stream.items", role="server", direction="receive") == 20
    assert series(read, "send_queue") == series(read, "rtt") == []


async def test_streams_that_nobody_saw_open_are_counted(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (server, client):
        observe_quality(server, metrics.meter)
        for _ in range(3):
            async with client.open_stream("timed", time_sync=True) as sender:
                await send(sender, 5)
        assert only(metrics.read(), "stream.items", direction="receive") == 15
    async with joined_again(server, hall) as client, client.open_stream("timed", time_sync=True) as sender:
        await send(sender, 5)
        await until(lambda: hall.got == 20)
        read = metrics.read()
        assert only(read, "stream.items", direction="receive") == 20, "the server started again"
        assert only(read, "active_streams") == 1


def joined_again(server: RpcServer, hall: Hall) -> Any:
    """A client of a server that was stopped, and starts again."""

    class Again:
        async def __aenter__(self) -> RpcClient:
            await server.start()
            self.client = await RpcClient.connect(server.addresses[0])
            return self.client

        async def __aexit__(self, *_: object) -> None:
            await self.client.close()
            await server.stop()

    return Again()


async def test_queues_and_buffers_are_told_in_both_directions(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (server, client):
        for one in (server, client):
            observe_quality(one, metrics.meter)
        sender = await client.open_stream("plain", mode="datagram", policy="drop_oldest", rate=1000.0, max_items=4)
        for number in range(10):
            await sender.send(bytes(100 + number))
        await until(lambda: hall.receivers and hall.receivers[0].quality().buffered)
        read, told = metrics.read(), sender.quality().sent
        assert only(read, "stream.buffered", role="client", direction="transmit") == told.queued > 0
        assert only(read, "stream.buffered", role="server", direction="receive") == hall.receivers[0].quality().buffered
        assert only(read, "dropped", role="client", name="plain", reason="full") == told.dropped > 0
        sender.reset()
        hall.gate.set()
        await until(lambda: not session_of(server, client).quality().streams)
        read = metrics.read()
        assert only(read, "dropped", role="client", name="plain", reason="full") == told.dropped
        assert series(read, "stream.buffered") == []


def test_counters_are_those_of_quality_and_never_fall_whatever_the_network_does(metrics: Metrics) -> None:
    """Read every 20 ms, while packets are lost, doubled and overtaken; one who reads at the end only sees the same."""
    seldom = Metrics()
    final: list[Any] = []

    async def scenario(network: SimNetwork) -> None:
        hall = Hall()
        with network.host("server"):
            server = RpcServer(URL)
            server.register(*hall.served())
            await server.start()
        observe_quality(server, metrics.meter)
        observe_quality(server, seldom.meter)
        with network.host("phone"):
            async with RpcClient.connect(URL, fingerprint=server.fingerprint) as client:
                for _ in range(2):
                    async with client.open_stream("aligned", mode="datagram", time_sync=True) as sender:
                        before: dict[Any, float] = {}
                        for _ in range(70):
                            await sender.send(bytes(100))
                            await asyncio.sleep(0.02)
                            after = metrics.counters()
                            never_back(before, after)
                            before = after
                    final.append((sender.quality(), hall.receivers[-1].quality()))
                    never_back(before, metrics.counters())
        with network.host("server"):
            await server.stop()

    SimNetwork(seed=5, link=Link(delay=0.02, jitter=0.06, loss=0.05, reorder=0.4, duplicate=0.05)).run(scenario)
    read = metrics.read()
    received = [theirs.received for _, theirs in final]
    assert only(read, "stream.items", direction="receive") == sum(each.received for each in received)
    assert only(read, "stream.lost") == sum(each.lost for each in received) > 0
    assert sum(ours.sent.sent for ours, _ in final) == only(read, "stream.items", direction="receive") + only(
        read, "stream.lost"
    )
    assert only(read, "stream.reordered") == sum(each.reordered for each in received) > 0
    assert only(read, "jitter_buffer.late") == sum(each.late for each in received) > 0
    assert only(read, "jitter_buffer.concealed") == sum(each.concealed + each.skipped for each in received) > 0
    assert metrics.counters() == seldom.counters()


def test_gauges_of_the_jitter_buffer_are_those_of_quality(metrics: Metrics) -> None:
    async def scenario(network: SimNetwork) -> None:
        hall = Hall()
        with network.host("server"):
            server = RpcServer(URL)
            server.register(*hall.served())
            await server.start()
        observe_quality(server, metrics.meter)
        with network.host("phone"):
            async with (
                RpcClient.connect(URL, fingerprint=server.fingerprint) as client,
                client.open_stream("aligned", mode="datagram", time_sync=True) as sender,
            ):
                for _ in range(50):
                    await sender.send(bytes(100))
                    await asyncio.sleep(0.02)
                hall.receivers[0]._channel.require_arrivals().meter.late = 2  # as datagrams after the end are
                read, told = metrics.read(), hall.receivers[0].quality()
                assert only(read, "jitter_buffer.delay") == told.received.playout_delay_ns / 1e9 == 0.05
                assert only(read, "jitter_buffer.depth") == told.received.buffered_ns / 1e9 > 0
                assert only(read, "jitter_buffer.late") == told.late == 2
                assert told.skew_ns is not None
                assert only(read, "stream.skew") == told.skew_ns / 1e9
                assert only(read, "stream.latency") == pytest.approx(0.02, abs=0.005)
        with network.host("server"):
            await server.stop()

    SimNetwork(seed=1, link=Link(delay=0.02)).run(scenario)


async def test_what_is_read_after_the_end_of_a_stream_counts(metrics: Metrics, hall: Hall) -> None:
    """The client reads with its own delay what the server sent long before, when the stream has ended already."""
    async with linked(*hall.served()) as (_, client):
        observe_quality(client, metrics.meter)
        sender = await client.open_stream("fill", time_sync=True)
        begin_ns = client.clock.now_ns()
        await sender.send(3)
        sender.end()
        await until(lambda: not client.session.quality().streams)
        before = metrics.counters()
        got = [await sender.receiver.recv_aligned(frame=0.02, latency=0.05) for _ in range(3)]
        sender.receiver._channel.require_arrivals().meter.late += 3
        with pytest.raises(StopAsyncIteration):
            await sender.receiver.recv_aligned(frame=0.02, latency=0.05)
        assert [timed.item for timed in got] == [0, 1, 2]
        assert got[0].timestamp_ns is not None
        assert got[0].timestamp_ns >= begin_ns
        assert only(metrics.read(), "jitter_buffer.late") == 3
        never_back(before, metrics.counters())


async def test_what_sessions_drop_is_counted_once(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (server, client):
        session = session_of(server, client)
        session.peer.protocol.link.late_frames = 5
        observe_quality(server, metrics.meter)
        session.peer.protocol.link.late_frames += 2
        assert only(metrics.read(), "dropped", reason="ended") == 2, "what was before does not count"
        session.peer.protocol.link.dropped_datagrams += 3
        observe_quality(client, metrics.meter)
        client.session.peer.protocol.link.late_frames += 1
    for _ in range(2):
        read = metrics.read()
        assert only(read, "dropped", role="client", reason="ended") == 1
    assert [
        only(read, "dropped", role="server", reason=reason) for reason in ("ended", "malformed", "slow_listener")
    ] == [2, 3, 0]


async def test_a_look_starts_no_clock(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (_server, client):
        observe_quality(client, metrics.meter)
        sender = await client.open_stream("fill", mode="datagram", max_age=60.0)
        await sender.send(2)
        assert [item async for item in sender.receiver] == [0, 1]
        assert only(metrics.read(), "stream.items", direction="receive") == 2
        assert series(metrics.read(), "clock.error") == []
        assert client.session.estimated_clock is None
        sender.end()
        await client.clock.wait_locked()
        assert len(series(metrics.read(), "clock.offset")) == 1


def test_names_are_opentelemetrys_and_units_are_of_ucum() -> None:
    names = [metric.name for metric in figures.METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"echostream(\.[a-z_]+)+", name) for name in names)
    assert {metric.unit for metric in figures.METRICS} == {"s", "By", "{item}", "{frame}", "{stream}", "[ppm]"}
    assert not any(re.search(r"total|seconds|bytes|count", name) for name in names), "units and kinds are no names"


# How many series


async def test_names_of_streams_are_bounded(metrics: Metrics, hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_METRIC_STREAMS", 2)

    def numbered(name: str) -> Any:
        @stream(name)
        async def taken(receiver: StreamReceiver[Any]) -> None:
            async for _ in receiver.timed():
                pass

        return taken

    async with linked(*map(numbered, "abcd")) as (server, client):
        observe_quality(server, metrics.meter)
        with pytest.raises(RpcError, match="unknown stream 'made up'"):
            await client.open_stream("made up", time_sync=True)
        for name in "abcda":
            async with client.open_stream(name, time_sync=True) as sender:
                await send(sender, 3)
        told = {
            dict(each)["echostream.stream.name"]: value
            for each, value in metrics.read()["echostream.stream.lost"].items()
        }
        assert told == {"a": 0, "b": 0, "_OTHER": 0}
        assert sorted(series(metrics.read(), "stream.items", direction="receive")) == [3, 6, 6]


async def test_addresses_of_peers_are_bounded_and_can_be_left_out(
    metrics: Metrics, hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MAX_METRIC_PEERS", 1)
    without = Metrics()
    async with served(*hall.served()) as server, joined(server) as one, joined(server) as other:
        observe_quality(server, metrics.meter)
        observe_quality(server, without.meter, peers=False)
        for number, client in enumerate((one, other), 1):
            session_of(server, client).peer.connection.peer_address = f"[2001:db8::{number}]:4433"
        async with one.open_stream("timed", time_sync=True) as a, other.open_stream("timed", time_sync=True) as b:
            await send(a, 3)
            await send(b, 3)
            await until(lambda: hall.got == 6)
            keys = [dict(each).get("network.peer.address") for each in metrics.read()["echostream.stream.jitter"]]
            assert keys == ["2001:db8::1", "_OTHER"]
            worst = max(receiver.quality().jitter for receiver in hall.receivers)
            assert series(without.read(), "stream.jitter") == [worst]
            assert only(without.read(), "active_streams") == 2


# Beginning and end


async def test_nothing_is_kept_unless_somebody_observes(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (server, client):
        session = session_of(server, client)
        async with client.open_stream("timed", time_sync=True) as sender:
            await send(sender, 3)
            assert session.runtime.ledger is None
            stop = observe_quality(server, metrics.meter)
            assert "1 open streams" in repr(server.ledger)
            stop()
            assert "0 open streams" in repr(server.ledger)
            assert hall.receivers[0]._channel.counted is None
        assert metrics.read() == {}


async def test_counts_begin_with_the_call_and_go_on_after_a_pause(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (server, client):
        async with client.open_stream("timed", time_sync=True) as sender:
            await send(sender, 3)
            await until(lambda: hall.got == 3)
            stop = observe_quality(server, metrics.meter)
            await send(sender, 4)
            await until(lambda: hall.got == 7)
            assert only(metrics.read(), "stream.items", direction="receive") == 4
            await send(sender, 2)
            await until(lambda: hall.got == 9)
            second = Metrics()
            observe_quality(server, second.meter)
            assert series(second.read(), "stream.items") == []
            stop()
            stop()
            await send(sender, 5)
            await until(lambda: hall.got == 14)
            assert metrics.read() == {}
            stop = observe_quality(server, metrics.meter)
            await send(sender, 6)
            await until(lambda: hall.got == 20)
            assert only(metrics.read(), "stream.items", direction="receive") == 12
        stop()


async def test_several_share_a_meter_and_one_that_leaves_takes_no_counts_with_it(metrics: Metrics, hall: Hall) -> None:
    async with served(*hall.served()) as server, joined(server) as one, joined(server) as other:
        stops = [observe_quality(client, metrics.meter) for client in (one, other)]
        for client in (one, other):
            async with client.open_stream("timed", mode="datagram", max_age=60.0) as sender:
                await send(sender, 4)
        assert only(metrics.read(), "stream.items", role="client", direction="transmit") == 8
        assert len(series(metrics.read(), "send_queue", role="client")) == 1
        stops[0]()
        assert only(metrics.read(), "stream.items", role="client", direction="transmit") == 8
        async with other.open_stream("timed", mode="datagram", max_age=60.0) as sender:
            await send(sender, 4)
        assert only(metrics.read(), "stream.items", role="client", direction="transmit") == 12
        stops[1]()
        assert metrics.read() == {}


async def test_without_a_meter_it_is_that_of_the_global_provider(hall: Hall) -> None:
    async with linked(*hall.served()) as (server, _):
        stop = observe_quality(server)
        stop()
        assert quality._default_meter() is quality._default_meter()
        assert quality._default_meter() in quality._boards


async def test_only_servers_and_clients_can_be_observed(hall: Hall) -> None:
    async with linked(*hall.served()) as (_, client):
        with pytest.raises(ConfigurationError, match="is neither an RpcServer nor an RpcClient"):
            observe_quality(client.session)  # type: ignore[arg-type]


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    monkeypatch.delitem(sys.modules, quality.__name__)
    with pytest.raises(ImportError, match=re.escape("opentelemetry-api, which comes with an extra: pip install 'echo")):
        importlib.import_module(quality.__name__)


# Threads


async def test_a_thread_may_collect_while_streams_come_and_go(
    metrics: Metrics, hall: Hall, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "METRICS_WAIT", 30.0)
    done = threading.Event()

    def collect() -> int:
        before: dict[Any, float] = {}
        rounds = 0
        while not done.is_set():
            after = metrics.counters()
            never_back(before, after)
            before, rounds = after, rounds + 1
        return rounds

    async with linked(*hall.served()) as (server, client):
        for one in (server, client):
            observe_quality(one, metrics.meter)
        collecting = asyncio.ensure_future(asyncio.to_thread(collect))
        for _ in range(20):
            senders = [await client.open_stream("timed", mode="datagram", time_sync=True, max_age=60.0) for _ in "abc"]
            await asyncio.gather(*(send(sender, 10) for sender in senders))
            await asyncio.gather(*(sender.close() for sender in senders))
        done.set()
        assert await collecting > 3
        read = await asyncio.to_thread(metrics.read)
        assert only(read, "stream.items", role="server", direction="receive") == 600
        assert only(read, "stream.items", role="client", direction="transmit") == 600
    assert caplog.records == []


async def test_many_streams_are_looked_at_a_few_in_each_turn(metrics: Metrics, hall: Hall) -> None:
    async with linked(*hall.served()) as (server, client):
        observe_quality(server, metrics.meter)
        senders = [await client.open_stream("timed", time_sync=True) for _ in range(40)]
        reading = asyncio.ensure_future(asyncio.to_thread(metrics.read))
        steps = figures.read_levels("server", server.ledger, quality._without_peer)
        assert sum(1 for _ in steps) == 40 // 16
        assert only(await reading, "active_streams") == 40
        looking = server.ledger.look()
        next(looking)
        await asyncio.gather(*(sender.close() for sender in senders))
        assert list(looking) == [], "those have ended meanwhile"


async def test_a_loop_that_stands_still_is_not_waited_for(
    metrics: Metrics, hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts of the last look are told, and the gauges again when the loop goes on."""
    monkeypatch.setattr(quality, "METRICS_WAIT", 0.02)
    async with linked(*hall.served()) as (server, client):
        observe_quality(server, metrics.meter)
        async with client.open_stream("timed", time_sync=True) as sender:
            await send(sender, 5)
            await until(lambda: hall.got == 5)
            metrics.read()
            read: dict[str, Series] = {}
            thread = threading.Thread(target=lambda: read.update(metrics.read()))
            thread.start()
            thread.join()  # on the thread of the loop
            assert only(read, "stream.items", direction="receive") == 5
            assert series(read, "active_streams") == series(read, "stream.jitter") == []
            assert only(metrics.read(), "active_streams") == 1


async def test_it_may_be_ended_on_another_thread_and_begun_only_on_that_of_the_loop(
    metrics: Metrics, hall: Hall
) -> None:
    async with linked(*hall.served()) as (server, client):
        with pytest.raises(LocalProtocolError, match="on the thread of the event loop"):
            await asyncio.to_thread(observe_quality, client)
        stop = observe_quality(server, metrics.meter)
        assert await asyncio.to_thread(metrics.read)
        await asyncio.to_thread(stop)
        await asyncio.sleep(0)
        assert await asyncio.to_thread(metrics.read) == {}


def test_what_has_no_loop_any_more_still_tells_its_counts(metrics: Metrics) -> None:
    stops: list[Callable[[], None]] = []

    async def run() -> None:
        hall = Hall()
        async with linked(*hall.served()) as (server, client):
            stops.append(observe_quality(server, metrics.meter))
            async with client.open_stream("timed", time_sync=True) as sender:
                await send(sender, 5)

    asyncio.run(run())
    assert only(metrics.read(), "stream.items", direction="receive") == 5
    stops[0]()
    assert metrics.read() == {}


async def test_what_goes_wrong_is_the_collectors_to_report(
    metrics: Metrics, hall: Hall, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(*hall.served()) as (server, client):
        observe_quality(server, metrics.meter)
        async with client.open_stream("timed", time_sync=True):
            with monkeypatch.context() as patch:
                patch.setattr(ledger, "received_quality", lambda _: 1 / 0)
                for read in (metrics.read(), await asyncio.to_thread(metrics.read)):
                    assert read == {}
            assert {record.name for record in caplog.records} == {"opentelemetry.sdk.metrics._internal.instrument"}
            assert only(metrics.read(), "active_streams") == 1
