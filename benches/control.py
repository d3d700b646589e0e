"""A line of its own between client and server of a bench: questions in, numbers out, beside what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ("Ask", "answering", "asking")

Ask = Callable[[str], "asyncio.Future[float]"]
"""Asks the server; answers come in order."""


@asynccontextmanager
async def answering(answer: Callable[[str], float]) -> AsyncIterator[int]:
    """Answer questions on a port of this machine, which is returned."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(f"{answer(line.decode().strip())!r}\n".encode())
        writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1]
        server.close()


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[Ask]:
    """Ask the server of that port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[asyncio.Future[float]] = asyncio.Queue()

    async def take() -> None:
        while True:
            answer = await waiting.get()
            answer.set_result(float(await reader.readline()))

    def ask(question: str) -> asyncio.Future[float]:
        answer: asyncio.Future[float] = loop.create_future()
        waiting.put_nowait(answer)
        writer.write(f"{question}\n".encode())
        return answer

    task = loop.create_task(take())
    try:
        yield ask
    finally:
        task.cancel()
        writer.close()
        await writer.wait_closed()
