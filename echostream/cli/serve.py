"""``echostream serve``: run a server from a module, and stop it in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from echostream.cli.console import FAILED, Misuse, fail, failures, stop_signals
from echostream.cli.parent import LIFELINE, end_with_parent

if TYPE_CHECKING:
    from echostream.server import RpcServer
    from echostream.settings import ServeSettings

__all__ = ("load", "make_loop_factory", "run_server", "serve", "set_up_logs")


def serve(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE:OBJECT",
            help="An RpcServer, a @service class or object, or with --factory a function that returns a server."
            " Without :OBJECT, the only server of the module.",
            show_default=False,
        ),
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option("--bind", "-b", help="Address instead of the server's own, quic://host:port; may be repeated."),
    ] = None,
    factory: Annotated[bool | None, typer.Option("--factory", help="The object is a function: call it.")] = None,
    reload: Annotated[bool | None, typer.Option("--reload", help="Start anew when a source file changes.")] = None,
    reload_dir: Annotated[
        list[Path] | None, typer.Option(help="Folder to watch; may be repeated. By default this one.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Announce it on the local network, under this name.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve on the same port, 1 left out; Linux only.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds that running calls have to end; 15, or with --reload 1.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning, error or critical; left out, $LOG_LEVEL or info.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console, the default, or json.")] = None,
    log_config: Annotated[
        Path | None,
        typer.Option(help="TOML or JSON file for logging.config.dictConfig, instead of --log-level and --log-format."),
    ] = None,
    loop: Annotated[
        str | None, typer.Option(help="asyncio, the default, or uvloop, which comes with the extra fast.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file whose table serve has settings; left out, echostream.toml, if there is one."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Load the server, and exit without serving.")] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM; a second Ctrl-C kills at once."""
    with failures():
        from echostream.settings import load_settings

        settings = load_settings(
            config,
            app=app,
            bind=bind or None,
            factory=factory,
            name=name,
            reload=reload,
            reload_dirs=reload_dir or None,
            workers=workers,
            grace=grace,
            log_level=log_level,
            log_format=log_format,
            log_config=log_config,
            loop=loop,
        )
        if settings.app is None:
            raise Misuse('say what to serve: echostream serve MODULE:OBJECT, or app = "..." in the config file')
        if settings.reload and settings.workers > 1:
            raise Misuse("--reload and --workers cannot be combined: leave out --workers while you edit")
        set_up_logs(settings)
        make_loop_factory(settings.loop)
        if settings.reload and not check:
            from echostream.cli.reload import serve_and_reload

            given = {"grace": 1.0} if "grace" not in settings.model_fields_set else {}
            asyncio.run(serve_and_reload(settings.model_copy(update=given), config))
            return
        if lifeline := os.environ.pop(LIFELINE, None):
            end_with_parent(int(lifeline), signal.SIGTERM)
        server = load(settings)
        if check:
            return
        if settings.workers > 1:
            from echostream.cli.workers import serve_with_workers

            asyncio.run(serve_with_workers(server, settings))
        else:
            run_server(server, settings)


def set_up_logs(settings: ServeSettings) -> None:
    """Log as the settings say."""
    from echostream.observability.logs import configure_logging, configure_logging_from

    if settings.log_config is not None:
        configure_logging_from(settings.log_config)
    else:
        configure_logging(settings.log_level, form=settings.log_format)


def run_server(server: RpcServer, settings: ServeSettings) -> None:
    """Serve until Ctrl-C or SIGTERM, on the loop that the settings name."""
    with asyncio.Runner(loop_factory=make_loop_factory(settings.loop)) as runner:
        runner.run(_serve(server, settings.grace))


def make_loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop.

    Raises:
        Misuse: it is not installed.
    """
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        uvloop: Any = import_module("uvloop")
    except ImportError:
        raise Misuse("uvloop is not installed: pip install 'echostream[fast]', or leave out --loop") from None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def load(settings: ServeSettings) -> RpcServer:
    """Import and prepare the server; an error in the user's module is shown with its traceback."""
    from echostream.cli.loading import load_server
    from echostream.errors import EchoStreamError
    from echostream_derive import SignatureError

    if twice := [url for url in settings.bind if settings.bind.count(url) > 1 and not url.endswith(":0")]:
        raise Misuse(f"bind: {twice[0]} is given twice")
    try:
        server = load_server(str(settings.app), factory=settings.factory)
        if settings.bind:
            server.bind(*settings.bind)
        if settings.name is not None:
            server.enable_discovery(settings.name)
    except (Misuse, SignatureError, EchoStreamError):
        raise
    except Exception:  # noqa: BLE001 - the user's module
        sys.stderr.write(_users_traceback())
        fail(f"{settings.app} cannot be loaded")
        raise typer.Exit(FAILED) from None
    return server


def _users_traceback() -> str:
    """Return the traceback from the first line of the user's own code on."""
    kind, error, trace = sys.exc_info()
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(kind, error, trace))


def _is_ours(path: str) -> bool:
    folders = (Path(__file__).parent, Path(asyncio.__file__).parent)
    return path.startswith("<frozen importlib") or Path(path).parent in folders or "importlib" in path


async def _serve(server: RpcServer, grace: float) -> None:
    stop = asyncio.Event()
    with stop_signals(stop.set):
        await server.start()
        try:
            await stop.wait()
        finally:
            await server.stop(grace=grace)
