"""JSON Schema of what travels, made by pydantic: one type, or several that share their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from echostream.types import Json

__all__ = ("json_schema", "json_schemas")


class _Lenient(GenerateJsonSchema):
    """Says nothing about what JSON Schema has no words for, such as a callable, instead of refusing the whole."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Keep quiet: a default that is no JSON is left out, and that is all there is to say."""


def json_schema(adapter: TypeAdapter[Any], mode: JsonSchemaMode) -> Json:
    """Return the JSON Schema of a type's wire form.

    Args:
        adapter: the compiled type.
        mode: ``"validation"`` for what is read, ``"serialization"`` for what is written (computed fields, serialisers).
    """
    return adapter.json_schema(by_alias=True, schema_generator=_Lenient, mode=mode)


def json_schemas(adapters: Mapping[str, TypeAdapter[Any]]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return (the schema of each type by its key, the definitions that they refer to as ``#/$defs/...``)."""
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (key, "validation", adapter) for key, adapter in adapters.items()
    ]
    schemas, common = TypeAdapter.json_schemas(inputs, by_alias=True, schema_generator=_Lenient)
    return {key: schema for (key, _), schema in schemas.items()}, common.get("$defs", {})
