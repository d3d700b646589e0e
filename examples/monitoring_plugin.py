"""What monitoring.py puts into a server: a plugin that counts its calls, and a service that tells how it is.

``RpcServer(plugins=[Monitor()])`` is all that a server of yours needs; watchers find it by the name of the service.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from echostream import Context, EchoStreamError, Middleware, Plugin, Request, Session, Status, handler, service
from echostream.middleware import RequestNext


@dataclass
class Method:
    """How the calls of one method went, since the server started."""

    calls: int = 0
    failed: int = 0  # also what the caller gave up
    seconds: float = 0.0  # all together
    slowest: float = 0.0


@dataclass
class Health:
    sessions: int = 0
    visits: int = 0  # sessions that there have been, the present ones included
    running: int = 0  # calls
    bugs: int = 0  # what handlers raised without meaning to
    methods: dict[str, Method] = field(default_factory=dict[str, Method])


class Counter(Middleware):
    def __init__(self, health: Health) -> None:
        self.health = health

    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        status, begin = Status.INTERNAL, time.perf_counter()
        self.health.running += 1
        try:
            reply = await call_next(request)
            status = Status.OK
            return reply
        except EchoStreamError as error:
            status = error.code
            raise
        finally:
            self.health.running -= 1
            # Peers choose the names: those that no handler has must not take memory here.
            name = "unknown" if status is Status.UNIMPLEMENTED else request.method
            method = self.health.methods.setdefault(name, Method())
            seconds = time.perf_counter() - begin
            method.calls += 1
            method.failed += status is not Status.OK
            method.seconds += seconds
            method.slowest = max(method.slowest, seconds)


@service("monitor")
class Monitor(Plugin):
    def __init__(self) -> None:
        self.health = Health()

    @handler
    async def watch(self, interval: Annotated[float, Field(ge=0.1, le=60.0)] = 1.0) -> AsyncIterator[Health]:
        """Tell how the server is, every `interval` seconds."""
        while True:
            yield self.health
            await asyncio.sleep(interval)

    def targets(self) -> Iterable[object]:
        return [self]

    def middleware(self) -> Iterable[Middleware]:
        return [Counter(self.health)]

    async def on_connect(self, session: Session) -> None:
        self.health.sessions += 1
        self.health.visits += 1

    async def on_disconnect(self, session: Session) -> None:
        self.health.sessions -= 1

    async def on_error(self, error: Exception, context: Context | None) -> None:
        self.health.bugs += 1
