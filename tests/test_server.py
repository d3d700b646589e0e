"""Tests for echostream.server: starting, admitting, stopping in order, and building."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream import (
    Call,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    Limits,
    LocalProtocolError,
    Middleware,
    Principal,
    Request,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    handler,
    service,
)
from echostream.errors import CloseCode, EchoStreamError
from echostream.middleware import RequestNext
from echostream.session.peer import Peer
from echostream.transport.quic import QuicTransport
from echostream.transport.tls import ClientTls
from tests.serving import PATIENCE, QUIC, joined, linked, memory_url, nothing_left, served, session_of, until
from tests.transport.authority import issue
from tests.transport.conformance import World

ROOT = Path(__file__).parents[1]


@service("work")
class Work:
    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False

    @handler
    async def quick(self) -> int:
        return 1

    @handler
    async def slow(self) -> str:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "finished"

    @handler
    async def count(self) -> AsyncIterator[int]:
        self.started.set()
        for number in range(3):
            await self.release.wait()
            yield number


# Life


async def test_a_server_starts_and_stops_as_often_as_one_likes() -> None:
    server = RpcServer(QUIC)
    server.register(Work())
    with nothing_left():
        await server.stop()
        for _ in range(2):
            assert server.addresses == []
            await server.start()
            (address,) = server.addresses
            assert address.startswith("quic://127.0.0.1:")
            assert not address.endswith(":0")
            assert repr(server) == f"<RpcServer {address} 0 sessions>"
            async with joined(server) as client:
                assert await client.request("work.quick") == 1
            await server.stop()
            await server.stop()
            assert repr(server) == "<RpcServer stopped 0 sessions>"


async def test_bind_replaces_the_addresses() -> None:
    server = RpcServer(QUIC)
    first, second = memory_url(), memory_url()
    server.bind(first, second)
    async with server:
        assert server.addresses == [first, second]
        with pytest.raises(LocalProtocolError) as caught:
            server.bind(QUIC)
        assert caught.value.message == "the server runs already: call bind() before it starts"
    with pytest.raises(ConfigurationError):
        server.bind("nowhere")
    assert repr(server) == "<RpcServer stopped 0 sessions>"


async def test_starting_twice_is_refused() -> None:
    async with served() as server:
        with pytest.raises(LocalProtocolError) as caught:
            await server.start()
        assert str(caught.value) == "FAILED_PRECONDITION: the server runs already: stop it first"


async def test_without_an_address_a_free_port_of_loopback_is_taken() -> None:
    async with RpcServer() as server:
        assert server.addresses[0].startswith("quic://127.0.0.1:")


async def test_one_server_serves_at_several_addresses() -> None:
    server = RpcServer(memory_url(), QUIC, QUIC)
    server.register(Work())
    async with server:
        assert [url.partition(":")[0] for url in server.addresses] == ["memory", "quic", "quic"]
        clients = [await RpcClient.connect(url, ca="dev") for url in server.addresses]
        assert [await client.request("work.quick") for client in clients] == [1, 1, 1]
        assert len(server.sessions) == 3
        assert server.broadcast("note", 7).sent == 3
        for client in clients:
            await client.close()


@pytest.mark.parametrize("scheme", ["memory", "quic"])
async def test_two_servers_on_one_address_are_refused(scheme: str) -> None:
    async with served(url=QUIC if scheme == "quic" else None) as first:
        url = first.addresses[0]
        second = RpcServer(memory_url(), url)
        with pytest.raises(ConnectError) as caught:
            await second.start()
        assert caught.value.code is Status.UNAVAILABLE
        assert url in caught.value.message
        assert "in use" in caught.value.message
        assert second.addresses == []
        await first.stop()
        await second.start()
        await second.stop()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://x:1", "url: unknown scheme 'http', expected quic:// or memory://"),
        ("here", "url: 'here' has no scheme, expected like quic://host:4433"),
        ("quic://127.0.0.1:0/path", "url: 'quic://127.0.0.1:0/path' has more than scheme, host and port"),
    ],
)
def test_addresses_that_cannot_be_are_refused_at_once(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcServer(url)
    assert caught.value.message == text


def test_an_engine_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"engine: .*'steam'"):
        RpcServer(QUIC, engine="steam")


async def test_a_certificate_that_cannot_be_read_stops_the_start() -> None:
    server = RpcServer(QUIC, certificate="/nowhere/cert.pem", private_key="/nowhere/key.pem")
    with nothing_left(), pytest.raises(ConfigurationError) as caught:
        await server.start()
    assert caught.value.message == "certificate: cannot read '/nowhere/cert.pem' (No such file or directory)"
    assert server.addresses == []


async def test_a_certificate_of_ones_own_is_shown() -> None:
    now = time.time()
    own = issue("own", "127.0.0.1", start=now - 60, end=now + 3600)
    async with served(Work(), url=QUIC, certificate=own.pem, private_key=own.key_pem) as server:
        assert server.fingerprint == own.fingerprint
        async with RpcClient.connect(server.addresses[0], fingerprint=server.fingerprint) as client:
            assert await client.request("work.quick") == 1


# Sessions


async def test_sessions_come_and_go() -> None:
    async with served() as server:
        async with joined(server) as client:
            session = session_of(server, client)
            assert list(server.sessions) == [session]
            assert session.id == client.session.id
            assert (session.state, client.session.state) == ("open", "open")
        await until(lambda: not len(server.sessions))
        assert session.state == "closed"


async def test_broadcast_reaches_the_sessions_that_are_picked() -> None:
    async with served() as server, joined(server) as one, joined(server) as two:
        heard: list[tuple[int, Any]] = []
        arrived = asyncio.Event()

        def on_one(payload: Any) -> None:
            heard.append((1, payload))
            arrived.set()

        one.on("note", on_one)
        two.on("note", lambda payload: heard.append((2, payload)))
        result = server.broadcast("note", "hi", where=lambda session: session.id == one.session.id)
        assert (result.sent, result.failed) == (1, 0)
        await asyncio.wait_for(arrived.wait(), PATIENCE)
        assert heard == [(1, "hi")]


async def test_a_server_listens_to_every_session() -> None:
    async with served() as server, joined(server) as one, joined(server) as two:
        heard: list[tuple[str, Any]] = []
        off = server.on("note", lambda payload, ctx: heard.append((ctx.session.id, payload)))
        await one.emit("note", 1, ack=True)
        await two.emit("note", 2, ack=True)
        assert heard == [(one.session.id, 1), (two.session.id, 2)]
        off()
        assert (await one.emit("note", 3, ack=True)).listeners == 0


# Admission


async def refused(server: RpcServer, **options: Any) -> EchoStreamError:
    with pytest.raises((RpcError, ConnectError)) as caught:
        async with joined(server, **options):
            raise AssertionError("admitted")
    assert not len(server.sessions)
    return caught.value


async def admits_ada(credentials: str | None) -> Principal | None:
    await asyncio.sleep(0)
    return Principal("Ada") if credentials == "ada:secret" else None


@pytest.mark.parametrize("authenticate", [admits_ada, lambda text: Principal("Ada") if text == "ada:secret" else None])
@pytest.mark.parametrize("url", [QUIC, None])
async def test_authenticate_decides(authenticate: Callable[..., Any], url: str | None) -> None:
    async with served(Work(), url=url, authenticate=authenticate) as server:
        for wrong in (None, "ada:guess"):
            error = await refused(server, credentials=wrong)
            assert error.code is Status.UNAUTHENTICATED
            assert error.message == (
                f"{server.addresses[0]}: connection closed by the peer: credentials are not accepted: connect with "
                "others, credentials=..."
            )
        async with joined(server, credentials="ada:secret") as client:
            assert await client.request("work.quick") == 1
            assert session_of(server, client).principal == Principal("Ada")


async def test_authenticate_that_raises_admits_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(credentials: str | None) -> Principal:
        raise RuntimeError("the database of passwords is gone")

    async with served(authenticate=broken) as server:
        error = await refused(server, credentials="x")
        assert isinstance(error, ConnectError)
        assert error.message == (
            f"{server.addresses[0]} did not let this client in: connection closed by the peer: "
            "authentication is not possible now"
        )
    assert "the database of passwords is gone" in caplog.text


@pytest.mark.parametrize("answer", [True, False, "Ada", {"name": "Ada"}])
async def test_authenticate_that_says_neither_who_nor_none_admits_nobody(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Exception] = []
    async with served(authenticate=lambda _: answer) as server:
        server.on_error(lambda error, context: reported.append(error))
        error = await refused(server, credentials="x")
        assert error.message.endswith("authentication is not possible now")
    text = (
        f"authenticate: the function returned an object of {type(answer).__name__}: let it return a Principal, or None"
    )
    assert text in caplog.text
    assert [type(error) for error in reported] == [ConfigurationError]


async def test_authenticate_that_hangs_admits_nobody() -> None:
    async def hanging(credentials: str | None) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    async with served(authenticate=hanging, limits=Limits(hello_timeout=0.05)) as server:
        error = await refused(server)
        assert error.message.endswith("authentication is not possible now")


async def test_the_time_for_the_hello_and_for_its_check_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(credentials: str | None) -> Principal:
        await asyncio.sleep(0.12)
        return Principal("Ada")

    def introduce_late(peer: Peer) -> None:
        asyncio.get_running_loop().call_later(0.12, introduce, peer)

    introduce = Peer.introduce
    monkeypatch.setattr(Peer, "introduce", introduce_late)
    async with served(Work(), authenticate=slow, limits=Limits(hello_timeout=0.2)) as server, joined(server) as client:
        assert await client.request("work.quick") == 1


async def test_a_client_that_leaves_while_it_is_checked_is_forgotten() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(credentials: str | None) -> Principal:
        asked.set()
        await answer.wait()
        return Principal("Ada")

    async with served(authenticate=slow) as server:
        connecting = asyncio.create_task(RpcClient.connect(server.addresses[0]))
        await asked.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        answer.set()
        await until(lambda: not server._admission.arriving)
        assert not len(server.sessions)


async def test_a_peer_without_hello_is_closed() -> None:
    async with served(url=QUIC, limits=Limits(hello_timeout=0.05)) as server:
        world = World(QuicTransport(), server.addresses[0], client_tls=ClientTls.load(ca="dev"))
        silent = await world.dial()
        reason = await silent.ended()
        assert (reason.code, reason.reason, reason.by_peer) == (CloseCode.HELLO_TIMEOUT, "no hello within 0.05 s", True)
        await until(lambda: not server._admission.arriving)


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("quic://127.0.0.1:0", False),
        ("quic://[::1]:0", False),
        ("quic://localhost:0", False),
        ("memory://debugging", False),
        ("quic://0.0.0.0:0", True),
        ("quic://example.org:4433", True),
    ],
)
def test_debug_on_a_public_address_warns(url: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    RpcServer(url, debug=True)
    expected = ["! debug=True on a public address: clients see the texts of internal errors"] if warns else []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == expected
    caplog.clear()
    RpcServer(url)
    assert not caplog.records


# Stopping


@pytest.mark.parametrize("url", [QUIC, None])
async def test_stopping_lets_running_calls_finish_and_takes_no_new_ones(url: str | None) -> None:
    work = Work()
    async with linked(work, url=url) as (server, client):
        running = client.call(client.proxy(Work).slow)
        await work.started.wait()
        stopping = asyncio.create_task(server.stop(grace=PATIENCE))
        await until(lambda: client.session.peer.protocol.peer_gone_away)
        for call in (client.request("work.quick"), anext(aiter(client.proxy(Work).count()))):
            with pytest.raises(RpcError) as caught:
                await call
            assert (caught.value.code, caught.value.message, caught.value.retryable) == (
                Status.UNAVAILABLE,
                "the peer is shutting down and takes no new calls",
                True,
            )
        with pytest.raises(ConnectError):
            await RpcClient.connect(server.addresses[0], ca="dev", timeout=1.0)
        assert not stopping.done()
        assert session_of(server, client).state == "draining"
        work.release.set()
        assert await running == "finished"
        await stopping
        await asyncio.wait_for(client.session.wait_closed(), PATIENCE)
        with pytest.raises(ConnectionLostError) as lost:
            await client.request("work.quick")
        assert lost.value.close_code == CloseCode.SHUTDOWN
        assert lost.value.message == "connection closed by the peer: server is shutting down"


async def test_a_running_stream_of_items_may_finish_too() -> None:
    work = Work()
    async with linked(work) as (server, client):
        items = aiter(client.proxy(Work).count())
        first = asyncio.ensure_future(anext(items))
        await work.started.wait()
        stopping = asyncio.create_task(server.stop(grace=PATIENCE))
        await asyncio.sleep(0)
        work.release.set()
        assert [await first, *[item async for item in items]] == [0, 1, 2]
        await stopping


@pytest.mark.parametrize("url", [QUIC, None])
async def test_after_the_grace_a_call_is_cancelled_and_its_caller_told(url: str | None) -> None:
    work = Work()
    async with linked(work, url=url) as (server, client):
        running = client.call(client.proxy(Work).slow)
        await work.started.wait()
        await server.stop(grace=0.05)
        assert work.cancelled
        with pytest.raises(ConnectionLostError) as caught:
            await running
        assert caught.value.code is Status.UNAVAILABLE
        assert caught.value.retryable
        assert str(caught.value) == ("work.slow: UNAVAILABLE: connection closed by the peer: server is shutting down")


async def test_a_call_under_way_when_the_server_goes_is_refused_as_retryable() -> None:
    """The request passes the GoAway on the way: the server answers instead of the caller's own side."""
    async with linked(Work()) as (server, client):
        session_of(server, client).peer.protocol.go_away(CloseCode.SHUTDOWN, "test")
        with pytest.raises(RpcError) as caught:
            await client.request("work.quick")
        assert (caught.value.code, caught.value.retryable) == (Status.UNAVAILABLE, True)


