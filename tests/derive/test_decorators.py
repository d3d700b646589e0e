"""The decorators mark and return the same object, and refuse what cannot be served with file, line and fix."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from echostream.types import INJECTED
from echostream_derive import (
    CallShape,
    EventSpec,
    HandlerSpec,
    ListenerSpec,
    ServiceSpec,
    StreamSpec,
    event,
    event_name,
    handler,
    is_service,
    listener,
    marks_of,
    service,
    service_spec,
    stream,
)
from tests.derive.programs import OutOfStock, PriceChanged, execute, refusal


@service("orders", version="1.2.3", strict=True)
class Orders:
    """Takes orders."""

    @handler(raises=[OutOfStock])
    async def place(self, order: str) -> int:
        """Place one."""
        return len(order)

    @handler("put", timeout=2.0, idempotent=True, safe=True, requires="orders:write")
    async def store(self, order_id: int, *, ctx: Any = INJECTED) -> None: ...

    @handler(thread=True, timeout=None)
    def hash(self, text: str) -> int:
        return 7

    @handler
    async def watch(self, symbol: str) -> AsyncIterator[float]:
        yield 1.0

    @listener(PriceChanged)
    @listener("stock.*")
    async def on_price(self, changed: PriceChanged) -> None: ...

    @stream("microphone")
    async def on_microphone(self, receiver: object, ctx: object) -> None: ...


# What they leave.


def test_a_decorated_method_is_called_as_it_stands() -> None:
    assert asyncio.run(Orders().place("abc")) == 3
    assert Orders().hash("x") == 7


def test_what_is_safe_is_idempotent() -> None:
    async def look() -> str:
        return ""

    [mark] = marks_of(handler(safe=True)(look))
    assert isinstance(mark, HandlerSpec)
    assert mark.idempotent


def test_a_decorator_returns_the_same_object() -> None:
    async def echo(text: str) -> str:
        return text

    class Plain:
        pass

    async def listening(payload: object) -> None: ...

    assert handler(echo) is echo
    assert event("plain")(Plain) is Plain
    assert service(Plain) is Plain
    assert listener("x")(listening) is listening
    assert stream("y")(listening) is listening


def test_the_mark_of_a_handler_holds_all_that_was_said() -> None:
    [mark] = marks_of(Orders.store)
    assert isinstance(mark, HandlerSpec)
    assert (mark.name, mark.attribute, mark.shape) == ("put", "store", CallShape.UNARY)
    assert (mark.timeout, mark.timeout_set, mark.idempotent, mark.safe) == (2.0, True, True, True)
    assert (mark.requires, mark.raises, mark.thread) == ("orders:write", (), False)
    assert mark.function is Orders.store
    assert mark.location.startswith(f"{__file__}:")


def test_no_deadline_is_told_from_nothing_said() -> None:
    handlers = service_spec(Orders).handlers
    assert (handlers["hash"].timeout, handlers["hash"].timeout_set, handlers["hash"].thread) == (None, True, True)
    assert (handlers["place"].timeout, handlers["place"].timeout_set) == (None, False)


def test_the_mark_of_a_service_holds_its_parts() -> None:
    [mark] = marks_of(Orders)
    assert isinstance(mark, ServiceSpec)
    assert (mark.name, mark.version, mark.strict, mark.doc) == ("orders", "1.2.3", True, "Takes orders.")
    assert list(mark.handlers) == ["place", "store", "hash", "watch"]
    assert mark.handlers["place"].doc == "Place one."
    assert mark.handlers["place"].raises == (OutOfStock,)
    assert [(item.event, item.cls) for item in mark.listeners] == [("stock.*", None), ("price.changed", PriceChanged)]
    assert [(item.name, item.accepts_context) for item in mark.streams] == [("microphone", True)]


def test_methods_and_events_have_marks_and_other_things_none() -> None:
    assert [type(item) for item in marks_of(Orders.on_price)] == [ListenerSpec, ListenerSpec]
    assert [type(item) for item in marks_of(Orders().on_microphone)] == [StreamSpec]
    assert [type(item) for item in marks_of(PriceChanged)] == [EventSpec]
    assert marks_of(print) == marks_of(object()) == marks_of(int) == ()


def test_an_event_is_its_class_alone() -> None:
    class Special(PriceChanged):
        pass

    assert event_name(PriceChanged) == "price.changed"
    assert event_name(Special) is None


@pytest.mark.parametrize(
    "source", ["@service\nclass Shop: ...", "@service()\nclass Shop: ...", "@service(None)\nclass Shop: ..."]
)
def test_a_service_without_a_name_has_that_of_its_class(source: str) -> None:
    shop = execute(source)["Shop"]
    assert is_service(shop)
    assert service_spec(shop).name == "Shop"


@pytest.mark.parametrize(
    ("decorator", "name"),
    [("@handler", "echo"), ("@handler()", "echo"), ('@handler("say.echo")', "say.echo"), ('@handler(name="x")', "x")],
)
def test_a_free_function_has_its_own_name_or_the_given_one(decorator: str, name: str) -> None:
    [mark] = marks_of(execute(f"{decorator}\nasync def echo(text: str) -> str: ...")["echo"])
    assert isinstance(mark, HandlerSpec)
    assert mark.name == name


def test_the_framework_may_use_its_prefix() -> None:
    made = execute('@service("echostream.health.v1.Health")\nclass Health: ...', __name__="echostream.introspection")
    assert service_spec(made["Health"]).name == "echostream.health.v1.Health"


def test_importing_the_package_needs_the_standard_library_alone() -> None:
    root = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import echostream_derive; "
        "print([m for m in sys.modules if m.split('.')[0] in ('echostream', 'pydantic', 'asyncio')])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout.strip() == "[]"


# What they refuse: names.


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            '@service("my orders")\nclass Orders: ...',
            (
                "shop.py:1: Orders: bad name 'my orders'; write letters, digits and _ with single dots between "
                r"([A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)"
            ),
        ),
        ("@service(7)\nclass Orders: ...", "shop.py:1: Orders: expected a name as text, got 7"),
        (
            '@service("echostream.orders")\nclass Orders: ...',
            "shop.py:1: Orders: the name 'echostream.orders' is reserved; start with something else than echostream",
        ),
        (
            '@event("echostream.x")\nclass X: ...',
            "shop.py:1: X: the name 'echostream.x' is reserved; start with something else than echostream",
        ),
        (
            '@handler("echostream.echo")\nasync def echo(text: str) -> str: ...',
            "shop.py:1: echo: the name 'echostream.echo' is reserved; start with something else than echostream",
        ),
        (
            '@stream("echostream.mic")\nasync def mic(receiver): ...',
            "shop.py:1: mic: the name 'echostream.mic' is reserved; start with something else than echostream",
        ),
        (
            'class Orders:\n    @handler("a.b")\n    async def place(self) -> int: ...',
            (
                "shop.py:2: Orders.place: bad name 'a.b'; inside a service a name has letters, digits and _ only "
                "([A-Za-z0-9_]+)"
            ),
        ),
        (
            '@listener("price..x")\ndef on(p): ...',
            (
                "shop.py:1: on: bad event 'price..x'; write letters, digits and _ with single dots between, * for "
                r"a whole part (([A-Za-z0-9_]+|\*)(\.([A-Za-z0-9_]+|\*))*)"
            ),
        ),
        (
            "@listener(int)\ndef on(p): ...",
            'shop.py:1: on: int is not an event; decorate the class with @event("...")',
        ),
        (
            '@service("orders", version="1")\nclass Orders: ...',
            "shop.py:1: Orders: bad version '1'; write SemVer such as \"1.0.0\"",
        ),
        (
            (
                '@service("orders")\nclass Orders:\n'
                '    @handler("x")\n    async def a(self) -> int: ...\n'
                '    @handler("x")\n    async def b(self) -> int: ...'
            ),
            "shop.py:5: orders.x: handlers 'a' and 'b' have the same name; give one of them another",
        ),
        (
            (
                '@service("orders")\nclass Orders:\n'
                '    @stream("x")\n    async def a(self, r): ...\n    @stream("x")\n    async def b(self, r): ...'
            ),
            "shop.py:5: orders.x: streams 'a' and 'b' have the same name; give one of them another",
        ),
    ],
)
def test_a_bad_name_is_refused(source: str, text: str) -> None:
    assert refusal(source) == text


# What they refuse: the thing itself.


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('@service("x")\ndef f(): ...', 'shop.py:1: f: @service marks a class; for a function write @handler("name")'),
        ('@event("x")\ndef f(): ...', "shop.py:1: f: @event marks a class; write a model or a dataclass"),
        ("@handler()\nclass A: ...", "shop.py:1: A: @handler marks a function, not a type"),
        ("@handler\nclass A: ...", "shop.py:1: A: @handler marks a function, not a type"),
        ("@event\nclass A: ...", 'shop.py:1: A: @event is missing its argument; write @event("price.changed")'),
        ("@stream\nasync def s(r): ...", 'shop.py:1: s: @stream is missing its argument; write @stream("microphone")'),
        (
            "@listener\ndef on(p): ...",
            'shop.py:1: on: @listener is missing its argument; write @listener(PriceChanged) or @listener("price.*")',
        ),
        (
            "class A:\n    @handler\n    @staticmethod\n    async def f() -> int: ...",
            "shop.py:2: A.f: @handler is above @staticmethod; make it a plain method with self",
        ),
        (
            "@service\nclass A:\n    @classmethod\n    @handler\n    async def f(cls) -> int: ...",
            "shop.py:3: A.f: is a classmethod; make it a plain method with self",
        ),
        ("@handler\n@handler\nasync def f() -> int: ...", "shop.py:1: f: has two @handler; keep one"),
        ('@stream("x")\ndef s(r): ...', "shop.py:1: s: is a plain function; write async def s(...)"),
    ],
)
def test_the_wrong_thing_is_refused(source: str, text: str) -> None:
    assert refusal(source) == text


# What they refuse: options.


@pytest.mark.parametrize("timeout", ["0", "-1.0", "True", "'2'", "float('nan')", "float('inf')"])
def test_a_timeout_is_seconds_above_zero(timeout: str) -> None:
    text = refusal(f"@handler(timeout={timeout})\nasync def f() -> int: ...")
    assert text == f"shop.py:1: f: bad timeout {eval(timeout)!r}; write seconds above 0, or None for no deadline"


@pytest.mark.parametrize("requires", ["''", "7"])
def test_a_permission_is_text(requires: str) -> None:
    text = refusal(f"@handler(requires={requires})\nasync def f() -> int: ...")
    assert text == f'shop.py:1: f: bad requires={requires}; write a permission such as "orders:write"'


@pytest.mark.parametrize(("item", "shown"), [("ValueError", "ValueError"), ("RpcError", "RpcError"), ("7", "7")])
def test_an_error_without_a_reason_cannot_be_raised_again(item: str, shown: str) -> None:
    assert refusal(f"@handler(raises=[{item}])\nasync def f() -> int: ...") == (
        f"shop.py:1: f: raises= lists {shown}, which the other side could not tell from others; "
        f'write class {shown}(RpcError, code=..., reason="...")'
    )


def test_two_errors_with_one_reason_are_refused() -> None:
    source = "class Other(OutOfStock): ...\n@handler(raises=[OutOfStock, Other])\nasync def f() -> int: ..."
    assert refusal(source) == (
        "shop.py:2: f: raises= lists two classes with the reason 'orders.out_of_stock'; give one of them another"
    )
