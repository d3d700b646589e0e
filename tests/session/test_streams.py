"""Application streams: handshake, both directions, ends, bounds, clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from echostream import (
    ConfigurationError,
    ConnectionLostError,
    Context,
    DeadlineExceededError,
    InvalidArgumentError,
    Limits,
    RpcError,
    SignatureError,
    Status,
    StreamReceiver,
    StreamResetError,
    handler,
    service,
    stream,
)
from echostream.errors import EchoStreamError, LocalProtocolError, ResourceError
from echostream.session.channel import Channel
from echostream.session.streams import StreamSender
from tests.serving import until
from tests.session.world import ALL_WAYS, MS, Duo, Gate, duo, frozen, left_of

WINDOW = Limits(stream_window_bytes=1 << 10)


@dataclass
class Sample:
    level: int


@service("studio")
class Studio:
    """Handlers of every habit."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.got: list[Any] = []
        self.errors: list[EchoStreamError] = []
        self.receiver: StreamReceiver[Any] | None = None

    @stream("record")
    async def on_record(self, receiver: StreamReceiver[Any], ctx: Context) -> None:
        self.receiver = receiver
        self.got.append((ctx.method, receiver.name, dict(receiver.metadata), dict(ctx.metadata)))
        try:
            async for item in receiver:
                self.got.append(item)
        except EchoStreamError as error:
            self.errors.append(error)
            raise
        finally:
            self.gate.left.set()

    @stream("typed")
    async def on_typed(self, receiver: StreamReceiver[Sample]) -> None:
        while True:
            try:
                self.got.append(await receiver.recv())
            except InvalidArgumentError as error:
                self.errors.append(error)
            except StopAsyncIteration:
                return

    @stream("echo")
    async def on_echo(self, receiver: StreamReceiver[Any]) -> None:
        async for item in receiver:
            await receiver.sender.send(item)
        await receiver.sender.send("end")

    @stream("wait")
    async def on_wait(self, receiver: StreamReceiver[Any], *, ctx: Context) -> None:
        self.receiver = receiver
        await self.gate.pass_through()

    @stream("early")
    async def on_early(self, receiver: StreamReceiver[Any]) -> None:
        self.got.append(await anext(receiver))

    @stream("raises")
    async def on_raises(self, receiver: StreamReceiver[Any]) -> None:
        self.got.append(await anext(receiver))
        raise RpcError(Status.DATA_LOSS, "tape is full", details={"left": 0})

    @stream("breaks")
    async def on_breaks(self, receiver: StreamReceiver[Any]) -> None:
        raise ValueError("secret")

    @stream("speaks")
    async def on_speaks(self, receiver: StreamReceiver[Any]) -> None:
        for number in range(100):
            await receiver.sender.send(number)
            self.got.append(number)
        async for _ in receiver:
            pass

    @stream("half")
    async def on_half(self, receiver: StreamReceiver[Any]) -> None:
        receiver.sender.end()
        receiver.sender.end()
        async for item in receiver:
            self.got.append(item)

    @stream("resets")
    async def on_resets(self, receiver: StreamReceiver[Any]) -> None:
        receiver.sender.reset("enough", code=Status.OUT_OF_RANGE)
        receiver.sender.reset("twice")


@pytest.fixture
async def studio() -> Studio:
    return Studio()


