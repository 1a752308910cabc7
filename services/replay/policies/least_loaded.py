"""Least loaded: the worker of a pool with the fewest requests that are not done.

Comes in: jobs. Goes out: workers. Lengths and caches are not looked at.
"""

from services.replay.policies.at_once import AtOnce, tie_break
from services.replay.policies.load import RequestCounts
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policy import Fleet
from services.replay.sequence import Job


class LeastLoaded(RequestCounts):
    """The choice within one pool."""

    def choose(self, job: Job) -> int:
        """Take the worker with the fewest requests."""
        return self.take(
            job, min(self.counts, key=lambda worker: (self.counts[worker], tie_break(job, worker)))
        )


def least_loaded(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy."""
    return on_pools(fleet, options, LeastLoaded)
