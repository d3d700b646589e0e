"""What a handler may ask about its call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import Context, Principal, Session
from echostream.errors import ConfigurationError
from echostream.session.context import current_deadline, enter_context
from tests.session.world import duo


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with duo() as ends:
        yield ends.there


class Job(Context):
    """A context whose reports are kept."""

    is_call = True

    def __init__(self, session: Session, method: str, reports: list[Any]) -> None:
        super().__init__(session, method)
        self.reports = reports

    def _report(self, *report: Any) -> None:
        self.reports.append(report)


def test_outside_a_handler_there_is_no_context() -> None:
    with pytest.raises(
        LookupError, match=r"no EchoStream handler runs here: Context.current\(\) works inside handlers"
    ):
        Context.current()
    assert current_deadline() is None


async def test_the_current_context_is_the_tasks_own(session: Session) -> None:
    async def inside(name: str) -> str:
        enter_context(Context(session, name, deadline=1.0))
        await asyncio.sleep(0)
        assert current_deadline() == 1.0
        return Context.current().method

    assert await asyncio.gather(*(asyncio.create_task(inside(name)) for name in "ab")) == ["a", "b"]
    with pytest.raises(LookupError):
        Context.current()


async def test_time_left_is_never_below_zero(session: Session) -> None:
    assert Context(session, "a").time_left is None
    assert Context(session, "a").deadline is None
    late = Context(session, "a", deadline=session.loop.time() - 1)
    assert late.time_left == 0.0
    soon = Context(session, "a", deadline=session.loop.time() + 5)
    assert soon.time_left is not None
    assert 4.0 < soon.time_left <= 5.0


async def test_metadata_is_gathered_and_the_first_part_taken_once(session: Session) -> None:
    context = Context(session, "a")
    assert context.metadata == {}
    assert (context.take_initial(), context.trailing) == (None, None)
    context.set_initial_metadata(served_by="x")
    context.set_initial_metadata(key_bin=b"1")
    context.set_trailing_metadata(cost="3")
    context.set_trailing_metadata(cost="4", sum="5")
    assert context.take_initial() == {"served-by": "x", "key-bin": b"1"}
    assert context.take_initial() is None
    assert context.trailing == {"cost": "4", "sum": "5"}


async def test_events_and_streams_report_no_progress(session: Session) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await Context(session, "price").progress(1)
    assert caught.value.message == "progress: price is not a call: only calls report progress"


async def test_progress_rises_and_is_not_reported_too_often(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    context = Job(session, "job", reports)
    now = 10.0
    monkeypatch.setattr(session, "loop", type("Loop", (), {"time": staticmethod(lambda: now)}))
    await context.progress(1)
    await context.progress(2)
    now += 0.11
    await context.progress(3, total=9, message="third")
    await context.progress(9, total=9)
    with pytest.raises(ConfigurationError, match="progress: nan falls behind 9: progress only rises"):
        await context.progress(float("nan"))
    with pytest.raises(ConfigurationError, match="progress: 8 falls behind 9: progress only rises"):
        await context.progress(8)
    assert reports == [(1, None, None), (3, 9, "third"), (9, 9, None)]


async def test_a_context_shows_itself(session: Session) -> None:
    assert repr(Context(session, "a.b")) == f"<Context a.b of session {session.id}>"


async def test_what_the_middlewares_share_is_made_when_it_is_asked_for(session: Session) -> None:
    one, other = Context(session, "a"), Context(session, "b")
    one.state["key"] = 1
    assert (one.state, other.state) == ({"key": 1}, {})


async def test_the_principal_is_the_sessions_unless_somebody_found_another(session: Session) -> None:
    context = Context(session, "a")
    assert context.principal is None
    session.principal = Principal("ann")
    assert context.principal == Principal("ann")
    context.principal = Principal("bob")
    assert (context.principal, Context(session, "b").principal) == (Principal("bob"), Principal("ann"))
    context.principal = None
    assert context.principal is None


async def test_a_deadline_is_only_brought_forward(session: Session) -> None:
    context = Context(session, "a")
    for given, expected in ((5.0, 5.0), (9.0, 5.0), (3.0, 3.0)):
        context.shorten(given)
        assert context.deadline == expected


async def test_only_calls_are_calls(session: Session) -> None:
    assert not Context(session, "a").is_call
    assert Job(session, "a", []).is_call


def test_the_permissions_of_a_principal_are_a_set_of_whatever_was_given() -> None:
    given: Any = ["orders:read", "orders:write"]
    assert Principal("ann", given).permissions == frozenset(given)
    assert hash(Principal("ann", given)) == hash(Principal("ann", frozenset(given)))
