"""This worker's claims in the queue: made, renewed, completed.

Comes in: tasks and jobs. Goes out: what the bus says of them. Invariant: an entry is written by one at a
time, since each write needs the revision that the last one made.
Not here: which task is claimed (`services.prefill.ordering`), what becomes of it (`services.prefill.phase`).
"""

import asyncio
import logging
from collections.abc import Callable

from services.bus.port import Bus
from services.domain.errors import BusUnavailable
from services.domain.ids import TaskId, WorkerId
from services.domain.task import QueuedTask
from services.prefill.job import Job
from services.runtime.clock import Clock
from services.runtime.metrics import Meters

log = logging.getLogger(__name__)

COMPLETE_TRIES = 30
COMPLETE_RETRY_S = 1.0
"""Completions tried, and the pause behind one that nobody confirmed: longer than NATS takes to come back."""


class Claims:
    """Writes of one worker to the queue."""

    def __init__(self, bus: Bus, worker_id: WorkerId, clock: Clock, meters: Meters) -> None:
        self._bus = bus
        self._worker_id = worker_id
        self._clock = clock
        self._meters = meters

    async def claim(self, queued: QueuedTask, overlap_tokens: int = 0) -> Job | None:
        """Claim a task; None when another worker was first.

        Args:
            queued: the task.
            overlap_tokens: leading tokens of its prompt that are cached here.

        Raises:
            BusUnavailable: nobody knows who has it.
        """
        claimed = await self._bus.queue.claim(queued, self._worker_id)
        self._meters.count("baton_queue_claims_total", outcome="lost" if claimed is None else "won")
        if claimed is None:
            return None
        uncached = max(1, queued.record.prompt_tokens - overlap_tokens)
        return Job(claimed=claimed, started_s=self._clock.now_s(), uncached_tokens=uncached)

    async def renew(self, job: Job, *, is_held: Callable[[], bool]) -> bool:
        """Renew a claim.

        Args:
            job: whose.
            is_held: whether it still is, once its entry can be written.

        Returns:
            False when another may have the task. While the bus is away the claim may still hold; handing
            over a result twice has effect once.
        """
        async with job.writing:
            if not is_held():
                return True
            try:
                renewed = await self._bus.queue.renew(job.claimed)
            except BusUnavailable:
                return True
            if renewed is None:
                return False
            job.claimed = renewed
            return True

    async def complete(self, job: Job) -> None:
        """Take a task out of the queue: else it is computed again, or waits for its deadline."""
        async with job.writing:
            for _ in range(COMPLETE_TRIES):
                try:
                    await self._bus.queue.complete(job.claimed)
                except BusUnavailable as error:
                    log.warning("completion of %s not confirmed: %s", job.task_id, error)
                    await asyncio.sleep(COMPLETE_RETRY_S)
                else:
                    return

    async def remove(self, task_id: TaskId) -> None:
        """Take a task that nobody waits for out of the queue."""
        log.info("%s waits for a gateway that is gone, it leaves the queue", task_id)
        try:
            await self._bus.queue.cancel(task_id)
        except BusUnavailable as error:
            log.warning("removal of %s not confirmed: %s", task_id, error)
