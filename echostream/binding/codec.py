"""One type in and out of wire values: pydantic's validator and serialiser, with short cuts where nothing can differ.

What is heard is validated into the type. What is said is checked against the type and serialised as it was given:
running validators over it would change it twice, since the other side runs them too. An instance of a model is trusted
to be what its class made it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter
from pydantic_core import SchemaError, SchemaSerializer, SchemaValidator, core_schema, to_jsonable_python

from echostream.binding import schema as schemas
from echostream.binding.faults import invalid, unfit_reply, unfit_result, violations
from echostream.binding.jsonschema import json_schema
from echostream.types import Json, WireValue
from echostream_derive import SignatureError

__all__ = ("TypeCodec", "codec_for", "dump_any")

_CACHED_TYPES = 1024
"""Types that `codec_for` remembers: more than a program asks for by ``returns=``, few enough to forget made-up ones."""

_EXACT = frozenset((type(None), bool, int, float, str, bytes))

_PAYLOAD_TYPES = (*_EXACT, date, time, timedelta, Decimal, UUID, Enum, PurePath)
"""What the payload encoder knows besides containers (a datetime is a date)."""


class TypeCodec:
    """Validates wire values into a type, and turns values of the type into wire values.

    `load` and `pack` are the bare steps for hot paths: both raise ValueError. Exact instances of `primitive` need
    neither.
    """

    __slots__ = ("adapter", "annotation", "flat_class", "flat_count", "load", "pack", "primitive", "strict")

    def __init__(self, annotation: object, *, strict: bool = False) -> None:
        """Compile the type.

        Raises:
            SignatureError: pydantic cannot validate it.
        """
        self.annotation = annotation
        self.strict = strict
        self.adapter: TypeAdapter[Any] = _adapter_for(annotation)
        """The compiled type as pydantic has it; for `jsonschema.py`."""
        schema = cast("schemas.Node", self.adapter.core_schema)
        self.primitive: type | None = schemas.primitive_of(schema)
        """A type whose exact instances are valid and travel as they are."""
        self.load: Callable[[WireValue], Any] = _loader(self.adapter, schema, strict=strict)
        flat = schemas.flat_model(schema)
        self.flat_class: type | None = flat[0] if flat is not None else None
        """A model that travels as a copy of its ``__dict__`` where this has `flat_count` names; None without any."""
        self.flat_count = flat[1] if flat is not None else 0
        self.pack: Callable[[Any], WireValue] = _packer(self.adapter, schema, self.load, flat)

    def __repr__(self) -> str:
        return f"<TypeCodec {_shown(self.annotation)}{' strict' if self.strict else ''}>"

    def validate(self, wire: WireValue, *, what: str | None = None) -> Any:
        """Return the value that `wire` stands for.

        Raises:
            InvalidArgumentError: it does not fit the type; `what` names it in the text.
        """
        try:
            return self.load(wire)
        except ValueError as error:
            raise invalid(what, violations(error, wire)) from None

    def reply_reader(self, what: str) -> Callable[[WireValue], Any]:
        """Return what makes the value of a reply to the method `what`.

        It raises RpcError INTERNAL when the reply does not fit the type: the two sides disagree about the contract.
        """
        load, primitive = self.load, self.primitive

        def read(wire: WireValue) -> Any:
            if type(wire) is primitive:
                return wire
            try:
                return load(wire)
            except ValueError as error:
                raise unfit_reply(what, error, wire) from None

        return read

    def result_writer(self, what: str) -> Callable[[Any], WireValue]:
        """Return what makes what travels for a result of the method `what`.

        It raises RpcError INTERNAL when the result does not fit the type; the text names path and kind, not the value.
        """
        pack, primitive = self.pack, self.primitive
        cls, count = self.flat_class, self.flat_count

        def write(value: Any) -> WireValue:
            if type(value) is primitive:
                return value
            if type(value) is cls and len(fields := value.__dict__) == count:
                return fields.copy()  # what `pack` would do
            try:
                return pack(value)
            except ValueError as error:
                raise unfit_result(what, error, value) from None

        return write

    def dump(self, value: Any, *, what: str | None = None) -> WireValue:
        """Return the wire value for `value`; datetimes and the like stay for the payload encoder.

        Raises:
            InvalidArgumentError: the value is not of the type; `what` names it in the text.
        """
        try:
            return self.pack(value)
        except ValueError as error:
            raise invalid(what, violations(error, value)) from None

    def json_schema(self, *, written: bool = False) -> Json:
        """Return the JSON Schema of the wire form, as it is read or, with `written`, as this side writes it."""
        return json_schema(self.adapter, "serialization" if written else "validation")


def codec_for(tp: Any) -> TypeCodec:
    """Return the lax codec of a type, compiled once while it is in use.

    Raises:
        SignatureError: pydantic cannot validate it.
    """
    if isinstance(tp, type):
        return _codec_of_class(tp)
    try:
        # `int | str` equals `str | int`, yet the order decides between equally good matches: the text tells them apart.
        return _codec_of_form(tp, str(tp))
    except TypeError as error:
        if isinstance(error, SignatureError):
            raise
        return TypeCodec(tp)  # metadata that cannot be hashed


def dump_any(value: object) -> WireValue:
    """Return the wire value for a value of unknown type: models and dataclasses become dicts, by alias.

    Raises:
        InvalidArgumentError: a serialiser of its class fails.
    """
    if type(value) in _EXACT:
        return value
    try:
        return _ANY.to_python(value, by_alias=True, warnings=False)
    except ValueError as error:
        raise invalid(None, violations(error, value)) from None


_ANY = SchemaSerializer(core_schema.any_schema())


@lru_cache(maxsize=_CACHED_TYPES)
def _codec_of_class(tp: type) -> TypeCodec:
    return TypeCodec(tp)


@lru_cache(maxsize=_CACHED_TYPES)
def _codec_of_form(tp: Any, text: str) -> TypeCodec:
    return TypeCodec(tp)


def _adapter_for(annotation: Any) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        adapter.rebuild(force=not isinstance(cast("object", adapter.core_schema), dict))
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError) as error:
        reason = str(error).partition("\n")[0].partition(". Set ")[0].rstrip(".")  # its cure would not travel
        raise SignatureError(
            f"{_shown(annotation)} cannot be validated ({reason}); use a model, a dataclass or a builtin type"
        ) from error
    return adapter


def _loader(adapter: TypeAdapter[Any], schema: schemas.Node, *, strict: bool) -> Callable[[WireValue], Any]:
    validate = adapter.validator.validate_python
    if strict or schemas.is_strict_anywhere(schema):
        # Without the switch the finished validators of nested models would be taken, with their own strictness.
        adjusted = cast("Any", schemas.wire_schema(schema, strict=strict))
        validate = SchemaValidator(adjusted, None, _use_prebuilt=False).validate_python
    if not schemas.has_aliases(schema):
        return validate
    return lambda wire: validate(wire, by_alias=True, by_name=True)


def _packer(
    adapter: TypeAdapter[Any],
    schema: schemas.Node,
    check: Callable[[Any], Any],
    flat: tuple[type, int] | None,
) -> Callable[[Any], WireValue]:
    serialise = adapter.serializer.to_python
    if flat is not None:
        return _flat_packer(*flat, serialise, check)
    aliased, native = schemas.has_aliases(schema), schemas.is_native(schema)

    def pack(value: Any) -> WireValue:
        check(value)
        return serialise(value, warnings=False)  # what does not fit was refused by the check

    def pack_carefully(value: Any) -> WireValue:
        check(value)
        wire = serialise(value, by_alias=aliased or None, warnings=False)
        return wire if native else _finished(wire)

    return pack_carefully if aliased or not native else pack


def _flat_packer(
    cls: type, count: int, serialise: Callable[..., Any], check: Callable[[Any], Any]
) -> Callable[[Any], WireValue]:
    """Copy ``__dict__``; more or fewer names in it (a cached property, `model_construct`) take the long way."""

    def pack(value: Any) -> WireValue:
        if type(value) is cls:
            fields = value.__dict__
            if len(fields) == count:
                return fields.copy()
        check(value)
        return serialise(value, warnings=False)

    return pack


def _finished(value: Any) -> WireValue:
    """Turn what the payload encoder does not know (URLs, paths, custom types) into its JSON form."""
    if isinstance(value, dict):
        return {_finished(key): _finished(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finished(item) for item in cast("list[Any]", value)]
    return value if isinstance(value, _PAYLOAD_TYPES) else to_jsonable_python(value)


def _shown(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
