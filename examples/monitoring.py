"""Monitoring: who is on the network, who is connected, and how the calls go, live in the terminal.

python examples/monitoring.py             a busy server and a watcher in one program, for four seconds
python examples/monitoring.py server      in one terminal, and in more if you like: a server with a busy client ...
python examples/monitoring.py watch       ... and in another: a table that follows all of them, until Ctrl-C
python examples/monitoring.py --json      (and watch --json) lines of JSON instead, as into a file or a pipe
"""

import asyncio
import logging
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from itertools import count

from monitoring_plugin import Monitor
from monitoring_table import Show, display

from echostream import Arrived, EchoStreamError, RpcClient, RpcError, RpcServer, ServiceInfo, Status, handler, service

URL = os.environ.get("URL", "quic://127.0.0.1:0")  # any free port: the watcher finds it


@service("tea")
class Tea:
    @handler
    async def brew(self, cups: int) -> str:
        await asyncio.sleep(cups / 100)
        if cups == 3:
            raise RpcError(Status.OUT_OF_RANGE, "three cups do not fit")  # an answer
        return f"{12 // cups} spoons for {cups}"  # for no cups a bug


async def serve() -> None:
    server = RpcServer(URL, plugins=[Monitor()])
    server.register(Tea())
    server.enable_discovery("tea house", metadata={"process": str(os.getpid())})
    async with server, RpcClient.connect(server.addresses[0], ca="dev") as client:
        for number in count():
            with suppress(RpcError):
                await client.proxy(Tea).brew(number % 5)


async def watch(show: Show) -> None:
    following: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        async for change in RpcClient.browse(name="monitor"):  # every server that has the plugin, whatever its name
            server = change.service
            if task := following.pop(server.id, None):
                task.cancel()
            if isinstance(change, Arrived):
                following[server.id] = group.create_task(follow(server, show))
            else:
                show({"server": server.escaped, "state": "departed"})


async def follow(server: ServiceInfo, show: Show) -> None:
    while True:
        try:
            async with (
                RpcClient.connect(server.urls[0], ca="dev") as client,
                client.stream(client.proxy(Monitor).watch, 0.5) as healths,
            ):
                while True:
                    async with asyncio.timeout(3.0):  # a report is due twice a second: silence says something, too
                        health, trip = await anext(healths), await client.ping()  # one round trip, in seconds
                    show({"server": server.escaped, "state": "up", "round_trip": trip, **asdict(health)})
        except (EchoStreamError, TimeoutError) as error:  # killed, say: on the network's list until it expires there
            show({"server": server.escaped, "state": "lost", "error": str(error) or "silent"})
            await asyncio.sleep(2.0)


async def main(role: str = "both", *options: str) -> None:
    logging.getLogger("echostream.routing").setLevel(logging.CRITICAL)  # the bug is meant
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and clients that come and go
        await serve()  # until Ctrl-C
    with display(as_json="--json" in (role, *options)) as show:
        if role == "watch":
            await watch(show)
        with suppress(TimeoutError):
            async with asyncio.timeout(4.0), asyncio.TaskGroup() as group:
                group.create_task(serve())
                group.create_task(watch(show))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
