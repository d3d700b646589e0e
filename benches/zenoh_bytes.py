"""zenoh-python in the bench of bytes: `get` on a queryable, directly from one process to the other, in plaintext.

It has no asyncio interface: its threads hand the answers over.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import zenoh

from benches.load import drive
from benches.p04_bytes import payload_of
from benches.typed import TIMEOUT
from benches.worker import Round

__all__ = ("connect", "serve")

_KEY: Final = "bench/echo"


def _open(mode: str, **endpoints: list[str]) -> Any:
    settings: dict[str, Any] = {"mode": mode, "scouting": {"multicast": {"enabled": False}}}
    settings |= {name: {"endpoints": urls} for name, urls in endpoints.items()}
    return zenoh.open(zenoh.Config.from_json5(json.dumps(settings)))


@asynccontextmanager
async def serve() -> AsyncIterator[dict[str, Any]]:
    with socket.socket() as free:  # it does not tell which port it took
        free.bind(("127.0.0.1", 0))
        endpoint = f"tcp/127.0.0.1:{free.getsockname()[1]}"

    def echo(query: Any) -> None:
        query.reply(_KEY, query.payload)

    with _open("peer", listen=[endpoint]) as session:
        session.declare_queryable(_KEY, echo)
        yield {"endpoint": endpoint}


@asynccontextmanager
async def connect(endpoint: str) -> AsyncIterator[Round]:
    loop = asyncio.get_running_loop()
    with _open("client", connect=[endpoint]) as session:

        async def call(number: int) -> bool:
            content = payload_of(number)
            answer: asyncio.Future[bytes] = loop.create_future()

            def take(reply: Any) -> None:
                loop.call_soon_threadsafe(answer.set_result, reply.ok.payload.to_bytes())

            session.get(_KEY, take, payload=content, timeout=TIMEOUT)
            return await asyncio.wait_for(answer, TIMEOUT) == content

        yield partial(drive, call)
