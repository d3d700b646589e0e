"""Chat: everybody in the room reads what anybody says, and sees who comes and goes.

python examples/chat.py                   a server, and you as its first guest, in one program
python examples/chat.py server            a server alone ...
python examples/chat.py client NAME       ... and one of these for each person; /quit, Ctrl-D or Ctrl-C leaves
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import closing, nullcontext, suppress

from pydantic import BaseModel

from echostream import INJECTED, Context, RpcClient, RpcError, RpcServer, Session, Status, event, handler, service

URL = os.environ.get("URL", "quic://127.0.0.1:4433")


@event("chat.said")
class Said(BaseModel):
    who: str
    text: str


@service("chat")
class Chat:
    def __init__(self) -> None:
        self.people: dict[Session, str] = {}

    @handler
    async def stay(self, name: str, *, ctx: Context = INJECTED) -> AsyncIterator[str]:
        """Be in the room until this call ends, however it ends; its one item says who is here."""
        if name in self.people.values():
            raise RpcError(Status.ALREADY_EXISTS, f"{name} is here already: choose another name")
        self.people[ctx.session] = name
        try:
            yield ", ".join(sorted(self.people.values()))
            await self.tell("*", f"{name} came in")
            await ctx.session.wait_closed()
        finally:
            del self.people[ctx.session]
            await self.tell("*", f"{name} left")

    @handler
    async def say(self, text: str, *, ctx: Context = INJECTED) -> None:
        await self.tell(self.people[ctx.session], text)

    async def tell(self, who: str, text: str) -> None:
        emits = (session.emit(Said(who=who, text=text)) for session in self.people)
        await asyncio.gather(*emits, return_exceptions=True)


async def talk(name: str, lines: AsyncIterator[str]) -> None:
    async with RpcClient.connect(URL, ca="dev") as client:
        chat = client.proxy(Chat)
        client.on(Said, lambda said: print(f"{name} reads  {said.who}: {said.text}", flush=True))
        async with client.stream(chat.stay, name) as room:
            print(f"{name} meets  {await anext(room)}", flush=True)
            async for line in lines:
                if line == "/quit":
                    break
                await chat.say(line)


async def typed() -> AsyncIterator[str]:
    keyboard = asyncio.StreamReader()  # not in a thread: that would keep Ctrl-C waiting for one more line
    protocol = asyncio.StreamReaderProtocol(keyboard)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    with closing(transport):
        async for line in keyboard:
            yield line.decode().strip()


async def main(role: str = "both", name: str = "host") -> None:
    server = RpcServer(URL)
    server.register(Chat())
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and people who come and go
        await server.serve()  # until Ctrl-C
    else:
        async with server if role == "both" else nullcontext():
            await talk(name, typed())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
