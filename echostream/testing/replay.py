"""How a failed simulation is run once more."""

from __future__ import annotations

import os

__all__ = ("replay_command",)


def replay_command(seed: int, *, option: bool = False) -> str:
    """Return what to run to see the same again.

    Args:
        seed: of the simulation.
        option: whether the seed came from the fixture, so that ``--es-seed`` sets it.
    """
    # pytest tells there what runs now, as "path::name (call)".
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if not test:
        return f"replay with SimNetwork(seed={seed})"
    return f'replay: python -m pytest "{test}"' + (f" --es-seed={seed}" if option else "")
