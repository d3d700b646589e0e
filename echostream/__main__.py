"""``python -m echostream``: the command line."""

from __future__ import annotations

from echostream.cli import main

if __name__ == "__main__":
    main()
