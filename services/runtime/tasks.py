"""Supervised tasks: nothing runs unowned, nothing fails unseen.

Comes in: coroutines of one owner. Goes out: their failures, to the owner's `on_failure`.
Invariant: when `Nursery.close` returns, none of its tasks runs.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Nursery:
    """The background tasks of one object."""

    def __init__(self, name: str, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._name = name
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine until it ends or the nursery closes.

        Raises:
            RuntimeError: the nursery is closed.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"{self._name} is closed")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        log.error("%s failed: %r", task.get_name(), error, exc_info=error)
        if self._on_failure is not None:
            self._on_failure(error)

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Cancel all tasks and wait for them; idempotent."""
        self._closed = True
        own = asyncio.current_task()
        tasks = [t for t in self._tasks if t is not own]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(*waits: "asyncio.Future[Any]", timeout_s: float | None = None) -> None:
    """Wait until one of several is done, or the time is up; cancels none of them."""
    everything: set[asyncio.Future[Any]] = set(waits)
    await asyncio.wait(everything, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
