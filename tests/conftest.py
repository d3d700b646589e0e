"""What every test shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _state_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep certificates and remembered servers away from the user's own; subprocesses inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield
