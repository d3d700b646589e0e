"""Services without a server, for `echostream serve`."""

from __future__ import annotations

from echostream import handler, service


@service("shop")
class Shop:
    @handler
    async def open(self) -> bool:
        return True


@service("till")
class Till:
    @handler
    async def sum(self) -> int:
        return 0
