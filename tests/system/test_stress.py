"""Many clients at once over real QUIC: everything is correct, and nothing of it is left afterwards."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest
from pydantic import BaseModel

from echostream import (
    INJECTED,
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
from tests.serving import QUIC, joined, nothing_left, served, until

T = TypeVar("T")


@event("work.note")
class Note(BaseModel):
    client: int
    text: str


class Job(BaseModel):
    client: int
    content: bytes


class Done(BaseModel):
    client: int
    digest: str


@service("work")
class Work:
    def __init__(self) -> None:
        self.notes: Counter[int] = Counter()
        self.received: Counter[str] = Counter()

    @handler
    async def digest(self, job: Job) -> Done:
        return Done(client=job.client, digest=hashlib.sha256(job.content).hexdigest())

    @handler
    async def count(self, start: int, to: int) -> AsyncIterator[int]:
        for number in range(start, to):
            yield number

    @handler
    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    @handler
    async def echo(self, items: AsyncIterator[str]) -> AsyncIterator[str]:
        async for item in items:
            yield item

    @handler
    async def ask_back(self, question: str, *, ctx: Context = INJECTED) -> str:
        answer = await ctx.session.request("ui.answer", question, returns=str)
        await ctx.session.emit(Note(client=0, text=answer))
        return answer

    @listener(Note)
    async def on_note(self, note: Note) -> None:
        self.notes[note.client] += 1

    @stream("upload")
    async def on_upload(self, receiver: StreamReceiver) -> None:
        digest = hashlib.sha256()
        async for item in receiver:
            digest.update(item)
        self.received[digest.hexdigest()] += 1
        await receiver.sender.send(digest.hexdigest())


@service("ui")
class Ui:
    def __init__(self, number: int) -> None:
        self.number = number

    @handler
    async def answer(self, question: str) -> str:
        return f"{question} {self.number}"


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def words(number: int) -> AsyncIterator[str]:
    for index in range(5):
        yield f"{number}-{index}"


async def do_everything(client: RpcClient, number: int) -> None:
    """Calls of all shapes both ways, events both ways, and a stream."""
    work = client.proxy(Work, timeout=60.0)
    heard: list[Note] = []
    client.on(Note, heard.append)
    client.register(Ui(number))
    content = number.to_bytes(4, "big") * 500
    large = number.to_bytes(4, "big") * 20_000
    done, big, total, counted, echoed, answer = await asyncio.gather(
        work.digest(Job(client=number, content=content)),
        work.digest(Job(client=number, content=large)),
        work.total(numbers(50)),
        collect(work.count(number, number + 20)),
        collect(work.echo(words(number))),
        work.ask_back("who"),
    )
    assert done == Done(client=number, digest=hashlib.sha256(content).hexdigest())
    assert big == Done(client=number, digest=hashlib.sha256(large).hexdigest())
    assert total == 1225
    assert counted == list(range(number, number + 20))
    assert echoed == [f"{number}-{index}" for index in range(5)]
    assert answer == f"who {number}"
    ack = await client.emit(Note(client=number, text="done"), ack=True, timeout=60.0)
    assert (ack.listeners, ack.failed) == (1, 0)
    async with client.open_stream("upload", returns=str, timeout=60.0) as sender:
        for _ in range(10):
            await sender.send(content)
        sender.end()
        assert await sender.receiver.recv() == hashlib.sha256(content * 10).hexdigest()
    await until(lambda: heard)
    assert heard == [Note(client=0, text=f"who {number}")]


async def collect(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


async def be_a_client(server: RpcServer, number: int) -> None:
    async with joined(server, timeout=60.0) as client:
        await do_everything(client, number)


async def run_clients(count: int) -> None:
    work = Work()
    async with served(work, url=QUIC) as server:
        async with asyncio.TaskGroup() as group:
            for number in range(1, count + 1):
                group.create_task(be_a_client(server, number))
        assert work.notes == Counter(range(1, count + 1))
        assert sorted(work.received.values()) == [1] * count
        await until(lambda: not len(server.sessions))
        assert server._runtime is not None
        assert not len(server._runtime.deadlines)
        assert not len(server._runtime.tasks)
        assert not server._admission.arriving


async def test_a_few_clients_at_once_leave_nothing() -> None:
    with nothing_left():
        await run_clients(8)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_200_clients_at_once_leave_nothing() -> None:
    with nothing_left():
        await run_clients(200)


async def test_an_open_session_holds_no_buffers_when_it_is_idle() -> None:
    async with served(Work(), url=QUIC) as server, joined(server) as client:
        await do_everything(client, 1)
        for session in (client.session, *server.sessions):
            peer = session.peer
            await until(lambda peer=peer: not peer.protocol.calls.incoming and not peer.protocol.link.claimed)
            assert not peer.protocol.calls.outgoing
            assert not peer.protocol.streams.streams
            assert not peer.protocol.link.owners
            assert not peer.protocol.link.out.pending
            assert not len(session.tasks)
            assert peer.large.claimed_bytes == 0
