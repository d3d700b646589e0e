"""gRPC's interoperability cases under their own names, with the client calling and with the server calling.

https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md; those about compression, authentication by
Google and channels of gRPC itself have no counterpart here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from pydantic import BaseModel

from echostream import INJECTED, Context, RpcError, Session, Status, handler, service
from echostream.types import Metadata
from tests.serving import QUIC, joined, served, session_of, until
from tests.transport.lab import PAIRS, Pair

SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
INITIAL_KEY, INITIAL_VALUE = "x-grpc-test-echo-initial", "test_initial_metadata_value"
TRAILING_KEY, TRAILING_VALUE = "x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"


class Payload(BaseModel):
    body: bytes = b""


class EchoStatus(BaseModel):
    code: int
    message: str


class SimpleRequest(BaseModel):
    response_size: int = 0
    payload: Payload = Payload()
    response_status: EchoStatus | None = None


class SimpleResponse(BaseModel):
    payload: Payload


class StreamingOutputCallRequest(BaseModel):
    sizes: list[int] = []
    intervals_us: int = 0
    payload: Payload = Payload()
    response_status: EchoStatus | None = None


@service("grpc.testing.TestService")
class InteropService:
    """`grpc.testing.TestService`."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0

    @handler
    async def empty_call(self) -> None:
        return None

    @handler
    async def unary_call(self, request: SimpleRequest, *, ctx: Context = INJECTED) -> SimpleResponse:
        _echo_metadata(ctx)
        _raise_status(request.response_status)
        return SimpleResponse(payload=Payload(body=bytes(request.response_size)))

    @handler
    async def streaming_input_call(self, requests: AsyncIterator[Payload]) -> int:
        self.running += 1
        try:
            return sum([len(request.body) async for request in requests])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    @handler
    async def streaming_output_call(self, request: StreamingOutputCallRequest) -> AsyncIterator[Payload]:
        for size in request.sizes:
            yield Payload(body=bytes(size))

    @handler
    async def full_duplex_call(
        self, requests: AsyncIterator[StreamingOutputCallRequest], *, ctx: Context = INJECTED
    ) -> AsyncIterator[Payload]:
        self.running += 1
        try:
            _echo_metadata(ctx)
            async for request in requests:
                _raise_status(request.response_status)
                for size in request.sizes:
                    await asyncio.sleep(request.intervals_us / 1e6)
                    yield Payload(body=bytes(size))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


@service("grpc.testing.TestService")
class WiderContract:
    """Has a method that the service lacks."""

    @handler
    async def unimplemented_call(self) -> None: ...


@service("grpc.testing.UnimplementedService")
class UnimplementedService:
    """Is served by nobody."""

    @handler
    async def unimplemented_call(self) -> None: ...


def _echo_metadata(ctx: Context) -> None:
    if INITIAL_KEY in ctx.metadata:
        ctx.set_initial_metadata(**{INITIAL_KEY: ctx.metadata[INITIAL_KEY]})
    if TRAILING_KEY in ctx.metadata:
        ctx.set_trailing_metadata(**{TRAILING_KEY: ctx.metadata[TRAILING_KEY]})


def _raise_status(status: EchoStatus | None) -> None:
    if status is not None:
        raise RpcError(Status(status.code), status.message)


class World:
    """The calling end of a connection, and the service behind the other end."""

    def __init__(self, caller: Session, callee: Session, serving: InteropService) -> None:
        self.caller = caller
        self.callee = callee
        self.serving = serving
        self.stub = caller.proxy(InteropService)


@pytest.fixture(params=PAIRS)
def engines(request: pytest.FixtureRequest) -> Pair:
    pair: Pair = request.param
    return pair


@pytest.fixture(params=["client calls", "server calls"])
async def world(request: pytest.FixtureRequest, engines: Pair) -> AsyncIterator[World]:
    near, far = engines
    async with AsyncExitStack() as stack:
        serving = InteropService()
        if request.param == "client calls":
            server = await stack.enter_async_context(served(serving, url=QUIC, engine=far))
            client = await stack.enter_async_context(joined(server, engine=near))
            world = World(client.session, session_of(server, client), serving)
        else:
            server = await stack.enter_async_context(served(url=QUIC, engine=far))
            client = await stack.enter_async_context(joined(server, engine=near))
            client.register(serving)
            world = World(session_of(server, client), client.session, serving)
        yield world
        await until(lambda: not world.serving.running)
        for session in (world.caller, world.callee):
            assert not session.peer.protocol.calls.outgoing
            assert not session.peer.protocol.calls.incoming


async def test_empty_unary(world: World) -> None:
    assert await world.caller.request("grpc.testing.TestService.empty_call") is None
    await world.stub.empty_call()


def large_request() -> SimpleRequest:
    return SimpleRequest(response_size=314_159, payload=Payload(body=bytes(271_828)))


async def test_large_unary(world: World) -> None:
    response = await world.stub.unary_call(large_request())
    assert response.payload.body == bytes(314_159)


async def test_client_streaming(world: World) -> None:
    async def requests() -> AsyncIterator[Payload]:
        for size in (27_182, 8, 1_828, 45_904):
            yield Payload(body=bytes(size))

    assert await world.stub.streaming_input_call(requests()) == 74_922


async def test_server_streaming(world: World) -> None:
    sizes = [31_415, 9, 2_653, 58_979]
    responses = [item async for item in world.stub.streaming_output_call(StreamingOutputCallRequest(sizes=sizes))]
    assert [item.body for item in responses] == [bytes(size) for size in sizes]