@pytest.fixture
async def ends(studio: Studio, scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(studio, scheme=scheme, way=way) as made:
        yield made
        await until(lambda: left_of(made.here) == {} == left_of(made.there))


# Opening


@ALL_WAYS
async def test_items_arrive_in_order_and_the_block_waits_for_the_handler(ends: Duo, studio: Studio) -> None:
    async with ends.here.open_stream("record", metadata={"rate": "48"}) as sender:
        assert sender.name == "record"
        for number in range(500):
            await sender.send(number)
    assert studio.got == [("record", "record", {"rate": "48"}, {"rate": "48"}), *range(500)]
    assert studio.gate.left.is_set()


@ALL_WAYS
async def test_bytes_travel_raw_and_models_as_their_fields(ends: Duo, studio: Studio) -> None:
    items: list[Any] = [b"", b"\xc1\x00", bytes(300_000), None, "text", {"a": [1]}, Sample(3)]
    async with ends.here.open_stream("record") as sender:
        for item in items:
            await sender.send(item)
    assert studio.got[1:] == [*items[:-1], {"level": 3}]


async def test_a_stream_can_be_awaited_instead_of_entered(ends: Duo, studio: Studio) -> None:
    sender = await ends.here.open_stream("record")
    await sender.send(1)
    async with sender as same:
        assert same is sender
    assert studio.got[1:] == [1]


@ALL_WAYS
async def test_an_unknown_stream_is_refused_with_near_names(ends: Duo) -> None:
    with pytest.raises(RpcError) as caught:
        async with ends.here.open_stream("recrod"):
            pytest.fail("not reached")
    assert caught.value.code is Status.UNIMPLEMENTED
    assert caught.value.message == "unknown stream 'recrod'; did you mean record or echo?"
    assert caught.value.operation == "recrod"


async def test_a_stream_that_nobody_accepts_in_time_is_given_up(ends: Duo) -> None:
    with (
        frozen(ends),
        pytest.raises(DeadlineExceededError, match=r"record: .*stream not accepted within 0\.01 s"),
    ):
        await ends.here.open_stream("record", timeout=10 * MS)
    await until(lambda: left_of(ends.there) == {})


async def test_an_opener_that_is_cancelled_gives_the_stream_up(ends: Duo, studio: Studio) -> None:
    with frozen(ends):
        opening = asyncio.ensure_future(ends.here.open_stream("record"))
        await until(lambda: ends.here.peer.protocol.streams.streams)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert left_of(ends.here) == {}
    await until(lambda: left_of(ends.there) == {})


async def test_too_many_streams_are_refused(studio: Studio) -> None:
    async with duo(studio, there_limits=Limits(max_streams=1)) as ends:
        async with ends.here.open_stream("record"):
            with pytest.raises(RpcError, match=r"more than 1 streams at once \(max_streams\)") as caught:
                await ends.here.open_stream("record")
            assert caught.value.code is Status.RESOURCE_EXHAUSTED
        async with ends.here.open_stream("record"):
            pass


async def test_a_refused_opening_here_gives_the_transport_stream_back(ends: Duo) -> None:
    with pytest.raises(InvalidArgumentError):
        await ends.here.open_stream("record", metadata={"Upper": "x"})
    await ends.here.ping()
    assert set(ends.here.peer.connection._sending) == {0}  # type: ignore[attr-defined]


async def test_a_type_that_cannot_be_validated_is_refused_before_anything_opens(ends: Duo) -> None:
    with pytest.raises(SignatureError, match="cannot be validated"):
        ends.here.open_stream("record", item=asyncio.Event)
    with pytest.raises(SignatureError):
        ends.here.open_stream("record", returns=asyncio.Event)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1.0}, {"close_timeout": 0}])
