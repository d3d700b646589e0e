"""The argument list of one method: bound by name, validated on the way in, checked and serialised on the way out.

On the wire it is a list of positional and a map of keyword arguments. The stream of items and the context are no part
of it; both are injected by name, so a positional argument that stands behind one of them becomes a keyword.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python

from echostream.binding.codec import TypeCodec
from echostream.binding.faults import Violations, invalid, pointer, violations
from echostream.binding.jsonschema import json_schemas
from echostream.errors import InvalidArgumentError
from echostream.types import Json, WireValue

__all__ = ("Argument", "Arguments", "split_arguments")

_SHOWN_NAME = 64
"""Characters of an unknown name that an error repeats: it came from the other side."""

_PARTS = 2
"""Of what travels for the arguments: the positional ones, and those by keyword."""

_PROXY_OPTIONS = frozenset({"timeout", "metadata"})
"""Options that stubs of gRPC take with each call, and a proxy once; no argument has such a name."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a method."""

    name: str
    codec: TypeCodec
    required: bool
    keyword_only: bool
    positional_only: bool
    by_keyword: bool
    """Whether the function must get it by keyword, because an injected parameter stands before it."""


def split_arguments(name: str, wire: WireValue) -> tuple[list[WireValue], dict[str, WireValue]]:
    """Return the positional and the keyword arguments out of what travelled for a call of the method `name`.

    Raises:
        InvalidArgumentError: it is nothing of the kind.
    """
    if type(wire) is list and len(wire) == _PARTS:
        positional, keyword = wire
        if type(positional) is list and type(keyword) is dict:
            return positional, keyword
    raise InvalidArgumentError(f"arguments of {name} must be [positional, keyword]")


