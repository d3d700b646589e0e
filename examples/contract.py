"""Contract: the client knows a Protocol class (weather_contract.py), and nothing of the server's code.

python examples/contract.py            server and client in one program, for a quick look
python examples/contract.py server     in one terminal ...
python examples/contract.py client     ... and in another; URL=quic://host:port chooses another address
The client prints two reports and an error. The server says who comes and goes, until Ctrl-C.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

from weather_contract import Report, Weather

from echostream import RpcClient, RpcError, RpcServer, Status

URL = os.environ.get("URL", "quic://127.0.0.1:4433")


# The server's program


class WeatherStation(Weather):
    """Implements the contract: the decorators stand there, the code stands here."""

    def __init__(self) -> None:
        self._celsius = {"Oslo": 4.0, "Rome": 22.5}

    async def report(self, city: str) -> Report:
        if city not in self._celsius:
            raise RpcError(Status.NOT_FOUND, f"no thermometer in {city}, only in {', '.join(self._celsius)}")
        return Report(city, self._celsius[city])

    async def watch(self, city: str, times: int = 3) -> AsyncIterator[Report]:
        for _ in range(times):
            yield await self.report(city)


def make_server() -> RpcServer:
    server = RpcServer(URL)
    server.register(WeatherStation())
    return server


# The client's program: WeatherStation is not used from here on


async def run_client() -> None:
    async with RpcClient.connect(URL, ca="dev") as client:
        weather = client.proxy(Weather)  # typed as Weather
        print(await weather.report("Oslo"))
        print([report.celsius async for report in weather.watch("Rome", times=2)])
        try:
            await weather.report("Atlantis")
        except RpcError as error:
            print(error)


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
