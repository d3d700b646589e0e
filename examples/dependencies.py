"""Dependencies: a handler says what it needs, functions give it, and a test puts something else in their place.

python examples/dependencies.py            server and client in one program, for a quick look
python examples/dependencies.py server     in one terminal ...
python examples/dependencies.py client     ... and in another; URL=quic://host:port chooses another address
The client prints who paid and who could not; a payment that fails changes no account. Ctrl-C stops the server.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from echostream import INJECTED, Context, Depends, RpcClient, RpcError, RpcServer, Status, handler, service

URL = os.environ.get("URL", "quic://127.0.0.1:4433")


class Bank:  # stands for a database, with transactions
    def __init__(self) -> None:
        self.accounts = {"ann": 100, "bob": 20}


async def get_bank() -> AsyncIterator[Bank]:
    yield Bank()  # made when the first call asks for it; what stands behind is run when the server stops


async def get_accounts(bank: Annotated[Bank, Depends(get_bank, scope="app")]) -> AsyncIterator[dict[str, int]]:
    accounts = dict(bank.accounts)  # a transaction: a copy, for one call
    yield accounts
    bank.accounts = accounts  # only when the handler did not raise: its error is raised at the yield


def get_payer(ctx: Context, accounts: Annotated[dict[str, int], Depends(get_accounts)]) -> str:
    payer = ctx.metadata.get("payer")
    if not isinstance(payer, str) or payer not in accounts:
        raise RpcError(Status.UNAUTHENTICATED, f"no account of {payer!r}")
    return payer


Accounts = Annotated[dict[str, int], Depends(get_accounts)]  # a name for both keeps signatures short
Payer = Annotated[str, Depends(get_payer)]


@service("money")
class Money:
    @handler
    async def pay(self, to: str, amount: int, *, payer: Payer = INJECTED, accounts: Accounts = INJECTED) -> int:
        accounts[payer] -= amount  # the same accounts that get_payer saw: one call makes them once
        accounts[to] += amount
        if accounts[payer] < 0:
            raise RpcError(Status.FAILED_PRECONDITION, f"{payer} has not got {amount}")
        return accounts[payer]


def make_server() -> RpcServer:
    server = RpcServer(URL)
    server.register(Money())  # circles and parameters that nothing fills would be found here
    return server


async def run_client() -> None:
    async with RpcClient.connect(URL, ca="dev") as client:
        for payer, to, amount in (("ann", "bob", 70), ("ann", "bob", 70), ("bob", "ann", 90), ("eve", "bob", 1)):
            try:
                left = await client.proxy(Money, metadata={"payer": payer}).pay(to, amount)
                print(f"{payer} paid {amount} and has {left} left")
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
