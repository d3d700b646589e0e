"""``echostream docs``: a server's AsyncAPI document and page, as files or to look at in a browser."""

from __future__ import annotations

from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echostream.cli.console import FAILED, Misuse, fail, failures, run, to_json
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echostream.introspection.model import ServiceDescription

__all__ = ("docs",)

docs = typer.Typer(
    help="The documentation of a server: an AsyncAPI document, or a page that needs no network to be read.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Source = Annotated[
    str | None, typer.Argument(metavar="[MODULE:OBJECT]", help="A program to describe without running it.")
]
Factory = Annotated[bool, typer.Option("--factory", help="The object is a function: call it.")]
Title = Annotated[str | None, typer.Option(help="Name of the application.")]


class Form(StrEnum):
    """What `gen` writes."""

    ASYNCAPI = "asyncapi"
    HTML = "html"


@docs.command()
@with_target
def gen(
    source: Source = None,
    form: Annotated[
        Form | None,
        typer.Option("--format", "-f", help="AsyncAPI 3.1 as JSON, or a page. By default as --output says."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default the terminal.")
    ] = None,
    title: Title = None,
    factory: Factory = False,
    *,
    target: Target,
) -> None:
    """Write the documentation of a program or of a running server."""
    with failures():
        services, urls = _services(source, target, factory=factory)
        chosen = form or (Form.HTML if output is not None and output.suffix in (".html", ".htm") else Form.ASYNCAPI)
        text = _rendered(services, chosen, title, urls)
        if output is None:
            typer.echo(text, nl=False)
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Misuse(f"--output: cannot write {output} ({error.strerror})") from None
        typer.echo(f"wrote {output}", err=True)


@docs.command()
@with_target
def serve(
    source: Source = None,
    host: Annotated[str, typer.Option(help="Address to listen on; everybody who reaches it may read.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 8000,
    title: Title = None,
    factory: Factory = False,
    *,
    target: Target,
) -> None:
    """Show the page to a browser until Ctrl-C; the document is at /asyncapi.json."""
    with failures():
        services, urls = _services(source, target, factory=factory)
        pages = {
            "/": ("text/html; charset=utf-8", _rendered(services, Form.HTML, title, urls)),
            "/asyncapi.json": ("application/json", _rendered(services, Form.ASYNCAPI, title, urls)),
        }
        try:
            server = ThreadingHTTPServer((host, port), _handler(pages))
        except OSError as error:
            fail(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port")
            raise typer.Exit(FAILED) from None
        with server:
            typer.echo(f"showing http://{host}:{server.server_port}/", err=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return


def _handler(pages: Mapping[str, tuple[str, str]]) -> type[BaseHTTPRequestHandler]:
    class Pages(BaseHTTPRequestHandler):
        timeout = 10.0  # seconds for a request: a browser may open connections and say nothing

        def do_GET(self) -> None:
            kind, text = pages.get(self.path.partition("?")[0], ("text/plain", ""))
            body = text.encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            """Say nothing: who looks at the page sees it."""

    return Pages


def _services(source: str | None, target: Target, *, factory: bool) -> tuple[list[ServiceDescription], list[str]]:
    """Return what a program or a running server serves, and where, as far as that is known."""
    if source is None:
        from echostream.cli.describe import described

        return run(described(target, None)), [target.url] if target.url else []
    from echostream.cli.loading import load_server

    return load_server(source, factory=factory).describe(), []


def _rendered(services: list[ServiceDescription], form: Form, title: str | None, urls: list[str]) -> str:
    if form is Form.HTML:
        from echostream.introspection.page import page

        return page(services, title=title)
    from echostream.introspection.asyncapi import asyncapi

    return to_json(asyncapi(services, title=title, urls=urls), indent=2) + "\n"
