"""Placement by chance alone, and by the better of two chances.

Comes in: jobs. Goes out: workers. Chance is a hash of the job's number, so a replay can be repeated.
Source of the second: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (2001); load is
the number of requests not done, as SGLang's gateway counts it where it knows no tokens
(`sgl-model-gateway/src/policies/power_of_two.rs`, commit 065f331). Lengths and caches are not looked at.
"""

from services.replay.policies.at_once import AtOnce, Pool, tie_break
from services.replay.policies.load import RequestCounts
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policy import Fleet
from services.replay.sequence import Job


class ByChance:
    """Any worker of a pool."""

    def __init__(self, pool: Pool) -> None:
        """Draw from a pool."""
        self._pool = pool

    def choose(self, job: Job) -> int:
        """Draw a worker, each as likely as the others."""
        return min(self._pool.workers, key=lambda worker: tie_break(job, worker))

    def spoke(self, job: Job) -> None:
        """Keep no account."""

    def ended(self, job: Job) -> None:
        """Keep no account."""


class BetterOfTwo(RequestCounts):
    """The less loaded of two different workers drawn by chance; the first drawn if they are equal."""

    def choose(self, job: Job) -> int:
        """Draw two and take the one with fewer requests."""
        drawn = sorted(self.counts, key=lambda worker: tie_break(job, worker))[:2]
        return self.take(job, min(drawn, key=self.counts.__getitem__))


def by_chance(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy that draws one."""
    return on_pools(fleet, options, ByChance)


def power_of_two(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy that draws two."""
    return on_pools(fleet, options, BetterOfTwo)
