"""Middleware: logs, tokens, a rate limit and a layer of one's own, around everything that a server serves.

python examples/middleware.py            server and client in one program, for a quick look
python examples/middleware.py server     in one terminal ...
python examples/middleware.py client     ... and in another; URL=quic://host:port chooses another address
The client prints what it may do as three people. The server logs every call, until Ctrl-C.
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import Any

from echostream import INJECTED, Context, Principal, RateLimit, Retry, RpcClient, RpcError, RpcServer, handler, service
from echostream.middleware import BearerToken, LoggingMiddleware, Middleware, Request, RequestNext, TokenAuthentication

URL = os.environ.get("URL", "quic://127.0.0.1:4433")

TOKENS = {
    "key of ann": Principal("ann", frozenset({"notes:write"})),
    "key of bob": Principal("bob"),
}


class Polite(Middleware):
    """A layer of one's own: what is before `call_next` is on the way in, what is after it on the way out."""

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        request.state["greeting"] = "dear"  # for the layers further in, and for the handler
        reply = await call_next(request)
        return f"{reply}, if you please" if isinstance(reply, str) else reply


@service("notes")
class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    @handler(requires="notes:write")  # checked against the principal that the token stands for
    async def write(self, text: str, *, ctx: Context = INJECTED) -> str:
        self.notes.append(text)
        name = ctx.principal.name if ctx.principal else "nobody"
        return f"note {len(self.notes)} is written, {ctx.state['greeting']} {name}"

    @handler(idempotent=True)
    async def count(self) -> int:
        return len(self.notes)


def make_server() -> RpcServer:
    # The first layer is the outermost: the log has the calls too that the others refuse.
    layers = [LoggingMiddleware(), TokenAuthentication(TOKENS), RateLimit(50, burst=5, by="principal"), Polite()]
    server = RpcServer(URL, middleware=layers)
    server.register(Notes())
    return server


async def run_client() -> None:
    for token in ("key of ann", "key of bob", "key of eve"):
        # Retry waits as long as the rate limit says, and tries again.
        async with RpcClient.connect(URL, ca="dev", middleware=[Retry(), BearerToken(token)]) as client:
            notes = client.proxy(Notes)
            try:
                print(await notes.write("buy soap"))
                counts = [await notes.count() for _ in range(7)]
                print(f"counted {len(counts)} times: {counts[-1]}")
            except RpcError as error:
                print(error)


async def main(role: str = "both") -> None:
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, clients that come and go, and every call
        await make_server().serve()  # until Ctrl-C
    elif role == "client":
        await run_client()
    else:
        async with make_server():
            await run_client()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