async def test_stopping_twice_at_once_waits_for_the_same_end() -> None:
    work = Work()
    async with linked(work) as (server, client):
        running = client.call(client.proxy(Work).slow)
        await work.started.wait()
        first = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        second = asyncio.create_task(server.stop())
        await asyncio.sleep(0.01)
        assert not first.done()
        assert not second.done()
        work.release.set()
        await asyncio.gather(first, second)
        assert await running == "finished"


async def test_a_stop_that_is_cancelled_stops_at_once() -> None:
    work = Work()
    with nothing_left():
        async with linked(work, url=QUIC) as (server, client):
            running = client.call(client.proxy(Work).slow)
            await work.started.wait()
            stopping = asyncio.create_task(server.stop(grace=60.0))
            await asyncio.sleep(0.01)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            assert work.cancelled
            assert server.addresses == []
            with pytest.raises(ConnectionLostError):
                await running


async def test_who_is_admitted_too_late_is_sent_away() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(credentials: str | None) -> Principal:
        asked.set()
        await answer.wait()
        return Principal("Ada")

    async with served(authenticate=slow) as server:
        connecting = asyncio.create_task(RpcClient.connect(server.addresses[0]))
        await asked.wait()
        stopping = asyncio.create_task(server.stop(grace=PATIENCE))
        await asyncio.sleep(0.01)
        answer.set()
        with pytest.raises(ConnectError) as caught:
            await connecting
        assert caught.value.message.endswith("connection closed by the peer: server is shutting down")
        await stopping


