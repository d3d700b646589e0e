"""The contract that contract.py uses on both sides: what can be called, without the code that does it.

Put such a module into a package of its own and give it to those who write clients. It needs `echostream_derive` only,
which has no dependencies; no part of the server reaches the client.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from echostream_derive import handler, service


@dataclass
class Report:
    city: str
    celsius: float


@service("weather", version="1.0.0")
class Weather(Protocol):
    @handler(idempotent=True)
    async def report(self, city: str) -> Report: ...

    @handler  # without a body, a streaming method is a plain `def`
    def watch(self, city: str, times: int = 3) -> AsyncIterator[Report]: ...
