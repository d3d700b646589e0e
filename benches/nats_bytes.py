"""nats-py in the bench of bytes: request and reply over a broker on this machine, in plaintext as it comes.

The broker is a third process, as with NATS everywhere; nobody else uses it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import nats

from benches.load import drive
from benches.p04_bytes import find_nats_server, payload_of
from benches.typed import TIMEOUT
from benches.worker import Round

__all__ = ("connect", "serve")

_START_TIMEOUT: Final = 10.0


@asynccontextmanager
async def serve() -> AsyncIterator[dict[str, Any]]:
    async with _broker() as url:
        connection = await nats.connect(url)

        async def echo(message: Any) -> None:
            await message.respond(message.data)

        await connection.subscribe("echo", cb=echo)
        await connection.flush()
        yield {"url": url}
        await connection.close()


@asynccontextmanager
async def _broker() -> AsyncIterator[str]:
    """Start a broker on a free port, and end it."""
    program = find_nats_server()
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        options = ("-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder)
        process = await asyncio.create_subprocess_exec(program, *options, stderr=asyncio.subprocess.DEVNULL)
        try:
            yield await asyncio.wait_for(_find_url(Path(folder)), _START_TIMEOUT)
        finally:
            process.terminate()
            await process.wait()


async def _find_url(folder: Path) -> str:
    while not (files := await asyncio.to_thread(lambda: [*folder.glob("*.ports")])):  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.02)
    url: str = json.loads(await asyncio.to_thread(files[0].read_text))["nats"][0]
    return url


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Round]:
    connection = await nats.connect(url)

    async def call(number: int) -> bool:
        content = payload_of(number)
        answer = await connection.request("echo", content, timeout=TIMEOUT)
        return bool(answer.data == content)

    yield partial(drive, call)
    await connection.close()