async def test_an_error_in_the_block_shortens_the_stop() -> None:
    work = Work()
    loop = asyncio.get_running_loop()
    server = RpcServer(memory_url())
    server.register(work)
    begun = loop.time()

    async def fail() -> None:
        async with server:
            client = await stack.enter_async_context(RpcClient.connect(server.addresses[0]))
            calls.append(client.call(client.proxy(Work).slow))
            await work.started.wait()
            raise ZeroDivisionError

    calls: list[Call[str]] = []
    async with AsyncExitStack() as stack:
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert loop.time() - begun < PATIENCE
        assert work.cancelled
        with pytest.raises(ConnectionLostError):
            await calls[0]


async def test_serve_runs_until_stop() -> None:
    server = RpcServer(QUIC)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.addresses)
    await server.stop()
    await asyncio.wait_for(serving, PATIENCE)
    assert server.addresses == []


async def test_serve_ends_when_it_is_cancelled() -> None:
    server = RpcServer(QUIC)
    with nothing_left():
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.addresses)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert server.addresses == []


PROGRAM = """
import asyncio, sys
from echostream import RpcServer, handler

@handler("work")
async def work() -> str:
    print("started", flush=True)
    await asyncio.sleep(float(sys.argv[1]))
    return "finished"

async def main() -> None:
    server = RpcServer("quic://127.0.0.1:0")
    server.register(work)
    serving = asyncio.create_task(server.serve())
    while not server.addresses:
        await asyncio.sleep(0.01)
    print(server.addresses[0], flush=True)
    await serving
    print("stopped", flush=True)

asyncio.run(main())
"""


