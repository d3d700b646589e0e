"""Who listens to which event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from echostream import event
from echostream.errors import ConfigurationError
from echostream.session import listeners
from echostream.session.listeners import Listener, ListenerTable, event_key


@event("price.changed")
@dataclass
class Price:
    price: float


class DiscountPrice(Price):
    """No event: marks live in the class itself."""


def _names(table: ListenerTable, name: str) -> list[str]:
    return [listener.name.rpartition(".")[2] for listener in table.match(name)]


def first(payload: Any) -> None: ...


def second(payload: Any, ctx: Any) -> None: ...


def test_listeners_are_found_by_class_name_and_pattern_in_order() -> None:
    table = ListenerTable()
    table.add("price.*", second)
    table.add(Price, first)
    table.add("other", first)
    assert _names(table, "price.changed") == ["first", "second"]
    assert _names(table, "price.other") == ["second"]
    assert _names(table, "other") == ["first"]
    assert _names(table, "unknown") == []


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("*", ["a", "a.b"], []),
        ("price.*", ["price.a", "price.a.b", "price."], ["price", "Price.a"]),
        ("*.changed", ["price.changed"], ["changed"]),
        ("a?c", ["abc"], ["ac"]),
        ("a[xy]", ["ax", "ay"], ["az", "a[xy]"]),
    ],
)
def test_wildcards_stand_for_any_characters(pattern: str, hits: list[str], misses: list[str]) -> None:
    table = ListenerTable()
    table.add(pattern, first)
    assert all(table.match(name) for name in hits)
    assert not any(table.match(name) for name in misses)


def test_off_unsubscribes_once() -> None:
    table = ListenerTable()
    offs = [table.add(pattern, first) for pattern in ("a", "a", "a*", "b")]
    assert len(table.match("a")) == 3
    for left, off in zip((2, 1, 0, 0), offs, strict=True):
        off()
        off()
        assert len(table.match("a")) == left
    assert table.match("b") == ()


def test_the_parents_listeners_come_first_and_count_for_all_children() -> None:
    parent = ListenerTable()
    one, two = ListenerTable(parent), ListenerTable(parent)
    one.add("a", second)
    assert _names(one, "a") == ["second"]
    off = parent.add("a", first)
    assert _names(one, "a") == ["first", "second"]
    assert _names(two, "a") == ["first"]
    off()
    assert (_names(one, "a"), _names(two, "a")) == (["second"], [])


def test_the_class_of_an_event_is_known_where_it_was_given_or_in_the_parent() -> None:
    parent = ListenerTable()
    child = ListenerTable(parent)
    assert child.binding("price.changed") is None
    parent.add(Price, first)
    binding = child.binding("price.changed")
    assert binding is not None
    assert binding.cls is Price
    assert parent.binding("other") is None


def test_names_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_MAX_CACHED", 3)
    table = ListenerTable()
    table.add("*", first)
    for number in range(20):
        assert table.match(f"name{number}")
        assert table.match(f"name{number}") is table.match(f"name{number}")
        assert len(table._cache) <= 3


@pytest.mark.parametrize(
    ("given", "shown"), [(int, "int"), (DiscountPrice, "DiscountPrice"), ("", "''"), (7, "7"), (None, "None")]
)
def test_what_is_no_event_is_refused(given: Any, shown: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        event_key(given)
    assert caught.value.message == (
        f'event: {shown} is no event: decorate the class with @event("name"), or give a name'
    )


class _Callable:
    def __call__(self, payload: Any) -> None: ...

    def method(self, payload: Any, ctx: Any) -> None: ...


def _keyword(payload: Any, *, flag: bool = False) -> None: ...


def _all(*args: Any) -> None: ...


def _optional(payload: Any, extra: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("callback", "arguments"),
    [
        (first, 1),
        (second, 2),
        (_Callable(), 1),
        (_Callable().method, 2),
        (lambda payload: None, 1),
        (lambda payload, ctx: None, 2),
        (_keyword, 1),
        (_all, 1),
        (_optional, 1),
        ([].append, 1),
        (print, 1),
        (dict, 1),
    ],
)
def test_callbacks_take_the_payload_or_the_context_too(callback: Any, arguments: int) -> None:
    table = ListenerTable()
    table.add("a", callback)
    assert table.match("a")[0].takes_context is (arguments == 2)


def _nothing() -> None: ...


def _three(a: Any, b: Any, c: Any) -> None: ...


def _needs(payload: Any, *, flag: bool) -> None: ...


@pytest.mark.parametrize("callback", [_nothing, _three, _needs])
def test_other_callbacks_are_refused(callback: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ListenerTable().add("a", callback)
    assert caught.value.message == f"callback: {callback.__name__} for 'a' must take (payload) or (payload, ctx)"


def test_without_a_callback_a_function_is_decorated_and_stays_as_it_is() -> None:
    table = ListenerTable()
    assert table.subscribe(Price)(first) is first
    assert table.subscribe("other", once=True)(second) is second
    assert [(item.callback, item.once) for item in table] == [(first, False), (second, True)]
    table.subscribe("other", first)()
    assert len([*table]) == 2


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (int, 'event: int is no event: decorate the class with @event("name"), or give a name'),
        (first, 'event: first is a function: name the event first, on("name", first), or above it, @client.on("name")'),
    ],
)
def test_a_decorator_for_no_event_is_refused_in_its_own_line(event: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ListenerTable().subscribe(event)
    assert caught.value.message == message


def test_the_result_of_a_callback_that_was_called_is_no_decorator() -> None:
    with pytest.raises(ConfigurationError, match="callback: None for 'a' is no function, plain or async"):
        ListenerTable().subscribe("a", first(1))  # type: ignore[func-returns-value]


def test_a_decorator_refuses_what_cannot_listen() -> None:
    with pytest.raises(ConfigurationError, match=r"_nothing for 'a' must take \(payload\) or \(payload, ctx\)"):
        ListenerTable().subscribe("a")(_nothing)


def test_a_listener_calls_its_callback_as_it_wants_it() -> None:
    seen: list[Any] = []

    def keyword(payload: Any, *, where: Any) -> None:
        seen.append((payload, where))

    def called(callback: Any, **options: Any) -> None:
        Listener("a", callback, once=False, **options).call("payload", "context")

    called(seen.append, takes_context=False)
    called(lambda payload, ctx: seen.append((payload, ctx)), takes_context=True)
    called(keyword, takes_context=True, context_keyword="where")
    assert seen == ["payload", ("payload", "context"), ("payload", "context")]


def test_a_listener_that_no_table_has_can_be_removed() -> None:
    listener = Listener("a", first, once=True, takes_context=False)
    listener.remove()
    assert listener.active
