"""What pydantic's core schema says about a type: whether short cuts are safe, and how strict it is on the wire.

A payload carries datetimes, Decimals, UUIDs, enums, sets and tuples as text or lists. Strictness, asked for by a
service or by a model, therefore stops at the types that travel as themselves: int, float, bool, str and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from pydantic_core import core_schema

__all__ = ("flat_model", "has_aliases", "is_native", "is_strict_anywhere", "primitive_of", "wire_schema")

Node = dict[str, Any]

_PRIMITIVES: dict[str, type] = {
    "int": int, "float": float, "bool": bool, "str": str, "bytes": bytes, "none": type(None),
}  # fmt: skip

_CONVERTED = frozenset((
    "dataclass", "date", "datetime", "decimal", "dict", "enum", "frozenset", "lax-or-strict", "list", "model",
    "model-fields", "named-tuple", "set", "time", "timedelta", "tuple", "typed-dict", "union", "url", "uuid",
))  # fmt: skip
"""Kinds that are made out of something else on the wire, so that they cannot be strict."""

_NATIVE = frozenset((
    *_PRIMITIVES, "any", "arguments", "arguments-parameter", "call", "chain", "computed-field", "dataclass",
    "dataclass-args", "dataclass-field", "date", "datetime", "decimal", "default", "definition-ref", "definitions",
    "dict", "enum", "frozenset", "function-after", "function-before", "list", "literal", "model", "model-field",
    "model-fields", "named-tuple", "named-tuple-field", "nullable", "set", "tagged-union", "time", "timedelta",
    "tuple", "typed-dict", "typed-dict-field", "union", "uuid",
))  # fmt: skip
"""Kinds whose Python form the payload encoder knows; others (URLs, paths, custom types) are turned into JSON first."""

_INNER = (
    "schema", "items_schema", "keys_schema", "values_schema", "extras_schema", "extras_keys_schema", "lax_schema",
    "strict_schema", "json_schema", "python_schema", "arguments_schema", "choices", "steps", "definitions", "fields",
    "arguments", "computed_fields",
)  # fmt: skip
"""Keys of a node that hold further nodes, alone, in lists or by name."""

_INT64, _UINT64 = -(1 << 63), (1 << 64) - 1
_INT64_DIGITS = len(str(1 << 63))
_MAX_DIGITS = 4300
"""As `sys.int_info.default_max_str_digits`: text turns into an integer in quadratic time."""


def primitive_of(schema: Node) -> type | None:
    """Return the type whose exact instances are valid and travel as they are, or None."""
    return _PRIMITIVES.get(schema["type"]) if schema.keys() <= {"type", "metadata", "strict"} else None


def flat_model(schema: Node) -> tuple[type, int] | None:
    """Return (class, number of fields) of a model whose ``__dict__`` is what serialising it gives, else None.

    Only plain primitives, nothing renamed, left out, computed or serialised by hand.
    """
    if schema["type"] != "model" or schema.get("root_model") or schema.get("serialization"):
        return None
    inner = schema["schema"]
    if inner["type"] != "model-fields" or inner.get("computed_fields") or inner.get("serialization"):
        return None
    config = schema.get("config", {})
    if config.get("extra_fields_behavior") == "allow" or inner.get("extras_schema"):
        return None
    fields = cast("dict[str, Node]", inner["fields"])
    if all(item.keys() <= {"type", "schema", "metadata"} and _is_plain(item["schema"]) for item in fields.values()):
        return schema["cls"], len(fields)
    return None


def has_aliases(schema: Node) -> bool:
    """Whether a field somewhere has another name outside."""
    names = ("alias", "validation_alias", "serialization_alias")
    return any(name in node for node in _nodes(schema) for name in names)


def is_native(schema: Node) -> bool:
    """Whether the payload encoder knows all that serialising in Python mode can leave."""
    return all(node["type"] in _NATIVE for node in _nodes(schema))


def is_strict_anywhere(schema: Node) -> bool:
    """Whether a type or a model inside asks for strictness."""
    return any(node.get("strict") or node.get("config", {}).get("strict") for node in _nodes(schema))


def wire_schema(schema: Node, *, strict: bool) -> Node:
    """Return the schema with strictness kept to the types that travel as themselves.

    Args:
        schema: any core schema; it is not changed.
        strict: whether those types are strict everywhere; else only where the schema says so.
    """
    kind = schema["type"]
    node = {key: _mapped(value, strict) if key in _INNER else value for key, value in schema.items()}
    if kind in _CONVERTED:
        node["strict"] = False
    elif strict and kind in _PRIMITIVES and kind != "none":
        node["strict"] = True
        if kind == "int":
            reference = {"ref": node.pop("ref")} if "ref" in node else {}
            before = core_schema.no_info_before_validator_function(_widened, cast("Any", node))
            node = {**cast("Node", before), **reference}
    return node


def _is_plain(schema: Node) -> bool:
    while schema["type"] in {"nullable", "default"} and not schema.get("serialization"):
        schema = schema["schema"]
    return schema["type"] in _PRIMITIVES and not schema.get("serialization")


def _nodes(schema: object) -> Iterator[Node]:
    """Yield every node, definitions included."""
    if isinstance(schema, list | tuple):
        for item in cast("list[object]", schema):
            yield from _nodes(item)
    elif isinstance(schema, dict):
        node = cast("Node", schema)
        if not isinstance(node.get("type"), str):  # nodes by name, such as the fields of a model
            for item in node.values():
                yield from _nodes(item)
            return
        yield node
        for key in _INNER:
            if key in node:
                yield from _nodes(node[key])


def _mapped(value: object, strict: bool) -> object:
    apply: Callable[[object], object] = lambda item: _mapped(item, strict)  # noqa: E731 - keeps the three cases alike
    if isinstance(value, list):
        return [apply(item) for item in cast("list[object]", value)]
    if isinstance(value, tuple):
        return tuple(apply(item) for item in cast("tuple[object, ...]", value))
    if isinstance(value, dict):
        node = cast("Node", value)
        if isinstance(node.get("type"), str):
            return wire_schema(node, strict=strict)
        return {key: apply(item) for key, item in node.items()}
    return value


def _widened(value: object) -> object:
    """Read back an integer beyond 64 bits, which travels as decimal text; other text stays and is refused."""
    if isinstance(value, str) and _INT64_DIGITS <= len(value) <= _MAX_DIGITS and value.removeprefix("-").isdecimal():
        number = int(value)
        return value if _INT64 <= number <= _UINT64 else number
    return value
