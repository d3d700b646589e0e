"""What is held for a peer that is too fast or does not read: bounded, and told to both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from echostream import (
    Limits,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    StreamReceiver,
    StreamResetError,
    handler,
    service,
    stream,
)
from echostream.testing import SimNetwork
from tests.serving import until
from tests.session.world import Duo, Gate, duo

KIB = 1 << 10
SMALL = Limits(max_payload_bytes=64 * KIB, max_reassembly_bytes=64 * KIB, max_held_bytes=100 * KIB)
LARGE = bytes(40 * KIB)


@service("hoard")
class Hoard:
    def __init__(self) -> None:
        self.gate = Gate()

    @handler
    async def keep(self, content: bytes) -> int:
        await self.gate.pass_through()
        return len(content)

    @handler
    async def give(self, size: int) -> bytes:
        return bytes(size)


def told(errors: list[object]) -> set[tuple[Status, str]]:
    return {(error.code, error.message) for error in errors if isinstance(error, RpcError)}


async def test_calls_with_large_arguments_are_refused_where_too_many_run() -> None:
    hoard = Hoard()
    async with duo(hoard, there_limits=SMALL) as ends:
        calls = [asyncio.ensure_future(ends.here.proxy(Hoard).keep(LARGE)) for _ in range(4)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        assert ends.there.runtime.held.held == 80 * KIB
        hoard.gate.opened.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result for result in results if isinstance(result, int)] == [40 * KIB] * 2
        text = f"the other side holds more than {100 * KIB} bytes that wait there (max_held_bytes)"
        assert told(list(results)) == {(Status.RESOURCE_EXHAUSTED, text)}
        await until(lambda: not ends.there.runtime.held.held)


async def test_large_results_are_refused_where_too_many_wait() -> None:
    async with duo(Hoard(), there_limits=SMALL) as ends:
        await ends.there.peer.large.claim(1 << 20)
        calls = [asyncio.ensure_future(ends.here.proxy(Hoard).give(40 * KIB)) for _ in range(4)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        ends.there.peer.large.release(1 << 20)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, bytes) for result in results) == 2
        text = f"more than {100 * KIB} bytes wait for this peer already (max_held_bytes)"
        assert told(list(results)) == {(Status.RESOURCE_EXHAUSTED, text)}
        await until(lambda: not ends.there.runtime.held.held)


async def flood(ends: Duo, count: int, *, ack: bool) -> list[tuple[int, int]]:
    """Emit large events at once; return what the acknowledgements say."""
    if not ack:
        for _ in range(count):
            await ends.here.emit("big", LARGE)
        return []
    answers = await asyncio.gather(*(ends.here.emit("big", LARGE, ack=True) for _ in range(count)))
    return [(answer.listeners, answer.failed) for answer in answers]


async def test_large_events_that_wait_are_dropped_the_oldest_first() -> None:
    gate, seen = Gate(), list[int]()

    async def slow(content: bytes) -> None:
        await gate.pass_through()
        seen.append(len(content))

    async with duo(there_limits=SMALL) as ends:
        ends.there.on("big", slow)
        await flood(ends, 6, ack=False)
        await until(lambda: ends.there.dropped_events == 3)
        assert ends.there.runtime.held.held <= 100 * KIB
        gate.opened.set()
        await until(lambda: len(seen) == 3)
        assert ends.there.runtime.held.held == 0


async def test_acknowledged_events_that_find_no_room_have_failed(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with duo(there_limits=SMALL) as ends:
        ends.there.on("big", lambda content: gate.pass_through())
        answers = asyncio.ensure_future(flood(ends, 5, ack=True))
        await until(lambda: ends.there._inbox.refused == 2)
        assert caplog.text.count("no room for event big (max_held_bytes)") == 1
        gate.opened.set()
        assert sorted(await answers) == [(1, 0)] * 3 + [(1, 1)] * 2
        assert ends.there.runtime.held.held == 0


async def test_handlers_of_streams_that_were_reset_count_until_they_end() -> None:
    async with duo(Still(), there_limits=Limits(max_streams=2)) as ends:
        for _ in range(2):
            opened = await ends.here.open_stream("still.upload").__aenter__()
            opened.reset()
        with pytest.raises(RpcError, match="more than 2 handlers of streams run") as caught:
            await ends.here.open_stream("still.upload").__aenter__()
        assert caught.value.code is Status.RESOURCE_EXHAUSTED


# Readers that never read


@service("still")
class Still:
    """Gives items to who reads them, and reads none."""

    @handler
    async def count(self) -> AsyncIterator[bytes]:
        while True:
            yield bytes(KIB)

    @handler
    async def ignore(self, items: AsyncIterator[bytes]) -> None:
        await asyncio.Event().wait()

    @stream("still.upload")
    async def on_upload(self, receiver: StreamReceiver[bytes]) -> None:
        await asyncio.Event().wait()

    @handler
    async def ping(self) -> int:
        return 1


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(KIB)


def meet(scenario: object) -> None:
    async def run(network: SimNetwork) -> None:
        limits = Limits(credit_timeout=20.0, call_window_bytes=8 * KIB, stream_window_bytes=8 * KIB)
        server = RpcServer("memory://still", limits=limits)
        server.register(Still())
        async with server, RpcClient.connect("memory://still", limits=limits) as client:
            await scenario(client, server)  # type: ignore[operator]
            assert await client.proxy(Still).ping() == 1  # nobody else is disturbed

    SimNetwork().run(run)


NOT_READ = "the other side reads nothing any more \\(credit_timeout\\)"


def test_a_stream_whose_reader_stopped_is_given_up_after_the_timeout(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: RpcClient, server: RpcServer) -> None:
        async def upload() -> None:
            async with client.open_stream("still.upload") as sender:
                while True:
                    await sender.send(bytes(KIB))

        started = asyncio.get_running_loop().time()
        with pytest.raises(StreamResetError, match=NOT_READ):
            await upload()
        assert asyncio.get_running_loop().time() - started == pytest.approx(20.0, abs=0.1)

    meet(scenario)
    assert "reads nothing any more" in caplog.text


def test_a_call_whose_input_nobody_reads_is_given_up_after_the_timeout() -> None:
    async def scenario(client: RpcClient, server: RpcServer) -> None:
        with pytest.raises(RpcError, match=NOT_READ) as caught:
            await client.proxy(Still, timeout=None).ignore(endless())
        assert caught.value.code is Status.DEADLINE_EXCEEDED

    meet(scenario)


def test_a_call_whose_results_nobody_reads_is_given_up_after_the_timeout() -> None:
    async def scenario(client: RpcClient, server: RpcServer) -> None:
        [session] = server.sessions

        async def read_late() -> None:
            async with client.stream(client.proxy(Still).count) as items:
                await anext(aiter(items))
                await asyncio.sleep(19)
                assert len(session.tasks) == 1
                await asyncio.sleep(11)
                assert not len(session.tasks)
                async for _ in items:
                    pass

        with pytest.raises(RpcError, match=NOT_READ) as caught:
            await read_late()
        assert caught.value.code is Status.DEADLINE_EXCEEDED

    meet(scenario)
