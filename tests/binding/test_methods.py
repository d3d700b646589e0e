"""One method on both sides: arguments bound by name, items, results, and what each says when they do not fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, field_validator, model_serializer

from echostream.binding import MethodBinding, TypeCodec, bind_handler
from echostream.errors import InvalidArgumentError, RpcError, Status
from echostream.types import INJECTED
from echostream_derive import CallShape, SignatureError, handler, handler_spec


class Context:
    __echostream_role__ = "context"


class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="orders.out_of_stock"):
    pass


class Order(BaseModel):
    symbol: str
    qty: int = Field(gt=0)


class Receipt(BaseModel):
    id: int
    note: str = ""

    @field_validator("note")
    @classmethod
    def _known(cls, note: str) -> str:
        if note == "secret":
            raise ValueError(f"bad note {note}")
        return note


@handler(raises=[OutOfStock])
async def place(order: Order) -> Receipt:
    return Receipt(id=order.qty)


@handler
async def add(a: int, b: int = 0) -> int:
    return a + b


@handler
async def mixed(a: int, /, b: str, c: float = 1.0, *, d: bool, e: Order | None = None) -> None: ...


@handler
async def two_named(*, a: int, b: int) -> None: ...


@handler
async def nothing() -> None: ...


@handler
async def upload(name: str, items: AsyncIterator[Order], size: int = 0, *, ctx: Context = INJECTED) -> int:
    return size


@handler
async def upload_named(*, items: AsyncIterator[int]) -> int:
    return 0


@handler
async def tail(ctx: Context, name: str, lines: int = 10) -> AsyncIterator[Receipt]:
    yield Receipt(id=1)


def bound(function: Any, *, strict: bool = False) -> MethodBinding:
    spec = handler_spec(function)
    return bind_handler(spec, owner=None, wire_name=f"orders.{spec.name}", strict=strict)


def faults(binding: MethodBinding, positional: list[Any], keyword: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidArgumentError) as caught:
        binding.decode_arguments(positional, keyword)
    assert caught.value.operation == binding.name
    return caught.value.violations


# The serving side: arguments.


@pytest.mark.parametrize(
    ("function", "positional", "keyword", "expected"),
    [
        (add, [1], {}, ([1], {})),
        (add, ["1"], {}, ([1], {})),
        (add, [1, 2], {}, ([1, 2], {})),
        (add, [1], {"b": "2"}, ([1], {"b": 2})),
        (add, [], {"b": 2, "a": 1}, ([], {"a": 1, "b": 2})),
        (place, [{"symbol": "A", "qty": 1}], {}, ([Order(symbol="A", qty=1)], {})),
        (place, [], {"order": {"symbol": "A", "qty": 1}}, ([], {"order": Order(symbol="A", qty=1)})),
        (mixed, [1, "x"], {"d": True}, ([1, "x"], {"d": True})),
        (mixed, [1], {"b": "x", "d": 0, "e": None}, ([1], {"b": "x", "d": False, "e": None})),
        (nothing, [], {}, ([], {})),
    ],
)
def test_arguments_are_bound_by_name_and_validated(
    function: Any, positional: list[Any], keyword: dict[str, Any], expected: tuple[list[Any], dict[str, Any]]
) -> None:
    assert bound(function).decode_arguments(positional, keyword) == expected


def test_arguments_behind_an_injected_parameter_become_keywords() -> None:
    assert bound(upload).decode_arguments(["x", 3], {}) == (["x"], {"size": 3})
    assert bound(tail).decode_arguments(["x"], {}) == ([], {"name": "x"})
    assert bound(tail).decode_arguments(["x"], {"lines": 2}) == ([], {"name": "x", "lines": 2})


async def test_decoded_arguments_call_the_function() -> None:
    binding = bound(upload)
    args, kwargs = binding.decode_arguments(["x", 3], {})
    assert (binding.items_parameter, binding.context_parameter) == ("items", "ctx")
    assert await upload(*args, **{**kwargs, "items": aiter_of(1), "ctx": None}) == 3


@pytest.mark.parametrize(
    ("function", "positional", "keyword", "expected"),
    [
        (add, [], {}, [("/a", "missing")]),
        (add, [1, 2, 3], {}, [("", "takes 2 positional arguments, got 3")]),
        (nothing, [1], {}, [("", "takes 0 positional arguments, got 1")]),
        (two_named, [1], {}, [("", "takes 0 positional arguments, got 1"), ("/a", "missing"), ("/b", "missing")]),
        (add, [1], {"a": 2}, [("/a", "given twice, by position and by name")]),
        (add, [1], {"c": 2}, [("/c", "unknown argument")]),
        (add, [1], {"a/b~c": 2}, [("/a~1b~0c", "unknown argument")]),
        (add, [1], {7: 2}, [("/7", "unknown argument")]),
        (add, [1], {"x" * 1000: 2}, [("/" + "x" * 64, "unknown argument")]),
        (upload, ["x"], {"items": 1}, [("/items", "unknown argument")]),
        (upload, ["x"], {"ctx": 1}, [("/ctx", "unknown argument")]),
        (mixed, [], {"a": 1, "b": "", "d": True}, [("/a", "unknown argument"), ("/a", "missing")]),
        (mixed, [1, "x"], {}, [("/d", "missing")]),
        (
            add,
            [],
            {"b": "x"},
            [("/a", "missing"), ("/b", "input should be a valid integer, unable to parse string as an integer")],
        ),
        (place, [{"symbol": "A"}], {}, [("/order/qty", "field required")]),
        (place, [{"symbol": "A", "qty": 0}], {}, [("/order/qty", "input should be greater than 0")]),
        (
            place,
            [7],
            {},
            [("/order", "input should be a valid dictionary or instance of Order")],
        ),
        (
            mixed,
            [1, "x"],
            {"d": True, "e": {"symbol": 1, "qty": 1}},
            [("/e/symbol", "input should be a valid string")],
        ),
    ],
)
def test_every_fault_of_the_arguments_is_named_with_its_path(
    function: Any, positional: list[Any], keyword: dict[Any, Any], expected: list[tuple[str, str]]
) -> None:
    assert faults(bound(function), positional, keyword) == expected


def test_the_text_of_a_refusal_names_method_path_and_reason() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        bound(place).decode_arguments([{"symbol": "A", "qty": 0}], {})
    assert str(caught.value) == (
        "orders.place: INVALID_ARGUMENT: invalid orders.place: /order/qty: input should be greater than 0"
    )


def test_a_strict_service_takes_exact_types() -> None:
    assert bound(add, strict=True).decode_arguments([1], {}) == ([1], {})
    assert faults(bound(add, strict=True), ["1"], {}) == [("/a", "input should be a valid integer")]


# The serving side: items and results.


def test_items_are_validated() -> None:
    assert bound(upload).decode_item({"symbol": "A", "qty": 1}) == Order(symbol="A", qty=1)
    assert bound(upload_named).decode_item(7) == 7
    with pytest.raises(InvalidArgumentError) as caught:
        bound(upload).decode_item({"symbol": "A", "qty": "many"})
    assert caught.value.violations == [
        ("/items/qty", "input should be a valid integer, unable to parse string as an integer")
    ]


@pytest.mark.parametrize("function", [place, add, mixed, two_named, nothing])
@pytest.mark.parametrize(
    "wire",
    [
        [[], {}],
        [[5], {}],
        [["5"], {}],
        [["x"], {}],
        [[{"symbol": "A", "qty": 1}], {}],
        [[{"symbol": "A", "qty": 0}], {}],
        [[5], {"b": 2}],
        [[], {"order": {"symbol": "A", "qty": 2}}],
        [[5, 2], {}],
        [[5, "b"], {"d": True}],
        [[5], {"unknown": 1}],
    ],
)
def test_a_function_is_called_with_what_decoding_gives(function: Any, wire: Any) -> None:
    binding = bound(function)

    def told(do: Any) -> object:
        try:
            return do()
        except InvalidArgumentError as error:
            return error.message, error.details

    call = binding.caller(lambda *args, **kwargs: (list(args), kwargs))
    assert told(lambda: call(wire)) == told(lambda: binding.decode_arguments(*wire))


@pytest.mark.parametrize(
    "wire", [None, 5, "ab", [], [[]], [[], {}, 1], [{}, []], [None, {}], [[1], None], {0: [1], 1: {}}]
)
def test_what_is_no_arguments_calls_nothing(wire: Any) -> None:
    for function in (place, add, nothing):
        binding = bound(function)
        with pytest.raises(
            InvalidArgumentError, match=rf"arguments of {binding.name} must be \[positional, keyword\]$"
        ):
            binding.caller(pytest.fail)(wire)


def test_a_method_without_items_has_none_to_decode() -> None:
    with pytest.raises(TypeError, match=r"^orders.add is unary: its caller sends no items$"):
        bound(add).decode_item(1)


def test_results_and_items_are_encoded() -> None:
    assert bound(place).encode_result(Receipt(id=1)) == {"id": 1, "note": ""}
    assert bound(add).encode_result(5) == 5
    assert bound(nothing).encode_result(None) is None
    assert bound(tail).encode_item(Receipt(id=1)) == {"id": 1, "note": ""}


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (place, "hidden", "/: input should be a valid dictionary or instance of Receipt"),
        (place, {"id": "hidden"}, "/id: input should be a valid integer, unable to parse string as an integer"),
        (place, {"id": 1, "note": "secret"}, "/note: value error"),
        (add, None, "/: input should be a valid integer"),
        (nothing, "hidden", "/: input should be None"),
    ],
)
def test_a_result_that_does_not_fit_names_the_path_and_not_the_value(function: Any, value: object, shown: str) -> None:
    binding = bound(function)
    with pytest.raises(RpcError) as caught:
        binding.encode_result(value)
    assert caught.value.code is Status.INTERNAL
    assert caught.value.message == f"{binding.name} returned what does not fit its declared type: {shown}"
    assert "hidden" not in str(caught.value)
    assert caught.value.details == {}


def test_a_result_whose_serialiser_fails_is_told_without_its_text() -> None:
    class Raising(BaseModel):
        a: int

        @model_serializer
        def _all(self) -> int:
            raise ValueError("hidden")

    @handler
    async def get() -> Raising:
        raise NotImplementedError

    with pytest.raises(RpcError, match=r"orders.get returned what does not fit its declared type: /: cannot be ser"):
        bound(get).encode_result(Raising(a=1))


# The calling side.


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (add, (1,), {}, ([1], {})),
        (add, (1, 2), {}, ([1, 2], {})),
        (add, (1,), {"b": 2}, ([1], {"b": 2})),
        (add, (), {"a": 1}, ([], {"a": 1})),
        (place, (Order(symbol="A", qty=1),), {}, ([{"symbol": "A", "qty": 1}], {})),
        (place, (), {"order": Order(symbol="A", qty=1)}, ([], {"order": {"symbol": "A", "qty": 1}})),
        (tail, ("x", 5), {}, (["x", 5], {})),
        (nothing, (), {}, ([], {})),
    ],
)
def test_arguments_of_a_call_are_encoded(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], expected: tuple[list[Any], dict[str, Any]]
) -> None:
    assert bound(function).encode_arguments(args, kwargs) == expected


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (add, (), {}, "orders.add() missing 1 required positional argument: 'a'"),
        (mixed, (), {"d": True}, "orders.mixed() missing 2 required positional arguments: 'a' and 'b'"),
        (mixed, (1, "x"), {}, "orders.mixed() missing 1 required keyword-only argument: 'd'"),
        (two_named, (), {}, "orders.two_named() missing 2 required keyword-only arguments: 'a' and 'b'"),
        (add, (1, 2, 3), {}, "orders.add() takes 2 positional arguments but 3 were given"),
        (nothing, (1,), {}, "orders.nothing() takes 0 positional arguments but 1 was given"),
        (place, (1, 2), {}, "orders.place() takes 1 positional argument but 2 were given"),
        (add, (1,), {"c": 1}, "orders.add() got an unexpected keyword argument 'c'"),
        (mixed, (), {"a": 1}, "orders.mixed() got an unexpected keyword argument 'a'"),
        (add, (1,), {"a": 1}, "orders.add() got multiple values for argument 'a'"),
        (upload, ("x",), {"ctx": None}, "orders.upload() fills in 'ctx' on the other side; leave it out"),
    ],
)
def test_a_wrong_call_fails_before_anything_is_sent(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError) as caught:
        bound(function).encode_arguments(args, kwargs)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (add, ("x",), {}, [("/a", "input should be a valid integer, unable to parse string as an integer")]),
        (
            add,
            (None, []),
            {},
            [("/a", "input should be a valid integer"), ("/b", "input should be a valid integer")],
        ),
        (
            place,
            ("x",),
            {},
            [("/order", "input should be a valid dictionary or instance of Order")],
        ),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_before_anything_is_sent(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        bound(function).encode_arguments(args, kwargs)
    assert caught.value.violations == expected


async def aiter_of(*values: object) -> AsyncIterator[Any]:
    for value in values:
        yield value


def test_the_stream_of_items_is_parted_from_the_arguments() -> None:
    items = aiter_of()
    binding = bound(upload)
    assert binding.take_items(("x", items, 3), {}) == (("x", 3), {}, items)
    assert binding.take_items(("x",), {"items": items, "size": 3}) == (("x",), {"size": 3}, items)
    assert bound(upload_named).take_items((), {"items": items}) == ((), {}, items)
    assert bound(add).take_items((1,), {"b": 2}) == ((1,), {"b": 2}, None)


@pytest.mark.parametrize(
    ("function", "args", "text"),
    [
        (upload, ("x",), "orders.upload() missing 1 required positional argument: 'items'"),
        (upload_named, (1,), "orders.upload_named() missing 1 required keyword-only argument: 'items'"),
        (
            upload,
            ("x", [1]),
            "orders.upload() needs an async iterator for 'items', got list; pass an async generator",
        ),
    ],
)
def test_a_call_without_its_items_fails(function: Any, args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        bound(function).take_items(args, {})
    assert str(caught.value) == text


def test_items_of_the_caller_are_encoded() -> None:
    assert bound(upload).encode_input_item(Order(symbol="A", qty=1)) == {"symbol": "A", "qty": 1}
    assert bound(upload_named).encode_input_item(7) == 7
    with pytest.raises(InvalidArgumentError, match=r"invalid orders.upload_named: /items: input should be a valid int"):
        bound(upload_named).encode_input_item("x")


def test_results_and_items_are_decoded() -> None:
    assert bound(place).decode_result({"id": 1}) == Receipt(id=1)
    assert bound(tail).decode_output_item({"id": 1}) == Receipt(id=1)
    assert bound(add).decode_result(3) == 3
    for decode in (bound(place).decode_result, bound(tail).decode_output_item):
        with pytest.raises(RpcError, match=r"INTERNAL: the reply does not fit the type it is read as: /id: field req"):
            decode({})


# What a binding shows.


def test_a_binding_shows_what_it_is() -> None:
    binding = bound(place)
    assert (binding.name, binding.shape, binding.raises) == ("orders.place", CallShape.UNARY, (OutOfStock,))
    assert (binding.items_parameter, binding.context_parameter, binding.input_codec) == (None, None, None)
    assert binding.spec is handler_spec(place)
    assert isinstance(bound(upload).input_codec, TypeCodec)
    assert repr(binding) == "<MethodBinding orders.place unary>"


# Types that show their fault when everything is defined.


class Opaque:
    pass


Alias: Any = AsyncIterator[int]


async def bare_items(items: AsyncIterator) -> int: ...  # type: ignore[type-arg, empty-body]
def bare_result() -> AsyncIterator: ...  # type: ignore[type-arg, empty-body]
async def opaque(thing: Opaque) -> None: ...
async def opaque_result() -> Opaque: ...  # type: ignore[empty-body]
async def unknown(thing: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def broken(thing: "1 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (bare_items, "parameter 'items': does not say the type of its items; write AsyncIterator[int]"),
        (bare_result, "the result: does not say the type of its items; write AsyncIterator[int]"),
        (opaque, "parameter 'thing': Opaque cannot be validated (Unable to generate pydantic-core schema for "),
        (opaque_result, "the result: Opaque cannot be validated (Unable to generate pydantic-core schema for "),
        (
            unknown,
            (
                "parameter 'thing': Missing names 'Missing', which cannot be seen from its module; "
                "define or import Missing at module level, outside TYPE_CHECKING"
            ),
        ),
        (broken, "parameter 'thing': '1 +' cannot be evaluated (Forward reference must be an expression -- got '1 +'"),
    ],
)
def test_a_bad_type_is_refused_with_file_line_and_parameter(function: Any, problem: str) -> None:
    with pytest.raises(SignatureError) as caught:
        bound(function)
    line = function.__code__.co_firstlineno
    assert str(caught.value).startswith(f"{__file__}:{line}: orders.{function.__name__}: {problem}")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            "async def f(a: Later) -> int: ...\nLater = AsyncIterator[int]",
            "parameter 'a': turns out to be a stream of items; write AsyncIterator[...] there",
        ),
        (
            "async def f() -> Later: ...\nLater = AsyncIterator[int]",
            "the result: turns out to be a stream of items; write AsyncIterator[...] there",
        ),
        (
            "async def f(a: Later) -> int: ...\nLater = Context",
            "parameter 'a': turns out to be a Context; write it as Context there",
        ),
    ],
)
def test_a_shape_that_was_hidden_at_decoration_shows_now(source: str, problem: str) -> None:
    space: dict[str, Any] = {"AsyncIterator": AsyncIterator, "Context": Context, "handler": handler}
    head = "from __future__ import annotations\n"
    exec(compile(f"{head}@handler\n{source}", "shop.py", "exec", dont_inherit=True), space)
    with pytest.raises(SignatureError) as caught:
        bound(space["f"])
    assert str(caught.value) == f"shop.py:2: orders.f: {problem}"


# Dependencies.


class Marker:
    """What `echostream.Depends` is to this package: an object with a role."""

    __echostream_role__ = "dependency"


MARKER = Marker()
Later = Annotated[int, MARKER]


@handler
async def needy(a: int, *, b: Annotated[str, MARKER] = INJECTED, c: Later = INJECTED, ctx: Context = INJECTED) -> int:
    return a


def test_dependencies_are_no_arguments() -> None:
    binding = bound(needy)
    assert (dict(binding.dependencies), binding.context_parameter) == ({"b": MARKER, "c": MARKER}, "ctx")
    assert binding.encode_arguments([1], {}) == ([1], {})
    for name in ("b", "c", "ctx"):
        with pytest.raises(TypeError, match=f"fills in '{name}' on the other side; leave it out"):
            binding.encode_arguments([1], {name: 1})
        assert faults(binding, [1], {name: 1})


def late(annotation: str, *names: str) -> MethodBinding:
    """Bind a handler whose annotations can be resolved only after its decoration."""
    space: dict[str, Any] = {"INJECTED": INJECTED, "handler": handler, "__name__": "shop"}
    parameters = ", ".join(f"{name}: {annotation!r} = INJECTED" for name in names)
    exec(f"@handler\nasync def f(*, {parameters}) -> int: ...", space)
    space.update(Later=Later, Ctx=Context, Plain=int, Annotated=Annotated, Depends=lambda _: 1)
    return bound(space["f"])


def test_what_a_type_that_exists_later_turns_out_to_be() -> None:
    assert dict(late("Later", "a", "b").dependencies) == {"a": MARKER, "b": MARKER}
    assert late("Ctx", "a").context_parameter == "a"
    assert late("Unknown", "a").context_parameter == "a"
    with pytest.raises(SignatureError, match="parameter 'b': turns out to be a second context beside 'a'; keep one"):
        late("Ctx", "a", "b")
    with pytest.raises(SignatureError, match=r"turns out to be no dependency; write Annotated\[T, Depends"):
        late("Annotated[int, Depends(1)]", "a")
    with pytest.raises(SignatureError, match="'Nowhere', which cannot be seen from its module"):
        late("Annotated[Nowhere, Depends(1)]", "a")


def test_a_bare_dependency_that_exists_later_asks_for_its_default() -> None:
    space: dict[str, Any] = {"handler": handler, "__name__": "shop"}
    exec("@handler\nasync def f(a: 'Later') -> int: ...", space)
    space["Later"] = Later
    with pytest.raises(SignatureError, match="turns out to be a dependency; give it the default INJECTED"):
        bound(space["f"])