async def run_program(seconds: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, seconds, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().strip()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_in_order(number: signal.Signals) -> None:
    process = await run_program("0.3")
    async with RpcClient.connect(await line(process), ca="dev") as client:
        call = asyncio.ensure_future(client.request("work"))
        assert await line(process) == "started"
        process.send_signal(number)
        assert await call == "finished"
        assert await line(process) == "stopped"
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""


@pytest.mark.slow
async def test_a_second_signal_stops_at_once() -> None:
    process = await run_program("30")
    async with RpcClient.connect(await line(process), ca="dev") as client:
        running = asyncio.ensure_future(client.request("work", timeout=None))
        assert await line(process) == "started"
        process.send_signal(signal.SIGTERM)
        await until(lambda: client.session.peer.protocol.peer_gone_away)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGTERM
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


# Builder


async def test_the_builder_says_the_same_as_keywords() -> None:
    now = time.time()
    own = issue("own", "127.0.0.1", start=now - 60, end=now + 3600)
    limits = Limits(max_payload_bytes=4096)
    work = Work()

    def authenticate(credentials: str | None) -> Principal | Awaitable[Principal | None] | None:
        return Principal("Ada")

    built = (
        RpcServer.builder()
        .bind(QUIC)
        .bind(memory_url())
        .register(work)
        .certificate(own.pem, own.key_pem)
        .authenticate(authenticate)
        .engine("aioquic")
        .limits(limits)
        .debug()
        .enable_discovery("work", version="1.2", metadata={"zone": "a"}, interfaces=["127.0.0.1"])
        .build()
    )
    assert (built._doors._certificate, built._doors._private_key) == (own.pem, own.key_pem)
    said = RpcServer(
        QUIC, built.urls[1], certificate=own.pem, private_key=own.key_pem, authenticate=authenticate,
        engine="aioquic", limits=limits, debug=True,
    )  # fmt: skip
    said.register(work)
    said.enable_discovery("work", version="1.2", metadata={"zone": "a"}, interfaces=["127.0.0.1"])
    assert built._admission._authenticate is authenticate
    for name in ("_addresses", "_limits", "_debug", "_discovery"):
        assert getattr(built, name) == getattr(said, name), name
    assert [route.name for route in built._router.methods()] == [route.name for route in said._router.methods()]
    assert built.fingerprint == said.fingerprint == own.fingerprint
    built._discovery = None
    async with built, RpcClient.connect(built.addresses[1]) as client:
        assert await client.request("work.quick") == 1


async def test_the_builder_registers_as_a_server_does() -> None:
    class Loud(Middleware):
        async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
            return str(await call_next(request)).upper()

    @asynccontextmanager
    async def lifespan(server: RpcServer) -> AsyncGenerator[None]:
        server.register(Work())
        yield

    @handler("quiet")
    async def quiet() -> str:
        return "hush"

    builder = RpcServer.builder().bind(memory_url()).register(quiet).lifespan(lifespan)
    server: RpcServer = builder.register(quiet, name="loud", middleware=[Loud()]).build()
    async with server, joined(server) as client:
        assert [await client.request(name) for name in ("quiet", "loud", "work.quick")] == ["hush", "HUSH", 1]


async def test_an_empty_builder_builds_the_default() -> None:
    built: RpcServer = RpcServer.builder().build()
    assert built.urls == ["quic://127.0.0.1:0"]
    assert built._discovery is None
