"""Arguments from the command line: text where text is wanted, JSON elsewhere, and errors that say what was expected."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from echostream.cli.console import Misuse
from echostream.introspection.model import MethodDescription, Schema
from echostream.introspection.text import choices_of, fields_of, properties_of, resolved, signature, type_text

__all__ = ("expected", "parse_arguments", "parse_item", "parse_json", "parse_metadata")

_NAMED: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_NEAR_NAMES: Final = 3


def parse_arguments(
    texts: Sequence[str], method: MethodDescription | None, stdin: str | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Return the (positional, named) arguments of a call.

    Args:
        texts: ``value`` or ``name=value`` each.
        method: what is called, where the server says.
        stdin: JSON that stands for all of them: an object for arguments by name, an array for those by position.

    Raises:
        Misuse: something does not fit; says what, and what was expected.
    """
    if stdin is not None:
        return _from_document(stdin)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        name, value = _split(text, method)
        if name is not None:
            named[name] = _value(value, name, _schema_of(name, method), method)
            continue
        index = len(positional)
        where = method.positional[index] if method is not None and index < len(method.positional) else None
        positional.append(_value(text, where or f"argument {index + 1}", _schema_of(where, method), method))
    return positional, named


def parse_json(text: str, where: str) -> Any:
    """Return what a JSON text says.

    Raises:
        Misuse: it is none; says where it breaks.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        if not text.strip():
            raise Misuse(f"{where}: expected JSON, got nothing") from None
        quoted = f"; text needs its quotes, {json.dumps(text)}" if text.isalnum() else ""
        raise Misuse(f"{where}: {_shown(text)} is not JSON: {error}{quoted}") from None


def parse_metadata(texts: Sequence[str]) -> dict[str, str] | None:
    """Return the metadata of ``key=value`` texts.

    Raises:
        Misuse: one is not of that form.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Misuse(f"--meta {_shown(text)}: expected key=value")
        if key != key.lower():
            raise Misuse(f"--meta {_shown(text)}: keys are lower-case, write {key.lower()}={value}")
        found[key] = value
    return found or None


def expected(method: MethodDescription) -> str:
    """Return what a method takes, in words: its signature, and the fields of what it mentions."""
    lines = [f"expected: {signature(method)}"]
    for name, fields in fields_of(method.arguments):
        if name != "object":
            lines.append(f"  {name}: " + ", ".join(f"{field}: {kind}" for field, kind, _ in fields))
    lines += [f"  {name}: {values}" for name, values in choices_of(method.arguments)]
    return "\n".join(lines)


def _from_document(text: str) -> tuple[list[Any], dict[str, Any]]:
    value = parse_json(text, "standard input")
    if isinstance(value, dict):
        return [], cast("dict[str, Any]", value)
    if isinstance(value, list):
        return cast("list[object]", value), {}
    kind = type(value).__name__
    raise Misuse(f"standard input: expected an object of arguments by name, or an array of them, got {kind}")


def _split(text: str, method: MethodDescription | None) -> tuple[str | None, str]:
    """Return (name, value) of ``name=value``; no name where the text is a value with an equals sign in it."""
    match = _NAMED.fullmatch(text)
    if match is None:
        return None, text
    name = match[1]
    if method is None:
        return name, match[2]
    known = properties_of(method.arguments)
    if name in known:
        return name, match[2]
    if near := difflib.get_close_matches(name, known, _NEAR_NAMES, 0.6):
        raise Misuse(f"{method.name} has no argument {name!r}; did you mean {' or '.join(near)}?\n{expected(method)}")
    return None, text


def _schema_of(name: str | None, method: MethodDescription | None) -> Schema | None:
    return properties_of(method.arguments).get(name) if method is not None and name is not None else None


def _value(text: str, where: str, schema: Schema | None, method: MethodDescription | None) -> Any:
    """Read one value: as text where the type is text, else as JSON."""
    try:
        return _read(text, where, schema, method.arguments if method is not None else {})
    except Misuse as error:
        raise Misuse(f"{error}\n{expected(method)}" if method is not None else str(error)) from None


def parse_item(text: str, where: str, schema: Schema | None) -> Any:
    """Return one item that a method takes as a stream, of one line.

    Raises:
        Misuse: it is not JSON, and no text is wanted.
    """
    return _read(text, where, schema, schema or {})


def _read(text: str, where: str, schema: Schema | None, whole: Schema) -> Any:
    kinds = _kinds(schema, whole)
    try:
        value = json.loads(text)
    except ValueError as error:
        looks_like_json = text.startswith(("{", "[", '"'))
        if "string" in kinds or (not kinds and not looks_like_json):
            return _text(text, where, kinds)
        kind = type_text(schema) if schema is not None else "JSON"
        more = f" ({error})" if looks_like_json else ""
        raise Misuse(f"{where}: expected {kind} as JSON, got {_shown(text)}{more}") from None
    if "string" in kinds and not isinstance(value, str) and _kind_of(value) not in kinds:
        value = text
    return _text(value, where, kinds) if isinstance(value, str) else value


def _kinds(schema: Schema | None, whole: Schema) -> set[str]:
    """Return the JSON types that a schema takes, ``binary`` beside ``string`` for bytes; nothing where it says none."""
    if schema is None:
        return set()
    node = resolved(schema, whole)
    if "enum" in node or "const" in node:
        values: list[Any] = node.get("enum", [node.get("const")])
        return {_kind_of(value) for value in values}
    choices: list[Schema] = node.get("anyOf") or node.get("oneOf") or []
    if choices:
        return set().union(*(_kinds(choice, whole) for choice in choices))
    found: Any = node.get("type", ())
    kinds = {found} if isinstance(found, str) else set[str](found)
    return kinds | {"binary"} if node.get("format") == "binary" else kinds


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names: dict[type, str] = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _text(text: str, where: str, kinds: set[str]) -> Any:
    """Return the text; where only bytes are wanted, what it stands for in base64, as answers have them."""
    if kinds != {"string", "binary"}:
        return text
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Misuse(f"{where}: expected bytes as base64, got {_shown(text)}") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
