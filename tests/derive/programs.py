"""Small programs that decorate something, run as a file called shop.py so that error texts are known whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream.errors import RpcError, Status
from echostream.types import INJECTED
from echostream_derive import SignatureError, event, handler, listener, service, stream


class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="orders.out_of_stock"):
    pass


@event("price.changed")
class PriceChanged:
    price: float = 1.0


def execute(source: str, **names: object) -> dict[str, Any]:
    """Run a program whose file is called shop.py, with everything it needs."""
    space: dict[str, Any] = {
        "__name__": "shop",
        "AsyncIterator": AsyncIterator,
        "INJECTED": INJECTED,
        "OutOfStock": OutOfStock,
        "PriceChanged": PriceChanged,
        "RpcError": RpcError,
        "event": event,
        "handler": handler,
        "listener": listener,
        "service": service,
        "stream": stream,
        **names,
    }
    exec(compile(source, "shop.py", "exec", dont_inherit=True), space)
    return space


def refusal(source: str, **names: object) -> str:
    with pytest.raises(SignatureError) as caught:
        execute(source, **names)
    return str(caught.value)
