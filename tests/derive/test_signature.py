"""Which parameter is what, and which signatures cannot be served."""

from __future__ import annotations

import collections.abc
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from functools import wraps
from typing import Annotated, Any, Optional

import pytest

from echostream.types import INJECTED
from echostream_derive import (
    CallShape,
    HandlerSpec,
    ParameterRole,
    Scope,
    SignatureError,
    dependency_of,
    handler,
    handler_spec,
    is_context,
    is_items,
    listener_spec,
    service,
    service_spec,
)
from tests.derive.programs import execute, refusal


class Context:
    __echostream_role__ = "context"


def spec_of(source: str, **names: object) -> HandlerSpec:
    space = execute(source, Context=Context, Annotated=Annotated, Any=Any, **names)
    return handler_spec(space["f"])


# Shapes.


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("async def f(a: int) -> int: ...", CallShape.UNARY),
        ("async def f(a: int) -> AsyncIterator[int]:\n    yield a", CallShape.SERVER_STREAMING),
        ("def f(a: int) -> AsyncIterator[int]: ...", CallShape.SERVER_STREAMING),
        ("async def f(items: AsyncIterator[int]) -> int: ...", CallShape.CLIENT_STREAMING),
        ("async def f(items: AsyncIterator[int]) -> AsyncIterator[int]:\n    yield 1", CallShape.BIDIRECTIONAL),
        ("def f(items: AsyncIterator[int]) -> AsyncIterator[int]: ...", CallShape.BIDIRECTIONAL),
    ],
)
def test_the_shape_follows_from_the_signature(source: str, shape: CallShape) -> None:
    for head in ("", "from __future__ import annotations\n"):
        assert spec_of(f"{head}@handler\n{source}").shape is shape


@pytest.mark.parametrize("shape", list(CallShape))
def test_a_shape_knows_who_sends_items(shape: CallShape) -> None:
    assert CallShape.of(sends_items=shape.sends_items, returns_items=shape.returns_items) is shape


@pytest.mark.parametrize(
    "annotation",
    [
        AsyncIterator[int],
        AsyncIterable[int],
        AsyncGenerator[int, None],
        typing.AsyncIterator[int],
        typing.AsyncIterable[int],
        typing.AsyncGenerator[int, None],
        collections.abc.AsyncIterator,
        "AsyncIterator[Later]",
        "typing.AsyncIterable[Later]",
        "'collections.abc.AsyncGenerator[Later, None]'",
    ],
)
def test_every_spelling_of_a_stream_of_items_is_known(annotation: object) -> None:
    assert is_items(annotation)


@pytest.mark.parametrize("annotation", [int, list[int], "list[AsyncIterator[int]]", "MyAsyncIterator", None])
def test_other_types_are_no_stream_of_items(annotation: object) -> None:
    assert not is_items(annotation)


def test_a_type_that_exists_later_does_not_hide_the_shape() -> None:
    spec = spec_of(
        "from __future__ import annotations\n@handler\n"
        "async def f(a: Later, items: AsyncIterator[Later], *, ctx: Context) -> AsyncIterator[Later]:\n    yield a"
    )
    assert [item.role for item in spec.parameters] == [
        ParameterRole.ARGUMENT,
        ParameterRole.ITEMS,
        ParameterRole.CONTEXT,
    ]
    assert spec.parameters[0].annotation == "Later"
    assert spec.shape is CallShape.BIDIRECTIONAL


# Parameters.


def test_a_parameter_says_how_it_is_passed() -> None:
    spec = spec_of("@handler\nasync def f(a: int, /, b: str = 'x', *, c: None = None) -> int: ...")
    found = [(p.name, p.positional_only, p.keyword_only, p.has_default, p.default) for p in spec.parameters]
    assert found == [("a", True, False, False, None), ("b", False, False, True, "x"), ("c", False, True, True, None)]


