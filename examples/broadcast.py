"""Broadcast: a server sends events to all its clients, and hears events from them.

python examples/broadcast.py            a server and three clients in one program, for a quick look
python examples/broadcast.py server     in one terminal ...
python examples/broadcast.py client     ... and in others, as many as you like; URL=quic://host:port for another address
Each client prints three prices; all see the same ones. The server says how many heard each, until Ctrl-C.
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress
from itertools import count

from pydantic import BaseModel

from echostream import Context, RpcClient, RpcServer, event

URL = os.environ.get("URL", "quic://127.0.0.1:4433")


@event("price.changed")
class PriceChanged(BaseModel):
    symbol: str
    price: float


@event("client.joined")
class Joined(BaseModel):
    name: str


def greet(joined: Joined, ctx: Context) -> None:  # a listener: plain or async, with or without ctx
    print(f"server: {joined.name} is here")


async def send_prices(server: RpcServer) -> None:
    for number in count(1):
        await asyncio.sleep(0.2)
        # Waits for nobody: a client whose network cannot take it now is counted in `result.failed`.
        # where=lambda session: ... would pick some of the sessions.
        result = server.broadcast(PriceChanged(symbol="ACME", price=100 + number / 4))
        if result.sent:
            print(f"server: price sent to {result.sent}")


async def run_client(name: str) -> None:
    prices: asyncio.Queue[PriceChanged] = asyncio.Queue()
    async with RpcClient.connect(URL, ca="dev") as client:
        client.on(PriceChanged, prices.put_nowait)  # returns a function that unsubscribes; "price.*" hears all prices
        # An event has no answer. With ack=True we wait until the listeners of the other side ran, and learn how many.
        ack = await client.emit(Joined(name=name), ack=True)
        print(f"{name}: heard by {ack.listeners} listener")
        for _ in range(3):
            changed = await prices.get()
            print(f"{name}: {changed.symbol} costs {changed.price:.2f}")


async def main(role: str = "both") -> None:
    if role == "client":
        await run_client(f"client {os.getpid()}")
        return
    server = RpcServer(URL)
    server.on(Joined, greet)
    ticker = asyncio.create_task(send_prices(server))
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and clients that come and go
        await server.serve()  # until Ctrl-C
    else:
        async with server:
            await asyncio.gather(run_client("anna"), run_client("ben"), run_client("carl"))
    ticker.cancel()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
