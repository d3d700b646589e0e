"""The whole of EchoStream in a few seconds: `make demo`, or python examples/demo.py [--json].

This program starts a second one, the server, finds it by mDNS without knowing its address, and goes through everything
that the two can do with each other. Both stay on the loopback interface and keep their certificates in a temporary
folder. Exit code 0 when every step gave what it should, 1 when one did not, 130 after Ctrl-C.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from demo_report import Bar, Steps
from pydantic import BaseModel

from echostream import (
    INJECTED,
    CloseCode,
    Context,
    RpcClient,
    RpcServer,
    StreamReceiver,
    event,
    handler,
    listener,
    service,
    stream,
)
from echostream.connecting import Connecting

ITEMS = 1000
FILE_BYTES = 50_000_000
CHUNK_BYTES = 256 * 1024
LOOPBACK = "127.0.0.1"
TIMEOUT = 60.0


# What both programs know


@event("demo.noticed")
class Noticed(BaseModel):
    text: str


@service("ui")
class Ui:
    """Served by the client."""

    @handler
    async def ask(self, question: str) -> str:
        return f"{question} Yes."


@service("demo")
class Demo:
    """Served by the server."""

    def __init__(self, server: RpcServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._noticed: asyncio.Queue[Noticed] = asyncio.Queue()

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def count(self, upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    @handler
    async def total(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @handler
    async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    @handler
    async def ask_back(self, question: str, *, ctx: Context = INJECTED) -> str:
        return await ctx.session.proxy(Ui).ask(question)

    @listener(Noticed)
    async def on_noticed(self, noticed: Noticed) -> None:
        self._noticed.put_nowait(noticed)

    @handler
    async def last_noticed(self) -> Noticed:
        return await self._noticed.get()

    @handler
    async def notify_me(self, noticed: Noticed, *, ctx: Context = INJECTED) -> int:
        ack = await ctx.session.emit(noticed, ack=True)
        return ack.listeners

    @handler
    async def notify_all(self, noticed: Noticed) -> int:
        return self._server.broadcast(noticed).sent

    @stream("upload")
    async def on_upload(self, receiver: StreamReceiver[bytes]) -> None:
        digest = hashlib.sha256()
        with (self._folder / "received.bin").open("wb") as file:
            async for chunk in receiver:
                file.write(chunk)
                digest.update(chunk)
        await receiver.sender.send(digest.hexdigest())


# The server's program


async def serve(run: str, folder: Path) -> None:
    server = RpcServer(f"quic://{LOOPBACK}:0")
    server.register(Demo(server, folder))
    server.enable_discovery("demo", metadata={"run": run})
    async with server:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the other program closes it, or is gone


# The client's program


class DemoError(Exception):
    """Something was not as it should be."""


async def go_through(steps: Steps, folder: Path) -> None:
    """Do everything, step by step."""
    run = os.urandom(4).hex()  # several demos on one machine do not mix
    async with AsyncExitStack() as stack:
        with steps.step("server process starts") as step:
            process = await stack.enter_async_context(server_process(run, folder))
            check(await receive_line(process), "ready")
            step.result = f"process {process.pid}"
        with steps.step("client finds it by mDNS") as step:
            client = await stack.enter_async_context(discover(run))
            step.result = f"at {client.session.peer_address}, certificate verified"
        neighbour = await stack.enter_async_context(discover(run))
        await call(steps, client)
        await exchange_events(steps, client, neighbour)
        await send_file(steps, client, folder)
        with steps.step("server stops in order") as step:
            check(await stop(process), 0)
            lost = await client.session.wait_closed()
            check(lost.close_code if lost else None, CloseCode.SHUTDOWN)
            step.result = "exit code 0, clients were told"


async def call(steps: Steps, client: RpcClient) -> None:
    """The four shapes of a call, and one from the server to the client."""
    demo = client.proxy(Demo)
    with steps.step("call") as step:
        check(await demo.add(2, b=3), 5)
        step.result = "add(2, b=3) = 5"
    with steps.step("call, server streams") as step:
        check([number async for number in demo.count(ITEMS)], list(range(ITEMS)))
        step.result = f"{ITEMS:,} items received"
    with steps.step("call, client streams") as step:
        check(await demo.total(numbers()), sum(range(ITEMS)))
        step.result = f"{ITEMS:,} items sent, their sum received"
    with steps.step("call, both stream") as step:
        check([number async for number in demo.double(numbers())], list(range(0, 2 * ITEMS, 2)))
        step.result = f"{ITEMS:,} items there and back"
    with steps.step("server calls client") as step:
        client.register(Ui())
        check(await demo.ask_back("Are you there?"), answer := "Are you there? Yes.")
        step.result = answer


async def exchange_events(steps: Steps, client: RpcClient, neighbour: RpcClient) -> None:
    """Events both ways: plain, acknowledged, and to all clients."""
    demo = client.proxy(Demo, timeout=5.0)
    heard: asyncio.Queue[Noticed] = asyncio.Queue()
    for each in (client, neighbour):
        each.on(Noticed, heard.put_nowait)
    with steps.step("event to the server") as step:
        await client.emit(Noticed(text="good morning"))
        check(await demo.last_noticed(), Noticed(text="good morning"))
        step.result = "heard"
    with steps.step("event to the server, acknowledged") as step:
        check((await client.emit(Noticed(text="still there?"), ack=True)).listeners, 1)
        check(await demo.last_noticed(), Noticed(text="still there?"))
        step.result = "1 listener ran"
    with steps.step("event to the client, acknowledged") as step:
        check(await demo.notify_me(Noticed(text="welcome")), 1)
        check(heard.get_nowait(), Noticed(text="welcome"))
        step.result = "1 listener ran"
    with steps.step("event to all clients") as step:
        check(await demo.notify_all(Noticed(text="tea is ready")), 2)
        async with asyncio.timeout(5.0):
            check([await heard.get(), await heard.get()], 2 * [Noticed(text="tea is ready")])
        step.result = "2 clients heard it"


async def send_file(steps: Steps, client: RpcClient, folder: Path) -> None:
    """A large file through an application stream."""
    source = folder / "sent.bin"
    expected = await asyncio.to_thread(make_file, source)
    with steps.step(f"file of {FILE_BYTES / 1e6:.0f} MB") as step, source.open("rb") as file, Bar(FILE_BYTES) as bar:
        begin = time.perf_counter()
        async with client.open_stream("upload", item=bytes, returns=str) as sender:
            while chunk := file.read(CHUNK_BYTES):
                await sender.send(chunk)
                bar.show(file.tell())
            sender.end()
            check(await sender.receiver.recv(), expected)
        speed = FILE_BYTES / 1e6 / (time.perf_counter() - begin)
        step.result = f"{speed:.0f} MB/s, SHA-256 {expected[:12]}... on both sides"


def check(actual: object, expected: object) -> None:
    if actual != expected:
        raise DemoError(f"expected {expected!r}, got {actual!r}")


def discover(run: str) -> Connecting[RpcClient]:
    # ca="dev": the two programs share a state folder, and with it the development authority.
    return RpcClient.discover("demo", metadata={"run": run}, timeout=10.0, interfaces=[LOOPBACK], ca="dev")


async def numbers() -> AsyncIterator[int]:
    for number in range(ITEMS):
        yield number


def make_file(path: Path) -> str:
    content = os.urandom(FILE_BYTES)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


# The server as a process of its own


@asynccontextmanager
async def server_process(run: str, folder: Path) -> AsyncGenerator[Process]:
    arguments = (__file__, "--serve", run, "--folder", str(folder))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,  # Ctrl-C reaches this program alone, which stops the other one in order
    )
    try:
        yield process
    finally:
        await stop(process)


async def receive_line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(15.0):
        return (await process.stdout.readline()).decode().strip() or "the end of the server process"


async def stop(process: Process) -> int:
    assert process.stdin is not None
    process.stdin.close()
    try:
        return await asyncio.wait_for(process.wait(), 10.0)
    except TimeoutError:
        process.kill()
        return await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="A server and a client that find each other and do everything once.")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--serve", metavar="RUN", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.folder))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    steps, failure = Steps(), None
    with tempfile.TemporaryDirectory(prefix="echostream-demo-") as name:
        os.environ["ECHOSTREAM_STATE_DIR"] = str(Path(name) / "state")
        try:
            asyncio.run(asyncio.wait_for(go_through(steps, Path(name)), TIMEOUT))
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # noqa: BLE001 - whatever it is, the table tells how far it went
            failure = f"{type(error).__name__}: {error}".removesuffix(": ")
    print(steps.as_json(failure) if arguments.json else steps.as_table())
    if failure is None:
        return 0
    print(f"the demo failed after {steps[-1].what!r} began: {failure}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
