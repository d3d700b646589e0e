"""The description of a server as an AsyncAPI 3.1 document.

A channel is a method, an event or an application stream; its address is the name on the wire. Methods and streams are
operations that the server receives; what is answered is their reply. An event that the server sends is one of ``send``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

from echostream.introspection.model import (
    EventDescription,
    MethodDescription,
    Schema,
    ServiceDescription,
    StreamDescription,
)
from echostream.types import Json

__all__ = ("asyncapi",)

_VERSION: Final = "3.1.0"

_FRAME_HEADER: Final[Schema] = {
    "type": "object",
    "description": "What the frame says beside its payload.",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "description": "Unsigned 64-bit; the same in request and response."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_ERROR: Final[Schema] = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "description": "Name of the status, such as NOT_FOUND."},
        "message": {"type": "string"},
        "details": {"type": "object"},
    },
    "required": ["status", "message"],
}
_SECURITY: Final = {
    "certificate": {"type": "X509", "description": "A certificate of the client."},
    "credentials": {"type": "http", "scheme": "bearer", "description": "Credentials in the client's Hello."},
}


def asyncapi(
    services: Sequence[ServiceDescription],
    *,
    title: str | None = None,
    version: str | None = None,
    urls: Iterable[str] = (),
) -> Json:
    """Return the AsyncAPI 3.1 document of a server.

    Args:
        services: what it serves, from `describe` or from its reflection service.
        title: name of the application; by default those of its services.
        version: its version; by default that of its first service.
        urls: where it can be reached.
    """  # fmt: skip
    return _Document().build(services, title, version, urls)


class _Document:
    """Collects channels, operations and components."""

    def __init__(self) -> None:
        self._channels: dict[str, Json] = {}
        self._operations: dict[str, Json] = {}
        self._schemas: dict[str, Schema] = {"FrameHeader": _FRAME_HEADER, "Error": _ERROR}
        self._tags: list[Json] = []

    def build(
        self, services: Sequence[ServiceDescription], title: str | None, version: str | None, urls: Iterable[str]
    ) -> Json:
        for service in services:
            self._add_service(service)
        names = [service.name for service in services if service.name]
        info: dict[str, Json] = {
            "title": title or ", ".join(names) or "EchoStream server",
            "version": version or next((item.version for item in services if item.version), "1.0.0"),
            "description": "Payloads are MessagePack; the arguments of a call travel as [positional, by name].",
        }
        if self._tags:
            info["tags"] = self._tags
        return {
            "asyncapi": _VERSION,
            "info": info,
            "defaultContentType": "application/msgpack",
            "servers": {f"server{index}": _server(url) for index, url in enumerate(urls, 1)},
            "channels": self._channels,
            "operations": self._operations,
            "components": {"schemas": self._schemas, "securitySchemes": _SECURITY},
        }

    def _add_service(self, service: ServiceDescription) -> None:
        tags: list[Json] = [{"name": service.name}] if service.name else []
        if service.name:
            self._tags.append(_described({"name": service.name}, service.doc))
        for method in service.methods:
            self._add_method(method, tags)
        for event in service.events:
            self._add_event(event, tags)
        for stream in service.streams:
            self._add_stream(stream, tags)

    def _add_method(self, method: MethodDescription, tags: list[Json]) -> None:
        key = method.name
        messages: dict[str, Json] = {
            "request": self._message("request", method.arguments, f"{key} request"),
            "error": {**_message("error"), "payload": {"$ref": "#/components/schemas/Error"}},
        }
        asked, answered = ["request"], "item" if method.returns_items else "response"
        messages[answered] = self._message(answered, method.result, f"{key} result")
        if method.input_item is not None:
            messages["input"] = self._message("input", method.input_item, f"{key} input")
            asked.append("input")
        operation: dict[str, Json] = {
            "action": "receive",
            **self._channel(key, key, messages, asked),
            "reply": self._channel(key, key, messages, [answered, "error"]),
            "tags": tags,
        }
        kind = {(False, True): "server", (True, False): "client", (True, True): "bidi"}
        shape = kind.get((method.sends_items, method.returns_items))
        extensions = {
            "x-echostream-stream": shape,
            "x-echostream-positional": method.positional or None,
            "x-echostream-timeout": method.timeout,
            "x-echostream-idempotent": method.idempotent or None,
            "x-echostream-safe": method.safe or None,
            "x-echostream-requires": method.requires,
            "x-echostream-errors": [{"reason": item.reason, "status": item.code} for item in method.errors] or None,
        }
        operation |= {name: value for name, value in extensions.items() if value is not None}
        if method.requires is not None:
            operation["security"] = [{"$ref": "#/components/securitySchemes/credentials"}]
        self._operations[key] = _described(operation, method.doc)

    def _add_event(self, event: EventDescription, tags: list[Json]) -> None:
        key = f"event-{event.name.replace('*', 'any')}"
        messages = {"event": self._message("event", event.payload, event.name)}
        received = event.direction == "received"
        operation = {
            "action": "receive" if received else "send",
            **self._channel(key, event.name, messages, ["event"]),
            "tags": tags,
        }
        self._operations[f"{'on' if received else 'emit'}-{key}"] = _described(operation, event.doc)

    def _add_stream(self, stream: StreamDescription, tags: list[Json]) -> None:
        key = f"stream-{stream.name}"
        messages = {"item": self._message("item", stream.item, f"{stream.name} item")}
        operation: dict[str, Json] = {
            "action": "receive",
            **self._channel(key, stream.name, messages, ["item"]),
            "x-echostream-stream": "bidi",
            "tags": tags,
        }
        self._operations[key] = _described(operation, stream.doc)

    def _channel(self, key: str, address: str, messages: dict[str, Json], used: list[str]) -> dict[str, Json]:
        """Add a channel; return how an operation names it and the messages that it uses."""
        self._channels[key] = {"address": address, "messages": messages}
        return {
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{name}"} for name in used],
        }

    def _message(self, name: str, schema: Schema | None, what: str) -> Json:
        message = {**_message(name), "title": what}
        if schema is not None:
            message["payload"] = self._hoisted(schema)
        return message

    def _hoisted(self, schema: Schema) -> Json:
        """Move the definitions of a schema to the components, where equal ones become one; return what is left."""
        definitions = cast("dict[str, Schema]", schema.get("$defs", {}))
        names = {name: self._free_name(name, body, definitions) for name, body in definitions.items()}
        for name, body in definitions.items():
            self._schemas[names[name]] = _renamed(body, names)
        return _renamed({key: value for key, value in schema.items() if key != "$defs"}, names)

    def _free_name(self, name: str, body: Schema, definitions: dict[str, Schema]) -> str:
        wanted = _key(name)
        for number in range(1, len(self._schemas) + len(definitions) + 2):
            key = wanted if number == 1 else f"{wanted}_{number}"
            known = self._schemas.get(key)
            if known is None or known == _renamed(body, {item: _key(item) for item in definitions}):
                return key
        raise AssertionError("more numbers than schemas were tried")


def _message(name: str) -> dict[str, Json]:
    message: dict[str, Json] = {"name": name, "headers": {"$ref": "#/components/schemas/FrameHeader"}}
    if name != "event":
        message["correlationId"] = {"location": "$message.header#/id"}
    return message


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Return a schema whose references lead to the components."""
    if isinstance(value, list):
        return [_renamed(item, names) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    node = cast("Schema", value)
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        name = reference.removeprefix("#/$defs/")
        return {**node, "$ref": f"#/components/schemas/{names.get(name, _key(name))}"}
    renamed = {key: _renamed(item, names) for key, item in node.items()}
    choice: Any = renamed.get("discriminator")  # OpenAPI's is an object, AsyncAPI's the name of the property
    if isinstance(choice, dict) and "propertyName" in choice:
        renamed["discriminator"] = choice["propertyName"]
    return renamed


def _key(name: str) -> str:
    """Return a name as AsyncAPI allows it for a key."""
    return "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "_" for letter in name)


def _server(url: str) -> Json:
    parts = urlsplit(url)
    return {"host": parts.netloc, "protocol": parts.scheme, "protocolVersion": "echostream/1"}


def _described(value: dict[str, Json], doc: str) -> dict[str, Json]:
    return {**value, "description": doc} if doc else value
