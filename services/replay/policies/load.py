"""The simplest account of load: requests sent somewhere and not done.

Comes in: jobs and where they went. Goes out: counts. Invariant: a job counts at one worker of the pool, once.
Not here: the choice (one module per policy).
"""

from services.replay.policies.at_once import Pool
from services.replay.sequence import Job


class RequestCounts:
    """Requests not done, per worker of a pool."""

    def __init__(self, pool: Pool) -> None:
        """Count nothing yet."""
        self.counts = dict.fromkeys(pool.workers, 0)
        self._places: dict[int, int] = {}

    def take(self, job: Job, worker: int) -> int:
        """Count a job at a worker; returns the worker."""
        self.counts[worker] += 1
        self._places[job.index] = worker
        return worker

    def spoke(self, job: Job) -> None:
        """Count it on: it is not done."""

    def ended(self, job: Job) -> None:
        """Count it no more."""
        worker = self._places.pop(job.index, None)
        if worker is not None:
            self.counts[worker] -= 1