class Requests:
    """Input of a call that the test feeds by hand."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[StreamingOutputCallRequest | None] = asyncio.Queue(10)

    def send(self, size: int, body: int, **more: object) -> None:
        self._queue.put_nowait(
            StreamingOutputCallRequest(sizes=[size], payload=Payload(body=bytes(body)), **more)  # type: ignore[arg-type]
        )

    def end(self) -> None:
        self._queue.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[StreamingOutputCallRequest]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[StreamingOutputCallRequest]:
        while (request := await self._queue.get()) is not None:
            yield request


async def test_ping_pong(world: World) -> None:
    requests = Requests()
    async with world.caller.stream(world.stub.full_duplex_call, aiter(requests)) as responses:
        for size, body in ((31_415, 27_182), (9, 8), (2_653, 1_828), (58_979, 45_904)):
            requests.send(size, body)
            assert (await anext(responses)).body == bytes(size)
        requests.end()
        assert [item async for item in responses] == []


async def test_empty_stream(world: World) -> None:
    requests = Requests()
    requests.end()
    assert [item async for item in world.stub.full_duplex_call(aiter(requests))] == []


async def test_cancel_after_begin(world: World) -> None:
    async def never() -> AsyncIterator[Payload]:
        await asyncio.Event().wait()
        yield Payload()

    call = world.caller.call(world.stub.streaming_input_call, never())
    await until(lambda: world.serving.running)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: world.serving.cancelled)


async def test_cancel_after_first_response(world: World) -> None:
    requests = Requests()
    requests.send(31_415, 27_182)
    async with world.caller.stream(world.stub.full_duplex_call, aiter(requests)) as responses:
        assert (await anext(responses)).body == bytes(31_415)
    with pytest.raises(RpcError) as caught:
        await anext(responses)
    assert (caught.value.code, caught.value.message) == (Status.CANCELLED, "the call was closed")
    await until(lambda: world.serving.cancelled)


async def test_timeout_on_sleeping_server(world: World) -> None:
    requests = Requests()
    requests.send(31_415, 27_182, intervals_us=60_000_000)
    stub = world.caller.proxy(InteropService, timeout=0.05)
    with pytest.raises(RpcError) as caught:
        await anext(aiter(stub.full_duplex_call(aiter(requests))))
    assert caught.value.code is Status.DEADLINE_EXCEEDED
    assert isinstance(caught.value, TimeoutError)
    await until(lambda: world.serving.cancelled)


async def test_custom_metadata(world: World) -> None:
    sent: Metadata = {INITIAL_KEY: INITIAL_VALUE, TRAILING_KEY: TRAILING_VALUE}
    stub = world.caller.proxy(InteropService, metadata=sent)
    call = world.caller.call(stub.unary_call, large_request())
    assert len((await call).payload.body) == 314_159
    assert call.initial_metadata == {INITIAL_KEY: INITIAL_VALUE}
    assert call.trailing_metadata == {TRAILING_KEY: TRAILING_VALUE}
    requests = Requests()
    requests.send(314_159, 271_828)
    requests.end()
    responses = stub.full_duplex_call(aiter(requests))
    assert [len(item.body) async for item in responses] == [314_159]
    assert responses.initial_metadata == {INITIAL_KEY: INITIAL_VALUE}  # type: ignore[attr-defined]
    assert responses.trailing_metadata == {TRAILING_KEY: TRAILING_VALUE}  # type: ignore[attr-defined]


async def test_status_code_and_message(world: World) -> None:
    status = EchoStatus(code=Status.UNKNOWN, message="test status message")
    with pytest.raises(RpcError) as caught:
        await world.stub.unary_call(SimpleRequest(response_status=status))
    assert (caught.value.code, caught.value.message) == (Status.UNKNOWN, "test status message")
    requests = Requests()
    requests.send(1, 1, response_status=EchoStatus(code=Status.UNKNOWN, message="test status message"))
    with pytest.raises(RpcError) as caught:
        await anext(aiter(world.stub.full_duplex_call(aiter(requests))))
    assert (caught.value.code, caught.value.message) == (Status.UNKNOWN, "test status message")


async def test_special_status_message(world: World) -> None:
    status = EchoStatus(code=Status.UNKNOWN, message=SPECIAL_MESSAGE)
    with pytest.raises(RpcError) as caught:
        await world.stub.unary_call(SimpleRequest(response_status=status))
    assert (caught.value.code, caught.value.message) == (Status.UNKNOWN, SPECIAL_MESSAGE)


async def test_unimplemented_method(world: World) -> None:
    with pytest.raises(RpcError) as caught:
        await world.caller.proxy(WiderContract).unimplemented_call()
    assert caught.value.code is Status.UNIMPLEMENTED
    assert caught.value.message.startswith("unknown method 'grpc.testing.TestService.unimplemented_call'")


async def test_unimplemented_service(world: World) -> None:
    with pytest.raises(RpcError) as caught:
        await world.caller.proxy(UnimplementedService).unimplemented_call()
    assert caught.value.code is Status.UNIMPLEMENTED
    assert caught.value.message.startswith("unknown method 'grpc.testing.UnimplementedService.unimplemented_call'")


async def concurrent_large_unary(world: World, count: int) -> None:
    stub = world.caller.proxy(InteropService, timeout=120.0)
    responses = await asyncio.gather(*(stub.unary_call(large_request()) for _ in range(count)))
    assert {len(response.payload.body) for response in responses} == {314_159}
    assert len(responses) == count


async def test_concurrent_large_unary(world: World) -> None:
    await concurrent_large_unary(world, 10)


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("count", [200, 1000])
async def test_concurrent_large_unary_with_many(world: World, count: int) -> None:
    await concurrent_large_unary(world, count)
