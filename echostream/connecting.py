"""A client in the making: what `connect` and `discover` return, and what is said to those who forget to wait for it."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar

__all__ = ("Connecting",)


class _Closable(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)

_TO_WRITE: Final = "write `async with RpcClient.connect(...) as client:` or `client = await RpcClient.connect(...)`"


class Connecting(Coroutine[Any, Any, T]):
    """What `connect` and `discover` return: await it for a client, or use it as a block that closes the client."""

    __slots__ = ("_client", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._client: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """Go on; part of being a coroutine, so that `create_task` takes it."""
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        """Raise at the point where it waits."""
        return self._coroutine.throw(*args)

    def close(self) -> None:
        """Give up."""
        self._coroutine.close()

    if not TYPE_CHECKING:  # checkers find these slips by themselves, unless somebody defines what is missing

        def __getattr__(self, name: str) -> NoReturn:
            """Say what was forgotten: the commonest slip of all."""
            raise AttributeError(f"not connected yet, so there is no {name!r}: {_TO_WRITE}")

        def __enter__(self) -> NoReturn:
            """Say that connecting takes time."""
            raise TypeError(f"a plain `with` cannot wait for the connection: {_TO_WRITE}")

        def __exit__(self, *_exc_info: object) -> None:
            """Not reached; `with` looks for it before it enters."""

    async def __aenter__(self) -> T:
        self._client = await self._coroutine
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()
