"""What wireshark and qvis read: the keys of connections (``SSLKEYLOGFILE``) and what happened on each (``QLOGDIR``).

Off unless these environment variables are set, and then never in the way of a connection: a file that cannot be written
costs one line in the log of the program.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from echostream.config import MAX_QLOG_BYTES
from echostream.transport.sockets import describe_error
from echostream.types import clock

__all__ = ("KEY_LOG_VARIABLE", "QLOG_VARIABLE", "KeyLog", "QlogDirectory", "QlogFile", "key_log", "qlog_directory")

logger = logging.getLogger("echostream.transport")

KEY_LOG_VARIABLE = "SSLKEYLOGFILE"
"""As curl, browsers and Python's ssl have it."""
QLOG_VARIABLE = "QLOGDIR"
"""As most implementations of QUIC have it."""

_PRIVATE = 0o600
"""Mode of the files: who reads the keys reads the connections."""
_FLUSH_BYTES = 64 << 10
_FLUSH_SECONDS = 1.0
"""What a killed program may lose of its qlog."""
_TAIL = b"\n]}]}\n"
"""After the last event: the file is whole at every moment."""


def key_log() -> KeyLog | None:
    """Return where to write keys, if the environment says so and it can be written."""
    return _key_log(_read_variable(KEY_LOG_VARIABLE))


def qlog_directory() -> Path | None:
    """Return where to write a qlog of each connection, if the environment says so and it can be written."""
    return _qlog_directory(_read_variable(QLOG_VARIABLE))


class KeyLog:
    """The file of TLS secrets in NSS key log format; an engine writes a line at a time as to an open text file.

    Opened for each line, so that several programs can share it and nothing has to be closed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_failing = False

    def write(self, line: str) -> None:
        """Append; what goes wrong is logged, once until it goes well again."""
        try:
            self.append(line)
        except OSError as error:
            if not self._is_failing:
                logger.warning("! keys for %s=%s are lost: %s", KEY_LOG_VARIABLE, self._path, describe_error(error))
            self._is_failing = True
        else:
            self._is_failing = False

    def append(self, line: str) -> None:
        """Append; raises OSError."""
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _PRIVATE)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def flush(self) -> None:
        """Do nothing: a line is written at once."""


class QlogFile:
    """The qlog of one connection (qlog 0.3, JSON), which can be read while it grows.

    Args:
        path: a new file.
        is_client: whose view it is.
        odcid: the original destination connection id, which both sides know.
        engine: name of the implementation.
    """

    def __init__(self, path: Path, *, is_client: bool, odcid: bytes, engine: str) -> None:
        self._path: Path | None = path
        self._start = clock.monotonic()
        self._flushed = self._start
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._written_bytes = 0
        self._is_ending = False
        head = {
            "qlog_version": "0.3",
            "qlog_format": "JSON",
            "traces": [
                {
                    "vantage_point": {"name": f"echostream/{engine}", "type": "client" if is_client else "server"},
                    "common_fields": {
                        "ODCID": odcid.hex(),
                        "time_format": "relative",
                        "reference_time": clock.wall() * 1000,
                    },
                    "events": [],
                }
            ],
        }
        self._write(json.dumps(head).removesuffix("]}]}").encode(), at_end=False)

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """Add an event, such as ``transport:packet_sent``; the engines call it so."""
        if self._path is None or (self._is_ending and event == "connection_closed"):  # told once
            return
        now = clock.monotonic()
        record = {"time": (now - self._start) * 1000, "name": f"{category}:{event}", "data": data}
        text = b"\n" + json.dumps(record, default=str).encode()
        self._pending.append(text)
        self._pending_bytes += len(text)
        if self._is_ending or self._pending_bytes >= _FLUSH_BYTES or now - self._flushed >= _FLUSH_SECONDS:
            self._flushed = now
            self.flush()

    def end(self, *, owner: str, code: int, reason: str) -> None:
        """Note the close; what still happens is written at once."""
        data = {"owner": owner, "connection_code": code, "reason": reason}
        self.log_event(category="connectivity", event="connection_closed", data=data)
        self._is_ending = True
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._pending:
            comma = b"," if self._written_bytes else b""
            text = comma + b",".join(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            self._write(text, at_end=True)
            self._written_bytes += len(text)
            if self._written_bytes > MAX_QLOG_BYTES:
                logger.warning("! %s is full: no more of this connection is written", self._path)
                self._path = None

    def _write(self, text: bytes, *, at_end: bool) -> None:
        """Write in front of the tail."""
        if self._path is None:
            return
        try:
            flags = os.O_RDWR if at_end else os.O_RDWR | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(self._path, flags, _PRIVATE), "r+b") as file:
                if at_end:
                    file.seek(-len(_TAIL), os.SEEK_END)
                file.write(text + _TAIL)
        except OSError as error:
            logger.warning("! %s ends here: %s", self._path, describe_error(error))
            self._path = None


class QlogDirectory:
    """Makes the qlog of each connection; an engine takes it for its own kind of logger.

    Args:
        path: an existing directory.
        kind: the engine's trace with `QlogFile` in place of its memory.
        engine: name of the implementation.
    """

    def __init__(self, path: Path, kind: type[QlogFile], *, engine: str) -> None:
        self._path = path
        self._kind = kind
        self._engine = engine

    def start_trace(self, is_client: bool, odcid: bytes) -> QlogFile:
        """Begin a file: the name is the id of the connection and the side."""
        path = self._path / f"{odcid.hex()}_{'client' if is_client else 'server'}.qlog"
        return self._kind(path, is_client=is_client, odcid=odcid, engine=self._engine)

    def end_trace(self, trace: QlogFile) -> None:
        """Write the rest."""
        trace.flush()


def _read_variable(name: str) -> str:
    return "" if sys.flags.ignore_environment else os.environ.get(name, "")


@cache
def _key_log(path: str) -> KeyLog | None:
    if not path:
        return None
    log = KeyLog(path)
    try:
        log.append("")
    except OSError as error:
        _warn(KEY_LOG_VARIABLE, path, error, "keys are not logged; name a file that this program may write")
        return None
    logger.warning("= keys go to %s=%s: who reads it can read every connection", KEY_LOG_VARIABLE, path)
    return log


@cache
def _qlog_directory(path: str) -> Path | None:
    if not path:
        return None
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".echostream-{os.getpid()}"
        probe.touch(_PRIVATE)
        probe.unlink()
    except OSError as error:
        _warn(QLOG_VARIABLE, path, error, "connections are not logged; name a directory that this program may write")
        return None
    return directory


def _warn(variable: str, path: str, error: OSError, consequence: str) -> None:
    logger.warning("! %s=%s: %s; %s", variable, path, describe_error(error), consequence)