async def test_a_timeout_that_is_none_is_refused_before_anything_opens(ends: Duo, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be above 0 seconds, or None for no deadline"):
        ends.here.open_stream("record", **options)


async def test_opening_may_take_any_time(ends: Duo, studio: Studio) -> None:
    async with ends.here.open_stream("record", timeout=None, close_timeout=None) as sender:
        await sender.send(1)
    assert studio.got[1:] == [1]


async def test_nothing_opens_on_a_session_that_ended(studio: Studio) -> None:
    async with duo(studio) as ends:
        await ends.client.close()
        with pytest.raises(ConnectionLostError) as caught:
            await ends.here.open_stream("record")
        assert caught.value.operation == "record"


# Types


@ALL_WAYS
async def test_items_are_validated_on_both_sides(ends: Duo, studio: Studio) -> None:
    async with ends.here.open_stream("typed", item=Sample) as sender:
        await sender.send(Sample(1))
        with pytest.raises(InvalidArgumentError):
            await sender.send("no sample")
    async with ends.here.open_stream("typed") as anything:
        await anything.send({"level": "x"})
        await anything.send({"level": 2})
    assert studio.got == [Sample(1), Sample(2)]
    assert [str(error.message) for error in studio.errors] == [studio.errors[0].message]
    assert "/level" in studio.errors[0].message


async def test_items_that_come_back_are_validated(ends: Duo) -> None:
    async with ends.here.open_stream("echo", item=int, returns=int) as sender:
        await sender.send(1)
        assert await sender.receiver.recv() == 1
        sender.end()
        with pytest.raises(InvalidArgumentError):
            await sender.receiver.recv()  # "end"
        with pytest.raises(StopAsyncIteration):
            await sender.receiver.recv()


# Both directions


@ALL_WAYS
async def test_a_stream_goes_both_ways(ends: Duo) -> None:
    async with ends.here.open_stream("echo") as sender:
        for number in range(100):
            await sender.send(number)
            assert await anext(sender.receiver) == number
        sender.end()
        assert [item async for item in sender.receiver] == ["end"]


@ALL_WAYS
async def test_a_half_close_leaves_the_other_half_open(ends: Duo, studio: Studio) -> None:
    async with ends.here.open_stream("half") as sender:
        assert [item async for item in sender.receiver] == []
        for number in range(3):
            await sender.send(number)
        sender.end()
        with pytest.raises(LocalProtocolError, match="stream 'half' takes no more items"):
            await sender.send(4)
    await until(lambda: studio.got == [0, 1, 2])


@ALL_WAYS
async def test_what_comes_back_and_nobody_reads_does_not_hold_up_the_end(studio: Studio, scheme: str, way: str) -> None:
    async with duo(studio, scheme=scheme, way=way, limits=WINDOW) as ends:
        async with ends.here.open_stream("speaks") as sender:
            assert await sender.receiver.recv() == 0
        assert studio.got == list(range(100))


# Bounds


@ALL_WAYS
async def test_a_slow_reader_bounds_the_writer(studio: Studio, scheme: str, way: str) -> None:
    async with duo(studio, scheme=scheme, way=way, there_limits=WINDOW) as ends:
        sender = await ends.here.open_stream("wait")
        sent = 0

        async def write() -> None:
            nonlocal sent
            for _ in range(1000):
                await sender.send(b"x" * 84)
                sent += 1

        writer = asyncio.create_task(write())
        await asyncio.wait_for(studio.gate.reached.wait(), 5)
        while True:
            before = sent
            for _ in range(5):
                await asyncio.sleep(MS)
            if sent == before:
                break
        assert 1 <= sent <= 1024 // 100 + 1
        receiver = studio.receiver
        assert receiver is not None
        for _ in range(500):
            await receiver.recv()
        await until(lambda: sent >= 500)
        assert sent <= 500 + 1024 // 100 + 1
        sender.reset()
        with pytest.raises(StreamResetError):
            await writer
        studio.gate.opened.set()


async def test_a_full_network_bounds_the_writer_too(studio: Studio) -> None:
    limits = Limits(high_watermark_bytes=1 << 15, low_watermark_bytes=1 << 10)
    async with duo(studio, limits=limits) as ends, ends.here.open_stream("record") as sender:
        with frozen(ends):
            writer = asyncio.create_task(_send_all(sender, [bytes(20_000)] * 5))
            await until(lambda: ends.here.peer.is_blocked(sender._channel.stream.stream_id))  # type: ignore[union-attr]
            assert not writer.done()
        await writer
    assert len(studio.got) == 6


async def test_a_writer_on_a_full_network_hears_of_a_lost_connection(studio: Studio) -> None:
    limits = Limits(high_watermark_bytes=1 << 15, low_watermark_bytes=1 << 10)
    async with duo(studio, limits=limits) as ends:
        sender = await ends.here.open_stream("record")
        with frozen(ends):
            writer = asyncio.create_task(_send_all(sender, [bytes(20_000)] * 5))
            await until(lambda: ends.here.peer.is_blocked(sender._channel.stream.stream_id))  # type: ignore[union-attr]
            ends.here.peer.connection.abort()
            with pytest.raises(ConnectionLostError) as caught:
                await writer
            assert caught.value.operation == "record"


async def test_an_item_over_the_peers_limit_is_refused_and_the_stream_goes_on(studio: Studio) -> None:
    async with duo(studio, there_limits=Limits(max_payload_bytes=1024)) as ends:
        async with ends.here.open_stream("record") as sender:
            with pytest.raises(ResourceError, match="payload of 2000 bytes is over the peer's limit of 1024"):
                await sender.send(bytes(2000))
            await sender.send(1)
        assert studio.got[1:] == [1]


async def _send_all(sender: StreamSender[Any], items: list[Any]) -> None:
    for item in items:
        await sender.send(item)


# Ends


@ALL_WAYS
async def test_the_openers_reset_ends_the_handler(ends: Duo, studio: Studio) -> None:
    sender = await ends.here.open_stream("record")
    await sender.send(1)
    sender.reset("changed my mind", code=Status.ABORTED)
    sender.reset("twice")
    await asyncio.wait_for(studio.gate.left.wait(), 5)
    (error,) = studio.errors
    assert isinstance(error, StreamResetError)
    assert (error.code, error.message, error.operation) == (Status.ABORTED, "changed my mind", "record")
    with pytest.raises(StreamResetError):
        await sender.send(2)
    with pytest.raises(StreamResetError):
        await sender.close()


@pytest.mark.parametrize("reason", ["a" * 5000, "\ud800 is half a character", "\U0001f600" * 5000])
async def test_a_reason_that_cannot_be_sent_is_cut_and_costs_nobody_else(studio: Studio, reason: str) -> None:
    async with duo(studio, there_limits=Limits(max_payload_bytes=1024)) as ends:
        other = await ends.here.open_stream("record")
        sender = await ends.here.open_stream("record")
        sender.reset(reason, code=Status.ABORTED)
        await until(lambda: studio.errors)
        assert [error.code for error in studio.errors] == [Status.ABORTED]
        assert studio.errors[0].message == reason[:200].encode(errors="replace").decode()
        await other.close()


@ALL_WAYS
async def test_an_error_in_the_block_resets(ends: Duo, studio: Studio) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with ends.here.open_stream("record"):
            raise LookupError("mine")
    await asyncio.wait_for(studio.gate.left.wait(), 5)
    assert [(error.code, error.message) for error in studio.errors] == [(Status.CANCELLED, "the sender gave up")]


@ALL_WAYS
async def test_the_handlers_reset_ends_the_opener(ends: Duo) -> None:
    with pytest.raises(StreamResetError) as caught:
        async with ends.here.open_stream("resets") as sender:
            await sender.receiver.recv()
    assert (caught.value.code, caught.value.message) == (Status.OUT_OF_RANGE, "enough")


@ALL_WAYS
async def test_a_handler_that_returns_early_ends_the_writer(ends: Duo) -> None:
    with pytest.raises(StreamResetError, match="handler returned before the end of the stream") as caught:
        async with asyncio.timeout(5), ends.here.open_stream("early") as sender:
            await _send_all(sender, [bytes(100)] * 100_000)
    assert caught.value.code is Status.CANCELLED


@ALL_WAYS
async def test_what_a_handler_raises_reaches_the_opener(ends: Duo) -> None:
    with pytest.raises(StreamResetError) as caught:
        async with ends.here.open_stream("raises") as sender:
            await sender.send(1)
    assert (caught.value.code, caught.value.message) == (Status.DATA_LOSS, "tape is full")
    assert caught.value.details == {"left": 0}
    with pytest.raises(StreamResetError) as hidden:
        async with ends.here.open_stream("breaks"):
            pass
    assert (hidden.value.code, hidden.value.message) == (
        Status.INTERNAL,
        "internal error; its cause is in the log of the side that serves it",
    )


async def test_a_handler_that_takes_too_long_ends_at_the_close_timeout(ends: Duo, studio: Studio) -> None:
    with pytest.raises(DeadlineExceededError, match=r"wait: .*the other side did not finish within 0\.01 s"):
        async with ends.here.open_stream("wait", close_timeout=10 * MS):
            pass
    studio.gate.opened.set()
    await asyncio.wait_for(studio.gate.left.wait(), 5)


async def test_a_close_may_take_any_time(ends: Duo, studio: Studio) -> None:
    sender = await ends.here.open_stream("wait", close_timeout=None)
    closing = asyncio.create_task(sender.close())
    await studio.gate.reached.wait()
    receiver = studio.receiver
    assert receiver is not None
    await until(lambda: receiver._channel.remote_ended)
    studio.gate.opened.set()
    await closing


async def test_items_before_a_reset_are_read_first(ends: Duo) -> None:
    @handler("dummy")
    async def dummy() -> None: ...

    @stream("gives")
    async def gives(receiver: StreamReceiver[Any]) -> None:
        for number in range(3):
            await receiver.sender.send(number)
        raise RpcError(Status.ABORTED, "that was all")

    ends.there.register(gives, dummy)
    sender = await ends.here.open_stream("gives")
    await until(lambda: sender._channel.error)
    assert [await sender.receiver.recv() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StreamResetError, match="that was all"):
        await sender.receiver.recv()


@ALL_WAYS
async def test_both_ends_hear_of_a_lost_connection(studio: Studio, scheme: str, way: str) -> None:
    async with duo(studio, scheme=scheme, way=way) as ends:
        sender = await ends.here.open_stream("record")
        reading = asyncio.create_task(sender.receiver.recv())
        await ends.there.close(4000, "bye")
        with pytest.raises(ConnectionLostError) as caught:
            await reading
        assert caught.value.close_code == 4000
        with pytest.raises(ConnectionLostError):
            await sender.send(1)
        with pytest.raises(ConnectionLostError):
            await sender.close()
        await asyncio.wait_for(studio.gate.left.wait(), 5)
        sender.end()
        sender.reset()


async def test_a_stream_that_is_refused_by_a_peer_that_goes_away_says_so(ends: Duo) -> None:
    ends.there.drain(3001, "bye")
    with pytest.raises(RpcError) as caught:
        await ends.here.open_stream("record")
    assert caught.value.code is Status.UNAVAILABLE


# By themselves


async def test_ends_show_their_stream(ends: Duo) -> None:
    async with ends.here.open_stream("echo") as sender:
        assert repr(sender) == f"<StreamSender <AppStream 1 'echo' >< on stream {sender._channel.stream.stream_id}>>"  # type: ignore[union-attr]
        assert repr(sender.receiver).startswith("<StreamReceiver <AppStream 1 'echo'")
        assert sender.receiver.sender is sender
        assert (sender.receiver.name, sender.receiver.metadata) == ("echo", {})


async def test_a_channel_without_a_stream_says_how_to_get_one(ends: Duo) -> None:
    channel = Channel(ends.here)
    assert channel.name == ""
    channel.end()
    channel.reset(StreamResetError("x"))
    channel.discard_items()
    with pytest.raises(LocalProtocolError, match="the stream is not open: enter it with `async with`"):
        await channel.send(1, None)