@pytest.mark.parametrize(
    "parameter",
    [
        "ctx: Context",
        "*, ctx: Context = INJECTED",
        "*, ctx: Any = INJECTED",
        "*, ctx: object = INJECTED",
        "*, ctx: 'Context' = INJECTED",
        "*, ctx: 'core.Context' = INJECTED",
        "*, ctx: Context | None = None",
        "*, ctx: Annotated[Context, 1] = INJECTED",
        "*, ctx: 'Unknown' = INJECTED",
    ],
)
def test_every_form_of_context_is_known(parameter: str) -> None:
    [found] = spec_of(f"@handler\nasync def f({parameter}) -> int: ...").parameters
    assert found.role is ParameterRole.CONTEXT


class Marker:
    """What `echostream.Depends` is to this package: an object with a role."""

    __echostream_role__ = "dependency"

    def __init__(self, function: object) -> None:
        self.function = function


@pytest.mark.parametrize(
    "parameter",
    [
        "*, db: Annotated[int, Depends(1)] = INJECTED",
        "*, db: 'Annotated[int, Depends(1)]' = INJECTED",
        "*, db: 'Annotated[Unknown, core.Depends(1)]' = INJECTED",
        "db: Annotated[int, Depends(1)]",
        "db: Annotated[int, 'doc', Depends(1)] = INJECTED",
        "*, db: Db = INJECTED",
    ],
)
def test_every_form_of_a_dependency_is_known(parameter: str) -> None:
    source = f"@handler\nasync def f(ctx: Context, {parameter}) -> int: ..."
    context, found = spec_of(source, Depends=Marker, Db=Annotated[int, Marker(1)]).parameters
    assert (context.role, found.role) == (ParameterRole.CONTEXT, ParameterRole.DEPENDENCY)


def test_an_injected_type_that_exists_later_may_turn_out_to_be_a_dependency() -> None:
    source = "@handler\nasync def f(ctx: Context, *, db: 'Later' = INJECTED) -> int: ..."
    assert [item.role for item in spec_of(source).parameters] == [ParameterRole.CONTEXT, ParameterRole.CONTEXT]


def test_a_callback_may_have_dependencies() -> None:
    def callback(payload: int, ctx: Context, *, db: Annotated[int, Marker(1)]) -> None: ...

    spec = listener_spec(callback, "thing", scope=Scope(local=vars() | {"Marker": Marker}))
    assert (spec.accepts_context, spec.context_keyword, list(spec.dependencies)) == (True, None, ["db"])


def test_a_dependency_is_filled_by_name() -> None:
    with pytest.raises(SignatureError, match="parameter 'db' is filled by name; move it behind the /"):
        spec_of("@handler\nasync def f(db: Annotated[int, Depends(1)], /) -> int: ...", Depends=Marker)


@pytest.mark.parametrize(
    "parameter", ["db: int = Depends(1)", "db=Depends(1)", "db: Annotated[int, Depends(1)] = Depends(1)"]
)
@pytest.mark.parametrize(
    "kind", ["@handler\nasync def f({}) -> int: ...", "@listener('e')\ndef f(payload, {}) -> None: ..."]
)
def test_a_dependency_is_no_default(kind: str, parameter: str) -> None:
    assert refusal(kind.format(parameter), Depends=Marker, Annotated=Annotated) == (
        "shop.py:1: f: parameter 'db' has Depends as its default; write db: Annotated[T, Depends(function)] = INJECTED"
    )


def test_a_dependency_says_on_what() -> None:
    source = "@handler\nasync def f(*, db: Annotated[int, Depends] = INJECTED) -> int: ..."
    assert refusal(source, Depends=Marker, Annotated=Annotated) == (
        "shop.py:1: f: parameter 'db' does not say what it depends on; write Annotated[T, Depends(function)]"
    )


def test_a_dependency_is_found_by_its_role() -> None:
    marker = Marker(1)
    assert dependency_of(Annotated[int, "text", marker]) is marker
    for other in (int, Annotated[int, 1], None, "Annotated[int, Depends(f)]"):
        assert dependency_of(other) is None


def test_a_class_of_the_user_that_is_called_context_is_an_argument() -> None:
    class Mine:
        pass

    [found] = handler_spec(execute("@handler\nasync def f(c: 'Context') -> int: ...", Context=Mine)["f"]).parameters
    assert found.role is ParameterRole.ARGUMENT


