"""Least loaded: the worker of a pool with the fewest requests that are not done.

Comes in: jobs. Goes out: workers. Lengths and caches are not looked at.
"""

from services.replay.policies.at_once import AtOnce, Pool, tie_break
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policy import Fleet
from services.replay.sequence import Job


class LeastLoaded:
    """The choice within one pool."""

    def __init__(self, pool: Pool) -> None:
        """Count nothing yet."""
        self._counts = dict.fromkeys(pool.workers, 0)
        self._chosen: dict[int, int] = {}

    def choose(self, job: Job) -> int:
        """Take the worker with the fewest requests."""
        worker = min(self._counts, key=lambda worker: (self._counts[worker], tie_break(job, worker)))
        self._counts[worker] += 1
        self._chosen[job.index] = worker
        return worker

    def spoke(self, job: Job) -> None:
        """Count it on: it is not done."""

    def ended(self, job: Job) -> None:
        """Count it no more."""
        worker = self._chosen.pop(job.index, None)
        if worker is not None:
            self._counts[worker] -= 1


def least_loaded(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy."""
    return on_pools(fleet, options, LeastLoaded)
