"""``echostream describe``: what a server serves, for people and for tools."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from echostream.cli.console import Misuse, failures, print_json, run
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from echostream.introspection.model import MethodDescription, ServiceDescription

__all__ = ("describe", "described")


@with_target
def describe(
    name: Annotated[str | None, typer.Argument(help="A service or a method; left out, everything.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the JSON Schema of everything.")] = False,
    *,
    target: Target,
) -> None:
    """Show what a server serves: methods with their types and docs, events and streams."""
    with failures(as_json=as_json):
        services = run(described(target, name))
        chosen = _chosen(services, name)
        if as_json:
            print_json([dataclasses.asdict(item) for item in chosen])
        else:
            from echostream.discovery.service import safe_text

            for line in _lines(chosen, in_full=name is not None):
                typer.echo(safe_text(line).rstrip())  # the network wrote it


async def described(target: Target, name: str | None) -> list[ServiceDescription]:
    """Ask a server what it serves; `name` is a service or method to find it by."""
    from echostream.cli.remote import describe_server

    async with target.connect(_service_of(name)) as client:
        return await describe_server(client)


def _service_of(name: str | None) -> str | None:
    """Return what to look for on the network: the service of a method; a name without dots is a service."""
    return name if name is None else name.rpartition(".")[0] or name


def _chosen(services: list[ServiceDescription], name: str | None) -> list[ServiceDescription]:
    if name is None:
        return services
    for service in services:
        if service.name == name:
            return [service]
        methods = [method for method in service.methods if method.name == name]
        if methods:
            return [dataclasses.replace(service, methods=methods, events=[], streams=[])]
    known = [*(item.name for item in services), *(method.name for item in services for method in item.methods)]
    near = difflib.get_close_matches(name, known, 3, 0.5)
    raise Misuse(f"the server has no {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _lines(services: Sequence[ServiceDescription], *, in_full: bool) -> Iterator[str]:
    from echostream.introspection.text import type_text

    for service in services:
        yield f"{service.name or '(no service)'} {service.version}".rstrip()
        yield from _doc(service.doc, 2, in_full=in_full)
        for method in service.methods:
            yield from _method(method, in_full=in_full)
        for event in service.events:
            payload = f": {type_text(event.payload)}" if event.payload is not None else ""
            yield f"  event {event.name}{payload}  ({event.direction})"
            yield from _doc(event.doc, 6, in_full=in_full)
        for stream in service.streams:
            yield f"  stream {stream.name}" + (f" of {type_text(stream.item)}" if stream.item else "")
            yield from _doc(stream.doc, 6, in_full=in_full)


def _method(method: MethodDescription, *, in_full: bool) -> Iterator[str]:
    from echostream.introspection.text import choices_of, fields_of, signature

    yield f"  {signature(method)}"
    yield from _doc(method.doc, 6, in_full=in_full)
    if not in_full:
        return
    if method.requires is not None:
        yield f"      requires {method.requires}"
    yield from _arguments(method)
    seen: set[str] = set()
    for name, fields in (*fields_of(method.arguments), *fields_of(method.input_item), *fields_of(method.result)):
        if name == "object" or name in seen:
            continue
        seen.add(name)
        yield f"      {name}"
        yield from _rows(fields, 10)
    choices = dict((*choices_of(method.arguments), *choices_of(method.input_item), *choices_of(method.result)))
    for name, values in choices.items():
        yield f"      {name}: {values}"
    for error in method.errors:
        yield f"      raises {error.reason} ({error.code})" + (f": {error.doc}" if error.doc else "")


def _arguments(method: MethodDescription) -> Iterator[str]:
    """The arguments that have more to say than their name, type and default, which the signature shows."""
    from echostream.introspection.text import notes_of

    for name, notes in notes_of(method.arguments):
        yield f"      {name}: {notes}"


def _rows(fields: Sequence[tuple[str, str, str]], indent: int) -> Iterator[str]:
    return (f"{'':{indent}}{field}: {kind}" + (f"  ({note})" if note else "") for field, kind, note in fields)


def _doc(doc: str, indent: int, *, in_full: bool) -> Iterator[str]:
    lines = doc.splitlines() if in_full else doc.splitlines()[:1]
    return (f"{'':{indent}}{line}" for line in lines)
