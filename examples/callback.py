"""Callback: the server calls the client, with the same API and the same types.

python examples/callback.py            server and client in one program, for a quick look
python examples/callback.py server     in one terminal ...
python examples/callback.py client     ... and in another; URL=quic://host:port chooses another address
The client prints what it was asked, and then what was served. The server says who comes and goes, until Ctrl-C.
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress

from echostream import INJECTED, Context, RpcClient, RpcServer, handler, service

URL = os.environ.get("URL", "quic://127.0.0.1:4433")


@service("ui")
class Ui:
    """What the client serves: the server asks the person in front of it."""

    @handler
    async def ask(self, question: str, choices: list[str]) -> str:
        print(f"client: {question} {choices}")
        return choices[0]  # a real program would wait for the person here


@service("kitchen")
class Kitchen:
    """What the server serves."""

    @handler
    async def order(self, dish: str, *, ctx: Context = INJECTED) -> str:
        # ctx.session is the connection that this call came on: call back, emit events or open streams there.
        # INJECTED means that the framework fills the parameter in; callers leave it out.
        ui = ctx.session.proxy(Ui)
        side = await ui.ask(f"what goes with {dish}?", ["salad", "chips"])
        return f"{dish} with {side}"


def make_server() -> RpcServer:
    server = RpcServer(URL)
    server.register(Kitchen())
    return server


async def run_client() -> None:
    async with RpcClient.connect(URL, ca="dev") as client:
        client.register(Ui())  # from now on the server may call us, on the same connection
        # The deadline of this call (10 s unless you say otherwise) holds for the calls that it gives rise to as well.
        print("served:", await client.proxy(Kitchen).order("soup"))


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
