"""The service: seats are held for ten minutes and then booked, or free again. Its tests are beside it.

It has what makes services hard to test: a database, somebody else's payments, permissions, events, and time.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import BaseModel

from echostream import INJECTED, Context, Depends, Principal, RpcError, RpcServer, Status, event, handler, service

HOLD_SECONDS = 600.0


class Taken(RpcError, code=Status.FAILED_PRECONDITION, reason="seats.taken"):
    """Somebody else has the seat."""


@event("seat.changed")
class SeatChanged(BaseModel):
    seat: str
    free: bool


class Database:  # stands for one
    def __init__(self) -> None:
        self.holder: dict[str, str] = {}
        self.booked: set[str] = set()


class Payments:
    async def charge(self, name: str, cents: int) -> str:
        raise NotImplementedError("the bank has no test account: give the tests something else")


async def get_database() -> AsyncIterator[Database]:
    yield Database()  # opened by the first call, for all of them; what stands behind would close it


async def get_payments() -> Payments:
    return Payments()


Db = Annotated[Database, Depends(get_database, scope="app")]


@service("seats")
class Seats:
    def __init__(self, server: RpcServer) -> None:
        self._server = server

    @handler(raises=[Taken])
    async def hold(self, seat: str, name: str, *, db: Db = INJECTED, ctx: Context = INJECTED) -> float:
        """Keep a seat for somebody; return for how many seconds."""
        if db.holder.get(seat, name) != name:
            raise Taken(f"{seat} is taken")
        db.holder[seat] = name
        self._server.broadcast(SeatChanged(seat=seat, free=False))
        asyncio.get_running_loop().call_later(HOLD_SECONDS, self._release, db, seat, name)
        return HOLD_SECONDS

    @handler(raises=[Taken])
    async def book(
        self, seat: str, name: str, *, db: Db = INJECTED, bank: Annotated[Payments, Depends(get_payments)] = INJECTED
    ) -> str:
        """Pay for a seat that is held; return the receipt."""
        if db.holder.get(seat) != name:
            raise Taken(f"{seat} is not held for {name}")
        receipt = await bank.charge(name, 4500)
        db.booked.add(seat)
        return receipt

    @handler(requires="seats:sell")
    async def takings(self, *, db: Db = INJECTED) -> int:
        return 4500 * len(db.booked)

    def _release(self, db: Database, seat: str, name: str) -> None:
        if seat not in db.booked and db.holder.get(seat) == name:
            del db.holder[seat]
            self._server.broadcast(SeatChanged(seat=seat, free=True))


def authenticate(credentials: str | None) -> Principal | None:
    return Principal("the box office", frozenset({"seats:sell"})) if credentials == "secret" else Principal("a guest")


def make_server(*urls: str) -> RpcServer:
    server = RpcServer(*urls, authenticate=authenticate)
    server.register(Seats(server))
    return server
