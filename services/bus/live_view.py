"""A mirror that runs on the loop's time: wakes its reader and tells of removals.

Comes in: entries and removals as the bus delivers them. Goes out: the `QueueView` of the port.
Invariant: each task that was shown is reported removed exactly once, for whatever reason it left.
Not here: how entries arrive; the folding itself (`services.bus.mirror`).
"""

import asyncio
from collections.abc import Callable, Set

from services.bus.mirror import QueueMirror
from services.bus.settings import BusLimits
from services.domain.ids import TaskId
from services.domain.task import Claim, QueuedTask, TaskRecord


class LiveQueueView:
    """One reader's view; made, fed and read on one event loop."""

    def __init__(self, limits: BusLimits) -> None:
        self._mirror = QueueMirror(claim_ttl_s=limits.claim_ttl_s, task_age_max_s=limits.task_age_max_s)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._callbacks: list[Callable[[TaskId], None]] = []
        self._changed = asyncio.Event()
        self._closed = False

    def tasks(self) -> tuple[QueuedTask, ...]:
        """All tasks in the queue, in the order of first sight; expired claims are shown as no claim."""
        return self._mirror.tasks(self._loop.time())

    def get(self, task_id: TaskId) -> QueuedTask | None:
        """One task, or None when it is completed, cancelled or expired."""
        return self._mirror.get(task_id, self._loop.time())

    async def changed(self, timeout_s: float) -> bool:
        """Wait until something differs from the last call to `changed`; False after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def on_removed(self, callback: Callable[[TaskId], None]) -> None:
        """Be called when a task leaves the queue for any reason; must not block or raise."""
        self._callbacks.append(callback)

    def put(self, record: TaskRecord, *, claim: Claim | None, attempts: int, revision: int) -> None:
        """Take in an entry as the bus delivers it."""
        differs = self._mirror.put(
            record, claim=claim, attempts=attempts, revision=revision, now_s=self._loop.time()
        )
        if differs:
            self._changed.set()
        self._schedule()

    def remove(self, task_id: TaskId) -> None:
        """Take in that a task left; unknown tasks are ignored."""
        if self._mirror.remove(task_id):
            self._left(task_id)

    def keep_only(self, present: Set[TaskId]) -> None:
        """Remove every task that a complete list of the queue does not hold."""
        for task_id in self._mirror.keep_only(present):
            self._left(task_id)

    def close(self) -> None:
        """Stop the timer; nothing changes any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _left(self, task_id: TaskId) -> None:
        self._changed.set()
        for callback in self._callbacks:
            callback(task_id)

    def _schedule(self) -> None:
        due_s = self._mirror.due_s()
        if due_s is None or self._closed:
            return
        if self._timer is not None:
            if self._timer.when() <= due_s and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._pass_time)

    def _pass_time(self) -> None:
        self._timer = None
        passed = self._mirror.pass_time(self._loop.time())
        for task_id in passed.removed:
            self._left(task_id)
        if passed.lapsed:
            self._changed.set()
        self._schedule()
