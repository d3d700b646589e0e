"""Sensors: readings in datagrams, each with the time it was taken, and read in step with the clock of the server.

python examples/sensors.py            server and client in one program, for a quick look
python examples/sensors.py server     in one terminal ...
python examples/sensors.py client     ... and in another; URL=quic://host:port chooses another address
A reading that is lost or late is not sent again: the next one is worth more. All of them are accounted for.
"""

import asyncio
import logging
import math
import os
import sys
from contextlib import suppress
from dataclasses import dataclass

from echostream import RpcClient, RpcServer, StreamReceiver, service, stream

URL = os.environ.get("URL", "quic://127.0.0.1:4433")
COUNT, APART = 50, 0.02


@dataclass
class Reading:
    celsius: float


@service("plant")
class Plant:
    @stream("boiler")
    async def on_boiler(self, receiver: StreamReceiver[Reading]) -> None:
        highest = -math.inf
        with suppress(StopAsyncIteration):  # the end of the stream
            while True:
                # Each reading is handed out 100 ms after it was taken, in order, however long its way was.
                timed = await receiver.recv_aligned(frame=APART, latency=0.1)
                highest = max(highest, timed.item.celsius)
        # Nothing is missed without being counted: on the way (lost), or because it came too late to be in step.
        quality = receiver.quality()
        known = quality.received.played + quality.late + quality.lost
        print(f"server: {known} readings accounted for, the highest was {'above' if highest > 90 else 'below'} 90 C")


def make_server() -> RpcServer:
    server = RpcServer(URL)
    server.register(Plant())
    return server


async def run_client() -> None:
    async with (
        RpcClient.connect(URL, ca="dev") as client,
        client.open_stream("boiler", item=Reading, mode="datagram", time_sync=True) as sender,
    ):
        for number in range(COUNT):
            reading = Reading(80 + 15 * math.sin(number / 8))
            await sender.send_with_timestamp(reading, at_ns=client.clock.now_ns())
            await asyncio.sleep(APART)
        sent = sender.quality().sent
        print(f"client: {sent.sent + sent.queued + sent.stale + sent.dropped} readings taken")


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
