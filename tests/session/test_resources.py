"""What lives as long as its owner: made once, ended in reverse order, whoever asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from echostream import LocalProtocolError
from echostream.session.resources import Resources
from tests.session.world import duo


@pytest.fixture
def book() -> list[str]:
    return []


def lamp(name: str, book: list[str], *, fails: bool = False) -> Callable[[], AbstractAsyncContextManager[str]]:
    @asynccontextmanager
    async def make() -> AsyncGenerator[str]:
        task = asyncio.current_task()
        await asyncio.sleep(0)
        if fails:
            raise OSError(name)
        book.append(f"{name} on")
        yield name
        assert asyncio.current_task() is task  # it ends where it began
        book.append(f"{name} off")

    return make


async def test_each_is_made_once_and_ended_in_reverse_order(book: list[str]) -> None:
    resources = Resources(asyncio.get_running_loop(), "the house")
    for name in ("a", "b", "a"):
        found = await asyncio.gather(*(resources.get(name, lamp(name, book)) for _ in range(3)))
        assert found == [name] * 3
    assert len(resources) == 2
    await resources.close()
    await resources.close()
    assert book == ["a on", "b on", "b off", "a off"]


async def test_what_fails_is_told_to_all_who_wait_and_forgotten(book: list[str]) -> None:
    resources = Resources(asyncio.get_running_loop(), "the house")
    waiting = [resources.get("a", lamp("a", book, fails=True)) for _ in range(2)]
    assert [type(item) for item in await asyncio.gather(*waiting, return_exceptions=True)] == [OSError, OSError]
    assert len(resources) == 0
    assert await resources.get("a", lamp("a", book)) == "a"
    await resources.close()


async def test_after_the_end_nothing_is_made_and_what_was_being_made_is_given_up(book: list[str]) -> None:
    resources = Resources(asyncio.get_running_loop(), "the house")
    early = asyncio.create_task(resources.get("a", lamp("a", book)))
    await asyncio.sleep(0)
    await resources.close()
    for late in (early, resources.get("b", lamp("b", book))):
        with pytest.raises(LocalProtocolError, match="the house has ended, so nothing that lives as long is made"):
            await late
    assert book == []


async def test_those_of_a_session_end_with_it_and_those_of_the_server_after(book: list[str]) -> None:
    async with duo() as ends:
        session = ends.there
        await session.runtime.resources.get("server", lamp("server", book))
        await session.resources.get("session", lamp("session", book))
        assert book == ["server on", "session on"]
    assert book == ["server on", "session on", "session off", "server off"]
