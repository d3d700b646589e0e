"""The user's state folder: where development certificates and the memory of known servers live.

Owns the choice of the folder, its safety, and atomic private files in it. Knows nothing of what is in the files.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from echostream.errors import ConfigurationError

__all__ = ("state_folder", "write_private")


def state_folder() -> Path:
    """Return the folder, made with mode 0700 if need be.

    It is ``$ECHOSTREAM_STATE_DIR``, else ``$XDG_STATE_HOME/echostream``, else the platform's usual place
    (``~/.local/state/echostream`` on Linux).

    Raises:
        ConfigurationError: it cannot be made, or somebody else could write into it.
    """
    try:
        path = _choose()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise ConfigurationError(
            "state folder", f"cannot be made ({error}), set ECHOSTREAM_STATE_DIR to a folder of your own"
        ) from None
    if hasattr(os, "geteuid"):
        # Who can write here decides whom this user trusts.
        if facts.st_uid != os.geteuid():
            raise ConfigurationError(
                "state folder", f"{path} belongs to another user, set ECHOSTREAM_STATE_DIR to a folder of your own"
            )
        if stat.S_IMODE(facts.st_mode) & 0o022:
            raise ConfigurationError("state folder", f"others may write into {path}, run: chmod 700 {path}")
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace the file `path` in one step; only this user may read it (mode 0600).

    A reader sees the old content or the new one, never a part; of two writers the later one wins.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with O_EXCL and mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise ConfigurationError("state folder", f"cannot write {path} ({error.strerror})") from None


def _choose() -> Path:
    if explicit := os.environ.get("ECHOSTREAM_STATE_DIR"):
        return Path(explicit).expanduser().absolute()
    if xdg := os.environ.get("XDG_STATE_HOME"):
        return Path(xdg) / "echostream"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "echostream"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "echostream"
    return Path.home() / ".local" / "state" / "echostream"
