"""One method, compiled: what travels for its arguments, items and result, on both sides of a call."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any, cast

from echostream.binding.arguments import Argument, Arguments
from echostream.binding.codec import TypeCodec
from echostream.binding.faults import invalid, pointer, violations
from echostream.binding.hints import Hints, item_of
from echostream.errors import RpcError
from echostream.types import Json, WireValue
from echostream_derive import (
    CallShape,
    HandlerSpec,
    ParameterRole,
    ParameterSpec,
    SignatureError,
    dependency_of,
    is_context,
    is_items,
)

__all__ = ("MethodBinding", "bind_handler")


def bind_handler(spec: HandlerSpec, *, owner: type | None, wire_name: str, strict: bool = False) -> MethodBinding:
    """Compile a handler.

    Args:
        spec: its description.
        owner: the class that it is served or called for; its generic bases say what type variables stand for.
        wire_name: the whole name on the wire, such as ``orders.place``.
        strict: whether arguments must have their declared type.

    Raises:
        SignatureError: a type does not exist, or cannot be validated.
    """
    return _Compiler(spec, owner, wire_name, strict=strict).compile()


class MethodBinding:
    """Decodes and encodes for one method. Wire values are what `protocol.payload` packs.

    Attributes:
        name: the whole name on the wire.
        spec: the description it was compiled from.
        shape: the shape of its calls; `sends_items` and `returns_items` as it says.
        raises: errors that a proxy raises again as the same class.
        items_parameter: parameter that gets the caller's stream of items, by keyword; None without one.
        context_parameter: parameter that gets the context, by keyword; None without one.
        dependencies: parameters that dependencies fill, by keyword, each with its marker.
        output_codec: codec of the result, or of one returned item.
        input_codec: codec of one item that the caller sends; None where it sends none.
    """

    __slots__ = (
        "_arguments", "_items_index", "caller", "context_parameter", "decode_arguments", "decode_result",
        "dependencies", "encode_arguments", "encode_one", "encode_result", "input_codec", "items_parameter", "name",
        "one_type", "output_codec", "raises", "returns_items", "sends_items", "shape", "spec",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        spec: HandlerSpec,
        arguments: Arguments,
        output_codec: TypeCodec,
        input_codec: TypeCodec | None,
        filled: _Filled,
    ) -> None:
        self.name = name
        self.spec = spec
        self.shape: CallShape = spec.shape
        self.sends_items = self.shape.sends_items
        self.returns_items = self.shape.returns_items
        self.raises = cast("tuple[type[RpcError], ...]", spec.raises)
        self.items_parameter = _name_of(ParameterRole.ITEMS, spec.parameters)
        self.context_parameter = filled.context
        self.dependencies: Mapping[str, Any] = filled.dependencies
        self.output_codec = output_codec
        self.input_codec = input_codec
        self._arguments = arguments
        self._items_index = _items_index(spec.parameters)
        # What every call needs is no method around a method: each layer would cost as much as a plain argument.
        self.decode_arguments = arguments.decode
        """Return the arguments to call the function with; add items and context by keyword."""
        self.caller = arguments.caller
        """Return what calls a function that takes nothing but arguments, given what travelled."""
        self.encode_arguments = arguments.encode
        """Return what travels for the arguments of a call, without items (see `take_items`)."""
        self.encode_one = arguments.one_writer()
        """Return what travels for the first argument, where it is the only one; None where that makes no call."""
        self.one_type = arguments.one_type
        """Exact instances of it as that argument travel as they are; None where there are none."""
        self.encode_result = output_codec.result_writer(name)
        """Return what travels for the handler's result; RpcError INTERNAL, if it does not fit its declared type."""
        self.decode_result = output_codec.reply_reader(name)
        """Return the result of a call; RpcError INTERNAL, if the two sides disagree about its type."""

    def __repr__(self) -> str:
        return f"<MethodBinding {self.name} {self.shape.value}>"

    # The side that describes.

    @property
    def positional(self) -> list[str]:
        """Names of the arguments that may be passed by position, in their order."""
        return self._arguments.positional

    def arguments_schema(self) -> Json:
        """Return the JSON Schema of the arguments, as an object by name; items and context are no part of it."""
        return self._arguments.json_schema({item.name: item.default for item in self.spec.parameters})

    # The side that serves.

    def decode_item(self, wire: WireValue) -> Any:
        """Return one item that the caller sent.

        Raises:
            InvalidArgumentError: it does not fit the type of the items.
        """
        codec = self._input()
        if type(wire) is codec.primitive:
            return wire
        try:
            return codec.load(wire)
        except ValueError as error:
            raise invalid(self.name, violations(error, wire, pointer(self.items_parameter))) from None

    def encode_item(self, value: Any) -> WireValue:
        """Return what travels for one item that the handler yields; raises as `encode_result`."""
        return self.encode_result(value)

    # The side that calls.

    def take_items(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any], AsyncIterable[Any] | None]:
        """Part the stream of items from the other arguments of a call; None for a method that takes no items.

        Raises:
            TypeError: the items are missing or are no async iterable.
        """
        name, index = self.items_parameter, self._items_index
        if name is None:
            return args, kwargs, None
        if name in kwargs:
            items = kwargs[name]
            kwargs = {key: value for key, value in kwargs.items() if key != name}
        elif index is not None and index < len(args):
            items = args[index]
            args = (*args[:index], *args[index + 1 :])
        else:
            kind = "keyword-only" if index is None else "positional"
            raise TypeError(f"{self.name}() missing 1 required {kind} argument: {name!r}")
        if not isinstance(items, AsyncIterable):
            given = type(items).__name__
            raise TypeError(f"{self.name}() needs an async iterator for {name!r}, got {given}; pass an async generator")
        return args, kwargs, items

    def encode_input_item(self, value: Any) -> WireValue:
        """Return what travels for one item that the caller sends.

        Raises:
            InvalidArgumentError: it is not of the type of the items.
        """
        codec = self._input()
        if type(value) is codec.primitive:
            return value
        try:
            return codec.pack(value)
        except ValueError as error:
            raise invalid(self.name, violations(error, value, pointer(self.items_parameter))) from None

    def decode_output_item(self, wire: WireValue) -> Any:
        """Return one item of the answer; raises as `decode_result`."""
        return self.decode_result(wire)

    def _input(self) -> TypeCodec:
        if self.input_codec is None:
            raise TypeError(f"{self.name} is {self.shape.value}: its caller sends no items")
        return self.input_codec


class _Filled:
    """The parameters that the framework fills, as far as they are known."""

    __slots__ = ("context", "dependencies")

    def __init__(self) -> None:
        self.context: str | None = None
        self.dependencies: dict[str, Any] = {}

    @property
    def names(self) -> frozenset[str]:
        """Of all."""
        return frozenset(self.dependencies) | ({self.context} if self.context is not None else frozenset())


class _Compiler:
    """Turns one spec into a binding; holds what every step needs."""

    def __init__(self, spec: HandlerSpec, owner: type | None, wire_name: str, *, strict: bool) -> None:
        self._spec = spec
        self._name = wire_name
        self._strict = strict
        self._hints = Hints(spec, owner, wire_name)

    def compile(self) -> MethodBinding:
        arguments: list[Argument] = []
        items: TypeCodec | None = None
        injected, filled = False, _Filled()
        for parameter in self._spec.parameters:
            where = f"parameter {parameter.name!r}"
            if parameter.role in (ParameterRole.CONTEXT, ParameterRole.DEPENDENCY):
                self._fill(parameter, where, filled)
                injected = injected or not parameter.keyword_only
                continue
            annotation = self._hints.resolve(parameter.annotation, where)
            if parameter.role is ParameterRole.ARGUMENT:
                self._check_role(annotation, where)
                codec = self._codec(annotation, where)
                arguments.append(_argument(parameter, codec, by_keyword=injected))
            else:
                injected = injected or not parameter.keyword_only
                items = self._codec(self._item(annotation, where), where)
        given = Arguments(self._name, arguments, filled.names)
        return MethodBinding(self._name, self._spec, given, self._output(), items, filled)

    def _fill(self, parameter: ParameterSpec, where: str, filled: _Filled) -> None:
        """Note what fills a parameter; the annotation of a context need not exist at run time."""
        annotation = parameter.annotation
        try:
            marker = dependency_of(self._hints.resolve(annotation, where))
        except SignatureError:
            if parameter.role is ParameterRole.DEPENDENCY:
                raise
            marker = None
        if marker is not None:
            filled.dependencies[parameter.name] = marker
        elif parameter.role is ParameterRole.DEPENDENCY:
            raise self._hints.fault(where, "turns out to be no dependency; write Annotated[T, Depends(function)]")
        elif filled.context is not None:
            raise self._hints.fault(where, f"turns out to be a second context beside {filled.context!r}; keep one")
        else:
            filled.context = parameter.name

    def _output(self) -> TypeCodec:
        result = self._hints.resolve(self._spec.result, "the result")
        if is_items(result) is not self._spec.shape.returns_items:
            raise self._hints.fault("the result", "turns out to be a stream of items; write AsyncIterator[...] there")
        return self._codec(self._item(result, "the result") if is_items(result) else result, "the result")

    def _check_role(self, annotation: object, where: str) -> None:
        """Look again at what the decorator could only see as text."""
        if is_items(annotation):
            raise self._hints.fault(where, "turns out to be a stream of items; write AsyncIterator[...] there")
        if is_context(annotation):
            raise self._hints.fault(where, "turns out to be a Context; write it as Context there")
        if dependency_of(annotation) is not None:
            raise self._hints.fault(where, "turns out to be a dependency; give it the default INJECTED")

    def _item(self, annotation: object, where: str) -> object:
        found = item_of(annotation)
        if found is None:
            raise self._hints.fault(where, "does not say the type of its items; write AsyncIterator[int]")
        return found

    def _codec(self, annotation: object, where: str) -> TypeCodec:
        try:
            return TypeCodec(annotation, strict=self._strict)
        except SignatureError as error:
            raise self._hints.fault(where, str(error)) from error.__cause__


def _argument(parameter: ParameterSpec, codec: TypeCodec, *, by_keyword: bool) -> Argument:
    return Argument(
        name=parameter.name,
        codec=codec,
        required=not parameter.has_default,
        keyword_only=parameter.keyword_only,
        positional_only=parameter.positional_only,
        by_keyword=by_keyword and not parameter.keyword_only,
    )


def _name_of(role: ParameterRole, parameters: Sequence[ParameterSpec]) -> str | None:
    return next((item.name for item in parameters if item.role is role), None)


def _items_index(parameters: Sequence[ParameterSpec]) -> int | None:
    """Return where the items stand among the positional arguments of a call."""
    filled = (ParameterRole.CONTEXT, ParameterRole.DEPENDENCY)
    passed = [item for item in parameters if item.role not in filled and not item.keyword_only]
    return next((index for index, item in enumerate(passed) if item.role is ParameterRole.ITEMS), None)