def test_context_is_known_by_its_role() -> None:
    assert is_context(Context)
    assert is_context(Optional[Context])  # noqa: UP045 - the old spelling too
    assert is_context("Context | None")
    assert not is_context(int)
    assert not is_context("ContextFree")


# Refusals.


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("async def f(x) -> int: ...", "parameter 'x' has no annotation; write x: int"),
        ("async def f(*, ctx) -> int: ...", "parameter 'ctx' has no annotation; write ctx: Context = INJECTED"),
        ("async def f(*, c=INJECTED) -> int: ...", "parameter 'c' has no annotation; write c: Context = INJECTED"),
        ("async def f(x: int): ...", "the result has no annotation; write -> None, or the type that it returns"),
        ("async def f(*args: int) -> int: ...", "parameter '*args' takes anything; name each argument and its type"),
        ("async def f(**kw: int) -> int: ...", "parameter '**kw' takes anything; name each argument and its type"),
        *(
            (
                f"async def f({name}: int) -> int: ...",
                f"the parameter name {name!r} is reserved for options of a call; rename it",
            )
            for name in ("returns", "timeout", "metadata", "retry", "idempotency_key")
        ),
        (
            "async def f(a: AsyncIterator[int], b: AsyncIterator[int]) -> int: ...",
            "parameter 'b' is a second stream of items beside 'a'; keep one",
        ),
        (
            "async def f(*, a: Context, b: Any = INJECTED) -> int: ...",
            "parameter 'b' is a second context beside 'a'; keep one",
        ),
        (
            "async def f(*, ctx: int = INJECTED) -> int: ...",
            (
                "parameter 'ctx' is injected but int is no Context; "
                "write ctx: Context = INJECTED, or Annotated[int, Depends(...)]"
            ),
        ),
        (
            "async def f(items: AsyncIterator[int], /) -> int: ...",
            "parameter 'items' is filled by name; move it behind the /",
        ),
        (
            "async def f(items: AsyncIterator[int] = None) -> int: ...",
            "parameter 'items' is the stream of items and is always there; drop its default",
        ),
        ("def f(x: int) -> int: ...", "is a plain function; write async def f(...), or @handler(thread=True)"),
        (
            "def f(x: int) -> int:\n    yield x",
            "a plain generator cannot be served; write async def f(...) -> AsyncIterator[...]",
        ),
        (
            "async def f(x: int) -> int:\n    yield x",
            "yields items, so its result is a stream; write -> AsyncIterator[...]",
        ),
        (
            "async def f(x: int) -> AsyncIterator[int]: ...",
            "is declared to return items but yields none; yield in it, or write def f(...) in a contract",
        ),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused(source: str, problem: str) -> None:
    assert refusal(f"@handler\n{source}", Context=Context, Any=Any) == f"shop.py:1: f: {problem}"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("async def f() -> int: ...", "is async and needs no thread; drop thread=True, or write def f(...)"),
        (
            "async def f() -> AsyncIterator[int]:\n    yield 1",
            "is async and needs no thread; drop thread=True, or write def f(...)",
        ),
        (
            "def f() -> AsyncIterator[int]: ...",
            "a thread cannot stream items; drop thread=True and write async def f(...)",
        ),
        (
            "def f(items: AsyncIterator[int]) -> int: ...",
            "a thread cannot stream items; drop thread=True and write async def f(...)",
        ),
    ],
)
def test_a_thread_takes_plain_functions_alone(source: str, problem: str) -> None:
    assert refusal(f"@handler(thread=True)\n{source}") == f"shop.py:1: f: {problem}"


def test_a_fault_of_a_method_names_its_class() -> None:
    assert refusal("class Orders:\n    @handler\n    async def place(self, x) -> int: ...") == (
        "shop.py:2: Orders.place: parameter 'x' has no annotation; write x: int"
    )


@pytest.mark.parametrize("parameters", ["", "*, a: int"])
def test_a_method_without_self_is_refused(parameters: str) -> None:
    assert refusal(f"class Orders:\n    @handler\n    async def place({parameters}) -> int: ...") == (
        "shop.py:2: Orders.place: a method of a class needs self; write place(self, ...)"
    )


# Where annotations are looked up.


