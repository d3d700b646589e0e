"""Discovery: a server announces itself on the local network (mDNS), a client finds it without an address.

python examples/discovery.py            server and client in one program, for a quick look
python examples/discovery.py server     in one terminal, or on another machine of the network ...
python examples/discovery.py client     ... and here
URL=quic://127.0.0.1:0 (for the server) stays on this machine.
The client prints whom it sees, where it found the thermometer, and what that says. Ctrl-C stops the server.
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress

from echostream import RpcClient, RpcServer, handler, service

URL = os.environ.get("URL", "quic://0.0.0.0:0")  # every network of this machine, any free port


@service("thermometer", version="1.2.0")
class Thermometer:
    @handler
    async def celsius(self) -> float:
        return 21.5


def make_server() -> RpcServer:
    server = RpcServer(URL)
    server.register(Thermometer())
    # The name is what clients look for; the metadata are short texts that they can choose by.
    # The server says goodbye when it stops, so that clients forget it at once.
    server.enable_discovery("thermometer", metadata={"room": "kitchen"})
    return server


async def run_client() -> None:
    print("seen on the network:")
    for info in await RpcClient.services(timeout=1.0):
        print("  ", info.escaped)  # `escaped` is safe for a terminal: the network wrote this text

    # The certificate's fingerprint comes with the announcement. It is remembered at the first contact with a name (in
    # this user's state folder) and required from then on: another server under the same name is refused.
    # RpcClient.connect(url, ...) is the way where multicast does not reach.
    async with RpcClient.discover("thermometer", version="1", metadata={"room": "kitchen"}) as client:
        print("found at", client.session.peer_address)
        print("temperature:", await client.proxy(Thermometer).celsius())


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
