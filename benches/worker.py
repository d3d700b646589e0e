"""One child process of a bench: ``python -m benches.worker LOOP MODULE:FUNCTION OPTIONS``.

The function is an async context manager. A server's gives a dict, which goes to the parent as one line of JSON and on
to the client; it runs until its input ends. A client's gives a coroutine function that measures one round: each line
of JSON on its input holds the arguments, each line of its output the figures.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

__all__ = ("Round", "Workload", "run")

Round = Callable[..., Coroutine[Any, Any, dict[str, float]]]
"""Measures one round; what it returns is compared."""

Workload = Callable[..., AbstractAsyncContextManager[dict[str, Any] | Round]]


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    """Run a program on the loop named ``asyncio`` or ``uvloop``."""
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


async def _work(workload: Workload, options: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    async with workload(**options) as made:
        if isinstance(made, dict):
            answer(made)
            await asyncio.to_thread(sys.stdin.read)
            return
        answer({})
        while line := await asyncio.to_thread(sys.stdin.readline):
            answer(await made(**json.loads(line)))


def main() -> None:
    loop, place, options = sys.argv[1:]
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=pipe, flush=True)

    module, _, function = place.partition(":")
    workload: Workload = getattr(importlib.import_module(module), function)
    run(_work(workload, json.loads(options), answer), loop)


if __name__ == "__main__":
    main()
