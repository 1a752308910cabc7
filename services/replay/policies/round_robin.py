"""Round robin: each worker of a pool in turn.

Comes in: jobs. Goes out: workers. Nothing is looked at.
"""

from services.replay.policies.at_once import AtOnce, Pool
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policy import Fleet
from services.replay.sequence import Job


class RoundRobin:
    """The choice within one pool."""

    def __init__(self, pool: Pool) -> None:
        """Begin with the first worker."""
        self._workers = pool.workers
        self._turn = -1

    def choose(self, job: Job) -> int:
        """Take the next worker."""
        self._turn = (self._turn + 1) % len(self._workers)
        return self._workers[self._turn]

    def spoke(self, job: Job) -> None:
        """Keep no account."""

    def ended(self, job: Job) -> None:
        """Keep no account."""


def round_robin(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy."""
    return on_pools(fleet, options, RoundRobin)