def test_names_of_the_functions_around_are_seen_at_decoration() -> None:
    class Local:
        pass

    @handler
    async def f(a: Local) -> Local:
        return a

    spec = handler_spec(f)
    assert (spec.parameters[0].annotation, spec.result) == (Local, Local)


def test_a_method_called_like_a_builtin_does_not_hide_it() -> None:
    @service
    class Shelf:
        class Book:
            pass

        @handler
        async def list(self) -> list[Shelf.Book]:
            raise NotImplementedError

        @handler
        async def get(self, book: Book) -> dict[str, int]:
            return {}

    handlers = service_spec(Shelf).handlers
    assert handlers["get"].parameters[0].annotation is Shelf.Book
    assert handlers["list"].result == "list[Shelf.Book]"  # Shelf itself comes to be after its methods


def test_a_wrapper_shows_the_signature_that_it_wraps() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    @handler
    @logged
    async def f(a: int) -> int:
        return a

    assert [(item.name, item.annotation) for item in handler_spec(f).parameters] == [("a", int)]


def test_a_forward_reference_is_judged_by_its_text() -> None:
    async def f(items: object) -> int:
        return 1

    f.__annotations__["items"] = typing.ForwardRef("AsyncIterator[Later]")
    [found] = handler_spec(f).parameters
    assert (found.role, found.annotation) == (ParameterRole.ITEMS, "AsyncIterator[Later]")


# Callbacks.


def on_payload(payload: int) -> None: ...
async def on_payload_async(payload: int) -> None: ...
def on_both(payload: int, ctx: Context) -> None: ...
def on_keyword(payload: int, *, ctx: Context) -> None: ...
def on_injected(payload: int, *, ctx: Any = INJECTED) -> None: ...
def on_default(payload: int, extra: int = 3, *rest: int, flag: bool = False, **more: int) -> None: ...
def on_default_context(payload: int, ctx: Context | None = None) -> None: ...
def on_anything(*args: int) -> None: ...


class Calling:
    async def __call__(self, payload: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "context", "keyword", "is_async"),
    [
        (on_payload, False, None, False),
        (on_payload_async, False, None, True),
        (on_both, True, None, False),
        (on_keyword, True, "ctx", False),
        (on_injected, True, "ctx", False),
        (on_default, False, None, False),
        (on_default_context, True, None, False),
        (on_anything, False, None, False),
        (lambda payload: None, False, None, False),
        (lambda payload, ctx: None, True, None, False),
        ([].append, False, None, False),
        (dict, False, None, False),
        (Calling(), False, None, True),
    ],
)
def test_a_callback_takes_a_payload_and_perhaps_the_context(
    function: Callable[..., Any], context: bool, keyword: str | None, is_async: bool
) -> None:
    spec = listener_spec(function, "x")
    assert (spec.accepts_context, spec.context_keyword, spec.is_async) == (context, keyword, is_async)


def no_payload() -> None: ...
def keyword_payload(*, payload: int) -> None: ...
def three(payload: int, ctx: Context, third: int) -> None: ...
def second_keyword(payload: int, *, other: int) -> None: ...
def context_first(ctx: Context, payload: int) -> None: ...
def no_context(payload: int, rate: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_payload, "takes no payload; write no_payload(payload) or no_payload(payload, ctx)"),
        (keyword_payload, "takes no payload; write keyword_payload(payload) or keyword_payload(payload, ctx)"),
        (three, "parameter 'third': a callback takes (payload) or (payload, ctx); remove it"),
        (context_first, "parameter 'ctx': the context comes second; a callback takes (payload) or (payload, ctx)"),
        (no_context, "parameter 'rate': would get the context; a callback takes (payload) or (payload, ctx)"),
        (second_keyword, "parameter 'other': a callback takes (payload) or (payload, ctx); remove it"),
    ],
)
def test_a_callback_that_wants_something_else_is_refused(function: Callable[..., Any], problem: str) -> None:
    with pytest.raises(SignatureError) as caught:
        listener_spec(function, "x")
    line = function.__code__.co_firstlineno
    assert str(caught.value) == f"{__file__}:{line}: {function.__name__}: {problem}"
