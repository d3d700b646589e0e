"""``echostream call``: JSON in, JSON out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echostream.cli.console import Misuse, console, failures, print_json, run
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from echostream.client import RpcClient
    from echostream.introspection.model import MethodDescription
    from echostream.session.call import Call
    from echostream.session.proxy import ProxyMethod

__all__ = ("call",)


@with_target
def call(
    method: Annotated[str, typer.Argument(help="Whole name of the method, such as orders.place.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Values by position, or name=value. JSON; text needs no quotes, what begins with a minus needs its"
            " name. A single - reads them as one JSON object (by name) or array (by position) from standard input."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds for the call; left out, the method's own, or 10.")
    ] = None,
    meta: Annotated[list[str] | None, typer.Option(help="Metadata sent along, key=value; may be repeated.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON without colours, also on a terminal; errors as JSON.")
    ] = False,
    *,
    target: Target,
) -> None:
    """Call a method and print its answer as JSON.

    A stream of answers is printed one line each. Items that a method takes as a stream are read from standard input,
    one line of JSON each.
    """
    with failures(as_json=as_json):
        run(_Calling(method, arguments or [], timeout, meta or [], as_json).go(target))


class _Calling:
    """One call from the command line."""

    def __init__(self, method: str, texts: list[str], timeout: float | None, meta: list[str], as_json: bool) -> None:
        from echostream.cli.values import parse_metadata

        self._method = method
        self._texts = texts
        self._timeout = timeout
        self._metadata = parse_metadata(meta)
        self._compact = as_json
        self._fault: Misuse | None = None
        """What is wrong with the items on standard input: the call ends with an error of its own."""

    async def go(self, target: Target) -> None:
        from echostream.cli.lines import all_of_stdin
        from echostream.cli.remote import describe_method
        from echostream.cli.values import parse_arguments

        service = self._method.rpartition(".")[0] or None
        if service is None:
            target.must_be_named()
        async with target.connect(service) as client:
            known = await describe_method(client, self._method)
            document = all_of_stdin() if self._texts == ["-"] else None
            if document is not None and known is not None and known.sends_items:
                raise Misuse(f"{self._method} takes its items from standard input: give the arguments as words")
            args, kwargs = parse_arguments(self._texts, known, document)
            if known is None:  # a server without reflection, or an unknown name: its own error says more than we can
                options: dict[str, Any] = {} if self._timeout is None else {"timeout": self._timeout}
                result = await client.request(self._method, *args, metadata=self._metadata, **options, **kwargs)
                print_json(result, compact=self._compact)
                return
            await self._call(client, known, args, kwargs)

    async def _call(self, client: RpcClient, known: MethodDescription, args: list[Any], kwargs: dict[str, Any]) -> None:
        from echostream.cli.lines import stdin_is_terminal
        from echostream.cli.remote import ITEMS, remote_method
        from echostream.cli.values import expected
        from echostream.errors import EchoStreamError, InvalidArgumentError

        options: dict[str, Any] = {} if self._timeout is None else {"timeout": self._timeout}
        method = remote_method(client, known, metadata=self._metadata, **options)
        if known.sends_items:
            if stdin_is_terminal():
                typer.echo("items, one line of JSON each; end with Ctrl-D:", err=True)
            kwargs[ITEMS] = self._items(known)
        try:
            if known.returns_items:
                await self._print_items(method(*args, **kwargs))
            else:
                await self._print_result(client, method, args, kwargs)
        except TypeError as error:  # as Python says it of any call: missing, unknown or too many arguments
            raise Misuse(f"{error}\n{expected(known)}") from None
        except EchoStreamError as error:
            if self._fault is not None:
                raise self._fault from None
            if isinstance(error, InvalidArgumentError) and not self._compact:
                error.message += f"\n{expected(known)}"
            raise

    async def _items(self, method: MethodDescription) -> AsyncIterator[Any]:
        from echostream.cli.lines import json_lines
        from echostream.cli.values import expected

        try:
            async for item in json_lines(method.input_item):
                yield item
        except Misuse as fault:
            self._fault = Misuse(f"{fault}\n{expected(method)}")
            raise

    async def _print_items(self, items: AsyncIterator[Any]) -> None:
        async with aclosing(items) as block:  # type: ignore[type-var]
            async for item in block:
                print_json(item, compact=True)

    async def _print_result(
        self, client: RpcClient, method: ProxyMethod, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        started: Call[Any] = client.call(method, *args, **kwargs)
        try:
            if sys.stderr.isatty():
                await _show_progress(started)
            result = await started
        except asyncio.CancelledError:
            started.cancel()
            raise
        print_json(result, compact=self._compact)


async def _show_progress(started: Call[Any]) -> None:
    """Show the reports of a call as a bar on standard error, until it ends."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from echostream.discovery.service import safe_text

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console(stderr=True), transient=True)
    task = bar.add_task("")
    try:
        async for report in started.progress():
            bar.start()  # not before: most calls report nothing, and show nothing
            bar.update(task, completed=report.progress, total=report.total, description=safe_text(report.message or ""))
    finally:
        bar.stop()
