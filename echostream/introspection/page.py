"""The description of a server as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from echostream.introspection.model import (
    EventDescription,
    MethodDescription,
    Schema,
    ServiceDescription,
    StreamDescription,
)
from echostream.introspection.text import choices_of, fields_of, notes_of, signature, type_text

__all__ = ("page",)

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #2a7ae2; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
code, .signature { font: 0.92em/1.5 ui-monospace, monospace; }
article { border: 1px solid var(--line); border-radius: 6px; margin: 1rem 0; padding: 0.2rem 1rem; }
article h3 { margin: 0.6rem 0; font-weight: normal; overflow-wrap: anywhere; } article h3 b { color: var(--mark); }
table { border-collapse: collapse; margin: 0.5rem 0; } td { padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
caption { text-align: left; font-weight: bold; }
.note { background: var(--soft); border-radius: 4px; padding: 0 0.4em; }
.doc { white-space: pre-line; } nav a { margin-right: 1em; }
"""


def page(services: Sequence[ServiceDescription], *, title: str | None = None) -> str:
    """Return the page.

    Args:
        services: what the server serves.
        title: by default the names of the services.
    """
    names = [item.name or "without a service" for item in services]
    shown = escape(title or ", ".join(item.name for item in services if item.name) or "EchoStream server")
    links = "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
    body = "".join(_service(item, name) for item, name in zip(services, names, strict=True))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{shown}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{shown}</h1>\n<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _service(service: ServiceDescription, name: str) -> str:
    version = f" <small>{escape(service.version)}</small>" if service.version else ""
    parts = [f'<h2 id="{escape(name)}">{escape(name)}{version}</h2>\n', _doc(service.doc)]
    parts += map(_method, service.methods)
    parts += map(_event, service.events)
    parts += map(_stream, service.streams)
    return "".join(parts)


def _method(method: MethodDescription) -> str:
    before = escape(method.name.removesuffix(method.name.rpartition(".")[2]))
    name, _, rest = signature(method).partition("(")
    notes = [
        *(["changes nothing"] if method.safe else ["may be tried again"] if method.idempotent else []),
        *([f"requires {method.requires}"] if method.requires is not None else []),
        *([f"timeout {method.timeout:g} s"] if method.timeout is not None else []),
    ]
    errors = [(item.reason, item.code, item.doc) for item in method.errors]
    return _article(
        f"{before}<b>{escape(name)}</b>({escape(rest)}",
        method.doc,
        notes,
        [
            _table("", [(name, "", note) for name, note in notes_of(method.arguments)]),
            *_tables(method.arguments, skip="object"),
            *_tables(method.input_item),
            *_tables(method.result),
        ],
        _table("errors", errors) if errors else "",
    )


def _event(event: EventDescription) -> str:
    payload = f": {escape(type_text(event.payload))}" if event.payload is not None else ""
    word = "event, listened to" if event.direction == "received" else "event, sent"
    return _article(f"<b>{escape(event.name)}</b>{payload}", event.doc, [word], _tables(event.payload))


def _stream(stream: StreamDescription) -> str:
    item = f" of {escape(type_text(stream.item))}" if stream.item is not None else ""
    return _article(f"<b>{escape(stream.name)}</b>{item}", stream.doc, ["stream"], _tables(stream.item))


def _article(heading: str, doc: str, notes: Sequence[str], tables: Iterable[str], more: str = "") -> str:
    marks = " ".join(f'<span class="note">{escape(note)}</span>' for note in notes)
    unique = "".join(dict.fromkeys(tables))
    return f'<article>\n<h3 class="signature">{heading}</h3>\n{marks}\n{_doc(doc)}{unique}{more}</article>\n'


def _tables(schema: Schema | None, *, skip: str | None = None) -> list[str]:
    """Return a table for every object type in a schema, but not for the one called `skip`."""
    tables = [_table(name, rows) for name, rows in fields_of(schema) if name != skip]
    return [*tables, *(_table(name, [("", values, "")]) for name, values in choices_of(schema))]


def _table(caption: str, rows: Sequence[tuple[str, str, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td><code>{escape(kind)}</code></td><td>{escape(note)}</td></tr>\n"
        for name, kind, note in rows
    )
    return f"<table><caption>{escape(caption)}</caption>\n{lines}</table>\n" if rows else ""


def _doc(doc: str) -> str:
    return f'<p class="doc">{escape(doc)}</p>\n' if doc else ""
