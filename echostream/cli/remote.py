"""Calling what only the server knows: a method like a proxy's, made from what its reflection says."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Final

from echostream.binding import bind_handler
from echostream.errors import RpcError, Status
from echostream.introspection.reflection import Reflection
from echostream.introspection.text import properties_of
from echostream.session.proxy import UNSET, CallOptions, ProxyMethod
from echostream_derive import handler_spec

if TYPE_CHECKING:
    from echostream.client import RpcClient
    from echostream.introspection.model import MethodDescription, ServiceDescription

__all__ = ("ITEMS", "describe_method", "describe_server", "remote_method")

ITEMS: Final = "items__"
"""Parameter of a made method that takes the items which the caller sends; no method of a server has one called so."""

_MOST: Final = 4096
"""Services that a server may describe: more would fill the memory of whoever asks."""

_SILENT: Final = (Status.NOT_FOUND, Status.UNIMPLEMENTED, Status.UNAUTHENTICATED, Status.PERMISSION_DENIED)


async def describe_method(client: RpcClient, name: str) -> MethodDescription | None:
    """Ask the server what a method is; None where it does not say, or does not know it."""
    try:
        return await client.proxy(Reflection).describe_method(name)
    except RpcError as error:
        if error.code in _SILENT:
            return None
        raise


async def describe_server(client: RpcClient) -> list[ServiceDescription]:
    """Ask the server for all that it serves.

    Raises:
        RpcError: it does not say, or does not come to an end.
    """
    found: list[ServiceDescription] = []
    try:
        async for item in client.proxy(Reflection).describe():
            found.append(item)
            if len(found) > _MOST:
                break
    except RpcError as error:
        if error.code is not Status.UNIMPLEMENTED:
            raise
        text = "this server tells nobody what it serves (reflection=False): calls by name work all the same"
        raise RpcError(Status.UNIMPLEMENTED, text) from None
    if len(found) > _MOST:
        raise RpcError(Status.RESOURCE_EXHAUSTED, f"the server describes more than {_MOST} services")
    return found


def remote_method(
    client: RpcClient, method: MethodDescription, *, timeout: float | None = UNSET, metadata: Any = None
) -> ProxyMethod:
    """Return something to call like a method of a proxy; its types are open, the server checks them.

    Args:
        client: who to call.
        method: what its reflection says.
        timeout: seconds, None for no deadline; left out, the method's own or the default.
        metadata: short texts sent along.

    Raises:
        RpcError: INTERNAL, what the server says of the method makes no sense.
    """
    answer: Any = AsyncIterator[Any] if method.returns_items else Any

    def streaming() -> Any: ...

    async def single() -> Any: ...

    function: Any = streaming if method.returns_items else single
    function.__name__ = function.__qualname__ = "method"
    try:
        function.__signature__ = inspect.Signature([*_parameters(method)], return_annotation=answer)
    except ValueError as error:
        raise RpcError(Status.INTERNAL, f"the server's description of {method.name} makes no sense: {error}") from None
    binding = bind_handler(handler_spec(function, method.name), owner=None, wire_name=method.name)
    if timeout is UNSET and method.timeout is not None:
        timeout = method.timeout
    return ProxyMethod(client.session, binding, CallOptions(timeout, metadata))


def _parameters(method: MethodDescription) -> Iterator[inspect.Parameter]:
    required = method.arguments.get("required", ())
    names = [*method.positional, *(name for name in properties_of(method.arguments) if name not in method.positional)]
    for name in names:
        by_position = name in method.positional
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if by_position else inspect.Parameter.KEYWORD_ONLY
        default = inspect.Parameter.empty if name in required else None
        yield inspect.Parameter(name, kind, default=default, annotation=Any)
    if method.sends_items:
        yield inspect.Parameter(ITEMS, inspect.Parameter.KEYWORD_ONLY, annotation=AsyncIterator[Any])
