"""Log output for programs: the standard library's records as lines for people or as JSON, with what they belong to.

Every record made while a handler runs carries its session, its method and the id of its request: the one that
`LoggingMiddleware` gave it, else the one that the caller sent (metadata ``es-request-id``), if any. EchoStream itself
never logs a payload at info or above.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tomllib
from datetime import UTC, datetime
from logging.config import dictConfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from echostream.errors import ConfigurationError
from echostream.middleware.logging import REQUEST_ID, sane_request_id
from echostream.session.context import Context

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "LOG_LEVELS",
    "NOISY",
    "BindContext",
    "ConsoleFormatter",
    "JsonFormatter",
    "configure_logging",
    "configure_logging_from",
)

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_STANDARD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"))
"""What every record has; the rest was given as ``extra=`` or bound here."""

_COLOURS: Final = {"DEBUG": 36, "INFO": 32, "WARNING": 33, "ERROR": 31, "CRITICAL": 35}

NOISY: Final = ("quic", "aioquic", "qh3", "asyncio", "watchfiles")
"""Libraries whose info is our debug."""


class BindContext(logging.Filter):
    """Adds the session, the method and the request id of the handler that is running; lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            context = Context.current()
        except LookupError:
            return True
        bound = {"session": context.session.id, "method": context.method}
        given = context.state.get("request_id") or sane_request_id(context.metadata.get(REQUEST_ID))
        if given is not None:
            bound["request_id"] = given
        for key, value in bound.items():
            record.__dict__.setdefault(key, value)
        return True


class ConsoleFormatter(logging.Formatter):
    """One line for people: time, level, logger, text, then what it belongs to."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = f"{record.levelname:<8}"
        if self._colour:
            level = f"\x1b[{_COLOURS.get(record.levelname, 0)}m{level}\x1b[0m"
        bound = "".join(f" {key}={_shown(value)}" for key, value in _extras(record).items())
        text = f"{time} {level} {record.name}: {record.getMessage()}{bound}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, what it belongs to, ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def configure_logging(
    level: str | None = None, *, form: Literal["console", "json"] = "console", stream: TextIO | None = None
) -> None:
    """Send the log of the whole program to a stream, instead of wherever it went before.

    Args:
        level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``; left out, ``$LOG_LEVEL``, else info.
        form: ``"console"`` for people (in colour on a terminal, unless ``$NO_COLOR``), ``"json"`` for machines.
        stream: left out, standard error.

    Raises:
        ConfigurationError: there is no such level.
    """
    wanted = level or os.environ.get("LOG_LEVEL") or "info"
    if wanted.lower() not in LOG_LEVELS:
        raise ConfigurationError("log level", f"{wanted!r} is none, expected {', '.join(LOG_LEVELS)}")
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.addFilter(BindContext())
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter(colour=colour))
    number = logging.getLevelNamesMapping()[wanted.upper()]
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))


def configure_logging_from(file: Path) -> None:
    """Configure the log of the whole program as a file says: `logging.config.dictConfig` in TOML or JSON.

    Loggers that exist stay, unless the file says ``disable_existing_loggers = true``.

    Raises:
        ConfigurationError: it cannot be read, or says what makes no sense.
    """
    try:
        text = file.read_text("utf-8")
        given = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        dictConfig({"version": 1, "disable_existing_loggers": False, **given})
    except OSError as error:
        raise ConfigurationError("log_config", f"cannot read {file} ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError, ImportError) as error:  # no TOML or JSON, or no such configuration
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        raise ConfigurationError("log_config", f"{file} cannot be used: {error}{cause}") from None


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else ascii(text)  # names come from the peer


def _extras(record: logging.LogRecord) -> Mapping[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
