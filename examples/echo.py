"""Echo: the four shapes of a call, from plain function signatures.

python examples/echo.py            server and client in one program, for a quick look
python examples/echo.py server     in one terminal ...
python examples/echo.py client     ... and in another; URL=quic://host:port chooses another address
The client prints what came back in each shape. The server says who comes and goes, until Ctrl-C.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

from echostream import RpcClient, RpcServer, handler, service

URL = os.environ.get("URL", "quic://127.0.0.1:4433")


@service("echo")
class Echo:
    @handler  # one value in, one value out
    async def say(self, text: str) -> str:
        return text

    @handler  # one in, many out: an async generator
    async def repeat(self, text: str, times: int = 3) -> AsyncIterator[str]:
        for _ in range(times):
            yield text

    @handler  # many in, one out: an async iterator among the parameters
    async def join(self, words: AsyncIterator[str]) -> str:
        return " ".join([word async for word in words])

    @handler  # many in, many out, both at the same time
    async def talk(self, words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word.upper()


async def some_words() -> AsyncIterator[str]:
    for word in ("hello", "out", "there"):
        yield word


def make_server() -> RpcServer:
    server = RpcServer(URL)  # shows a development certificate, made on first use
    server.register(Echo())
    return server


async def run_client() -> None:
    # ca="dev" trusts the development certificates of this user on this machine, and nobody else.
    async with RpcClient.connect(URL, ca="dev") as client:
        echo = client.proxy(Echo)  # typed as Echo: your editor completes it, mypy and pyright check it
        print("say:   ", await echo.say("hello"))
        print("repeat:", [text async for text in echo.repeat("hello", times=2)])
        print("join:  ", await echo.join(some_words()))
        print("talk:  ", [word async for word in echo.talk(some_words())])


async def main(role: str = "both") -> None:
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and clients that come and go
        await make_server().serve()  # until Ctrl-C
    elif role == "client":
        await run_client()
    else:
        async with make_server():
            await run_client()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
