"""Settings of the command line from a file and the environment, checked: options win over both.

Precedence: what the caller gives, ``ECHOSTREAM_...`` in the environment (and ``LOG_LEVEL``), the file, the defaults.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from echostream.config import DEFAULT_STOP_GRACE, MAX_WORKERS
from echostream.errors import ConfigurationError

__all__ = ("SETTINGS_FILE", "ServeSettings", "load_settings")

SETTINGS_FILE = "echostream.toml"
"""Read from the working folder when no other is named."""

_LEVELS = Literal["debug", "info", "warning", "error", "critical"]


class ServeSettings(BaseSettings):
    """What ``echostream serve`` may be told."""

    model_config = SettingsConfigDict(env_prefix="ECHOSTREAM_", extra="forbid")

    app: str | None = None
    """``MODULE:OBJECT``."""
    bind: Annotated[list[str], NoDecode] = []
    """Addresses instead of those that the server was made for; in the environment parted by commas."""
    name: str | None = None
    """Name to announce on the local network."""
    factory: bool = False
    """Whether the object is a function that returns the server."""
    reload: bool = False
    """Whether to start anew when a source file changes."""
    reload_dirs: Annotated[list[Path], NoDecode] = Field(default_factory=list)
    """Folders to watch; the working folder by default."""
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    """Processes that serve on the same port."""
    grace: float = Field(default=DEFAULT_STOP_GRACE, ge=0, le=3600)
    """Seconds that running calls have to end when the server stops."""
    log_level: _LEVELS = "info"
    log_format: Literal["console", "json"] = "console"
    log_config: Path | None = None
    """File with a configuration of the standard library's logging, instead of level and format."""
    loop: Literal["asyncio", "uvloop"] = "asyncio"
    """Event loop."""

    @field_validator("bind", "reload_dirs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def load_settings(file: Path | None = None, **given: Any) -> ServeSettings:
    """Return the settings of ``echostream serve``.

    Args:
        file: TOML file with a table ``[serve]``; left out, ``echostream.toml`` of the working folder if there is one.
        given: what was said on the command line; None means nothing.

    Raises:
        ConfigurationError: the file cannot be read, or a setting is unknown or out of its bounds.
    """
    path = file or Path(SETTINGS_FILE)
    if file is not None and not file.is_file():
        raise ConfigurationError("config", f"there is no file {file}")

    table = _table(path)
    common = {"log_level": os.environ["LOG_LEVEL"]} if os.environ.get("LOG_LEVEL") else {}

    class FromFile(ServeSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources = (InitSettingsSource(settings_cls, values) for values in (common, table))
            return init_settings, env_settings, *sources

    try:
        return FromFile(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise _refused(error) from None


def _table(path: Path) -> dict[str, Any]:
    """Return the table ``[serve]`` of a file, empty where there is none."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # unreadable, or no TOML
        raise ConfigurationError("config", f"{path} cannot be read: {error}") from None
    if unknown := sorted(set(content) - {"serve"}):
        hint = ": write it below [serve]" if unknown[0] in ServeSettings.model_fields else ""
        raise ConfigurationError("config", f"{path} has {unknown[0]!r} beside [serve], which nothing reads{hint}")
    table: object = content.get("serve", {})
    if not isinstance(table, dict):
        raise ConfigurationError("config", f"{path}: write [serve] as a table")
    return cast("dict[str, Any]", table)


def _refused(error: ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    known = ", ".join(ServeSettings.model_fields)
    if first["type"] == "extra_forbidden":
        return ConfigurationError(field, f"is no setting, expected one of {known}")
    text = str(first["msg"])
    return ConfigurationError(field.lower(), f"{first['input']!r}: {text[:1].lower()}{text[1:]}")
