"""What sessions share, and its end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from echostream.config import Limits
from echostream.session.runtime import Runtime
from tests.serving import until


async def test_closing_ends_tasks_deadlines_and_threads() -> None:
    runtime = Runtime(Limits())
    task = runtime.tasks.start(asyncio.Event().wait())
    runtime.deadlines.add(runtime.loop.time() + 60, lambda: None)
    names = await runtime.loop.run_in_executor(runtime.threads, lambda: threading.current_thread().name)
    assert names.startswith("echostream")
    threads = runtime.threads
    assert runtime.threads is threads
    await runtime.close()
    await runtime.close()
    assert task.cancelled()
    assert len(runtime.deadlines) == 0
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.submit(print)


async def test_a_runtime_without_threads_makes_none() -> None:
    before = threading.active_count()
    runtime = Runtime(Limits(), debug=True)
    await runtime.close()
    assert threading.active_count() == before
    assert runtime.debug


async def test_the_number_of_threads_is_bounded() -> None:
    runtime = Runtime(Limits(max_threads=2))
    barrier, seen, lock = threading.Event(), set[str](), threading.Lock()

    def work() -> None:
        with lock:
            seen.add(threading.current_thread().name)
        barrier.wait(5)

    jobs = [runtime.loop.run_in_executor(runtime.threads, work) for _ in range(5)]
    await until(lambda: len(seen) == 2)
    barrier.set()
    await asyncio.gather(*jobs)
    assert len(seen) == 2
    await runtime.close()