class Arguments:
    """Binds, decodes and encodes the arguments of the method called `name`; those in `filled` no caller may give."""

    def __init__(self, name: str, arguments: Sequence[Argument], filled: frozenset[str] = frozenset()) -> None:
        self._name = name
        self._filled = filled
        self._all = tuple(arguments)
        self._positional = tuple(item for item in arguments if not item.keyword_only)
        self._by_name: Mapping[str, Argument] = {item.name: item for item in arguments if not item.positional_only}
        self._required = tuple(item for item in arguments if item.required)
        # Counts of positional arguments that, without keywords, make a whole call.
        fewest = max((index + 1 for index, item in enumerate(self._positional) if item.required), default=0)
        by_name_only = any(item.required and item.keyword_only for item in arguments)
        self._whole = range(0) if by_name_only else range(fewest, len(self._positional) + 1)
        first = self._positional[0] if self._positional else None
        alone = first is not None and not first.by_keyword and all(item is first for item in self._required)
        self._first = first if alone else None  # the short way: one positional argument is the whole call

    @property
    def positional(self) -> list[str]:
        """Names of the arguments that may be passed by position, in their order."""
        return [item.name for item in self._positional]

    @property
    def one_type(self) -> type | None:
        """The type whose exact instances travel as they are, where they are all of the arguments."""
        return None if self._first is None else self._first.codec.primitive

    def json_schema(self, defaults: Mapping[str, object]) -> Json:
        """Return the JSON Schema of the arguments: an object with one property for each, in their order.

        Args:
            defaults: default values by name; those that are no JSON are left out.
        """
        schemas, definitions = json_schemas({item.name: item.codec.adapter for item in self._all})
        properties = {item.name: {**schemas[item.name], **_default(item, defaults)} for item in self._all}
        schema: dict[str, Json] = {"type": "object", "properties": properties, "additionalProperties": False}
        if required := [item.name for item in self._required]:
            schema["required"] = required
        return {**schema, "$defs": definitions} if definitions else schema

    def decode(
        self, positional: Sequence[WireValue], keyword: Mapping[str, WireValue]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments to call the function with; defaults are left out.

        Raises:
            InvalidArgumentError: one is missing, unknown, given twice, or does not fit its type.
        """
        first = self._first
        if first is not None and not keyword and len(positional) == 1:
            value = positional[0]
            codec = first.codec
            if type(value) is codec.primitive:
                return [value], {}
            try:
                return [codec.load(value)], {}
            except ValueError as error:
                raise invalid(self._name, violations(error, value, pointer(first.name))) from None
        return self._decode_all(positional, keyword)

    def caller(self, function: Callable[..., Any]) -> Callable[[WireValue], Any]:
        """Return what calls a function that takes these arguments alone, given what travelled; raises as `decode`."""
        decode, name = self.decode, self._name

        def call(wire: WireValue) -> Any:
            args, kwargs = decode(*split_arguments(name, wire))
            return function(*args, **kwargs)

        if self._first is None:
            return call
        where, load, primitive = pointer(self._first.name), self._first.codec.load, self._first.codec.primitive

        def call_with_one(wire: WireValue) -> Any:
            if type(wire) is not list or len(wire) != _PARTS:
                return call(wire)
            positional, keyword = wire
            if type(keyword) is not dict or keyword or type(positional) is not list or len(positional) != 1:
                return call(wire)
            value = positional[0]
            if type(value) is not primitive:
                try:
                    value = load(value)
                except ValueError as error:
                    raise invalid(name, violations(error, value, where)) from None
            return function(value)

        return call_with_one

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[WireValue], dict[str, WireValue]]:
        """Return the positional and keyword arguments as they travel.

        Raises:
            TypeError: one is missing, unknown or given twice, as Python's own call would say, or is filled in.
            InvalidArgumentError: one is not of its type.
        """
        if kwargs or len(args) not in self._whole:
            self._check_call(args, kwargs)
        faults: Violations = []
        values = [_pack(item, value, faults) for item, value in zip(self._positional, args, strict=False)]
        named = {name: _pack(self._by_name[name], value, faults) for name, value in kwargs.items()}
        if faults:
            raise invalid(self._name, faults)
        return values, named

    def one_writer(self) -> Callable[[Any], WireValue] | None:
        """Return what makes what travels for a positional argument that is all of them; None where one is not enough.

        It raises as `encode`.
        """
        if self._first is None:
            return None
        name, codec = self._name, self._first.codec
        where, pack, primitive = pointer(self._first.name), codec.pack, codec.primitive
        cls, count = codec.flat_class, codec.flat_count

        def write(value: Any) -> WireValue:
            kind = type(value)
            if kind is primitive:
                return value
            if kind is cls and len(fields := value.__dict__) == count:
                return fields.copy()  # what `pack` would do
            try:
                return pack(value)
            except ValueError as error:
                raise invalid(name, violations(error, value, where)) from None

        return write

    def _decode_all(
        self, positional: Sequence[WireValue], keyword: Mapping[str, WireValue]
    ) -> tuple[list[Any], dict[str, Any]]:
        whole = not keyword and len(positional) in self._whole
        faults: Violations = [] if whole else self._binding_faults(positional, keyword)
        values: list[Any] = []
        named: dict[str, Any] = {}
        for argument, wire in zip(self._positional, positional, strict=False):
            value = _load(argument, wire, faults)
            if argument.by_keyword:
                named[argument.name] = value
            else:
                values.append(value)
        for name, wire in keyword.items():
            known = self._by_name.get(name)
            if known is not None:
                named[name] = _load(known, wire, faults)
        if faults:
            raise invalid(self._name, faults)
        return values, named

    def _binding_faults(self, positional: Sequence[WireValue], keyword: Mapping[str, WireValue]) -> Violations:
        taken, given = len(self._positional), len(positional)
        faults: Violations = []
        if given > taken:
            faults.append(("", f"takes {_counted(taken, 'positional argument')}, got {given}"))
        filled = {item.name for item in self._positional[:given]}
        for name in keyword:
            if name in filled:
                faults.append((pointer(name), "given twice, by position and by name"))
            elif name not in self._by_name:
                faults.append((pointer(str(name)[:_SHOWN_NAME]), "unknown argument"))
        faults += [
            (pointer(item.name), "missing")
            for item in self._required
            if item.name not in filled and (item.positional_only or item.name not in keyword)
        ]
        return faults

    def _check_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise the TypeError that calling such a function raises."""
        given_name = next((name for name in kwargs if name in self._filled), None)
        if given_name is not None:
            raise TypeError(f"{self._name}() fills in {given_name!r} on the other side; leave it out")
        taken, given = len(self._positional), len(args)
        if given > taken:
            were = "was" if given == 1 else "were"
            raise TypeError(f"{self._name}() takes {_counted(taken, 'positional argument')} but {given} {were} given")
        filled = {item.name for item in self._positional[:given]}
        for name in kwargs:
            if name not in self._by_name:
                hint = f": give it to client.proxy(..., {name}=)" if name in _PROXY_OPTIONS else ""
                raise TypeError(f"{self._name}() got an unexpected keyword argument {name!r}{hint}")
            if name in filled:
                raise TypeError(f"{self._name}() got multiple values for argument {name!r}")
        missing = [item for item in self._required if item.name not in filled and item.name not in kwargs]
        if missing:
            kind = "keyword-only" if missing[0].keyword_only else "positional"
            names = [repr(item.name) for item in missing if item.keyword_only is missing[0].keyword_only]
            shown = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
            raise TypeError(f"{self._name}() missing {_counted(len(names), f'required {kind} argument')}: {shown}")


def _load(argument: Argument, wire: WireValue, faults: Violations) -> Any:
    codec = argument.codec
    if type(wire) is codec.primitive:
        return wire
    try:
        return codec.load(wire)
    except ValueError as error:
        faults += violations(error, wire, pointer(argument.name))
        return None


def _pack(argument: Argument, value: Any, faults: Violations) -> WireValue:
    codec = argument.codec
    if type(value) is codec.primitive:
        return value
    try:
        return codec.pack(value)
    except ValueError as error:
        faults += violations(error, value, pointer(argument.name))
        return None


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _default(argument: Argument, defaults: Mapping[str, object]) -> dict[str, Json]:
    """Return the default as JSON Schema says it; nothing where there is none, or where it is no JSON."""
    if argument.required or argument.name not in defaults:
        return {}
    with suppress(Exception):  # a default need not be of its type, and serialising it runs the user's code
        return {"default": to_jsonable_python(argument.codec.dump(defaults[argument.name]))}
    return {}
