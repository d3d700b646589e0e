"""Types and signatures in words: JSON Schema as a Python programmer writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from echostream.introspection.model import MethodDescription, Schema

__all__ = ("choices_of", "fields_of", "notes_of", "properties_of", "resolved", "signature", "type_text")

_PRIMITIVES: Final = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_FORMATS: Final = {
    "binary": "bytes", "date": "date", "date-time": "datetime", "duration": "timedelta", "time": "time", "uri": "URL",
    "uuid": "UUID",
}  # fmt: skip
_BOUNDS: Final = {
    "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}", "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}", "minLength": "length at least {}", "maxLength": "length at most {}",
    "minItems": "length at least {}", "maxItems": "length at most {}", "pattern": "matches {}",
}  # fmt: skip
_MAX_DEPTH: Final = 8
"""Nesting that is spelt out: deeper types are not read, and a schema came from the network."""


def type_text(schema: Any, depth: int = 0) -> str:
    """Return a type as Python writes it: ``list[Order]``, ``int | None``; ``Any`` for what says nothing."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return "Any"
    node = cast("Schema", schema)
    if "$ref" in node:
        return str(node["$ref"]).rpartition("/")[2]
    if "const" in node:
        return json.dumps(node["const"])
    if isinstance(node.get("enum"), list):
        return " | ".join(json.dumps(item) for item in node["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(node.get(key), list):
            return " | ".join(dict.fromkeys(type_text(item, depth + 1) for item in node[key]))
    return _plain(node, depth)


def _plain(node: Schema, depth: int) -> str:
    kind = node.get("type")
    if isinstance(kind, list):
        return " | ".join(type_text({**node, "type": item}, depth + 1) for item in cast("list[object]", kind))
    if kind == "array":
        return _array(node, depth)
    if kind == "object":
        if "properties" in node:
            return str(node.get("title", "object"))
        return f"dict[str, {type_text(node.get('additionalProperties'), depth + 1)}]"
    if kind == "string":
        return _FORMATS.get(str(node.get("format")), "str")
    return _PRIMITIVES.get(str(kind), "Any")


def _array(node: Schema, depth: int) -> str:
    if isinstance(node.get("prefixItems"), list):
        return f"tuple[{', '.join(type_text(item, depth + 1) for item in node['prefixItems'])}]"
    name = "set" if node.get("uniqueItems") else "list"
    return f"{name}[{type_text(node.get('items'), depth + 1)}]"


def signature(method: MethodDescription) -> str:
    """Return a method as one line: ``place(order: Order, *, urgent: bool = false) -> Receipt``."""
    parts: list[str] = []
    by_name_only = False
    for name, schema in properties_of(method.arguments).items():
        if name not in method.positional and not by_name_only:
            by_name_only = True
            parts.append("*")
        default = f" = {json.dumps(schema['default'])}" if "default" in schema else ""
        required = name in method.arguments.get("required", ())
        parts.append(f"{name}: {type_text(schema)}{default or ('' if required else ' = ...')}")
    if method.input_item is not None:
        parts.append(f"items: stream of {type_text(method.input_item)}")
    result = type_text(method.result)
    shown = f"stream of {result}" if method.returns_items else result
    return f"{method.name.rpartition('.')[2]}({', '.join(parts)}) -> {shown}"


def resolved(schema: Schema, whole: Schema) -> Schema:
    """Return what a schema refers to within the whole that it stands in; itself where it refers to nothing."""
    for _ in range(_MAX_DEPTH):
        if "$ref" not in schema:
            break
        name = str(schema["$ref"]).rpartition("/")[2]
        found: Any = whole.get("$defs", {}).get(name)
        if not isinstance(found, dict):
            break
        schema = cast("Schema", found)
    return schema


def properties_of(schema: Schema) -> Mapping[str, Schema]:
    """Return the properties of an object's schema by name."""
    found: Any = schema.get("properties")
    return cast("Mapping[str, Schema]", found) if isinstance(found, dict) else {}


def choices_of(schema: Schema | None) -> list[tuple[str, str]]:
    """Return (name, values) of every enumeration that a schema names: ``("Colour", '"red" | "blue"')``."""
    definitions: Any = (schema or {}).get("$defs")
    found = definitions.items() if isinstance(definitions, dict) else ()
    return [(str(name), type_text(node)) for name, node in found if isinstance(node, dict) and "enum" in node]


def fields_of(schema: Schema | None) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return (name, fields) of every object type in a schema, each field as (name, type, description).

    The outermost comes first. A field that may be left out has its default, or ``optional``, in its description.
    """
    if schema is None:
        return []
    definitions: Any = schema.get("$defs")
    found: dict[str, Schema] = {}
    for node in (schema, schema.get("items"), *(definitions.values() if isinstance(definitions, dict) else ())):
        if isinstance(node, dict) and properties_of(cast("Schema", node)):
            found.setdefault(type_text(node), cast("Schema", node))
    return [(name, _fields(node)) for name, node in found.items()]


def notes_of(schema: Schema) -> list[tuple[str, str]]:
    """Return (name, description and bounds) of the properties that have any."""
    notes = ((name, _notes(item)) for name, item in properties_of(schema).items())
    return [(name, "; ".join(found)) for name, found in notes if found]


def _notes(schema: Schema) -> list[str]:
    return [*([str(schema["description"])] if "description" in schema else []), *_bounds(schema)]


def _fields(node: Schema) -> list[tuple[str, str, str]]:
    required = node.get("required", ())
    rows: list[tuple[str, str, str]] = []
    for name, schema in properties_of(node).items():
        notes = _notes(schema)
        if "default" in schema:
            notes.append(f"default {json.dumps(schema['default'])}")
        elif name not in required:
            notes.append("optional")
        rows.append((name, type_text(schema), "; ".join(notes)))
    return rows


def _bounds(schema: Schema) -> list[str]:
    """Return what a value must be beyond its type; of an optional one, too."""
    choices: Any = schema.get("anyOf")
    parts = choices if isinstance(choices, list) else []
    nodes: list[Schema] = [schema, *(cast("Schema", part) for part in parts if isinstance(part, dict))]
    return [words.format(node[key]) for node in nodes for key, words in _BOUNDS.items() if key in node]
