"""Consistent hashing with bounded loads: equal beginnings to one worker, until it has more than its share.

Comes in: jobs. Goes out: workers. Source: V. Mirrokni, M. Thorup, M. Zadimoghaddam, Consistent Hashing with
Bounded Loads (2016): workers and requests are points on a circle; a request goes to the next worker
clockwise that holds fewer than `ceil(c m / n)` requests, of m with this one on n workers. c = 1.25 and the
key, the first 256 tokens of a prompt, are those of SGLang's `prefix_hash` policy (sglang, commit 065f331).
A worker has 100 points, so that arcs are about equal. A prompt without a full block is placed by its number.
"""

from bisect import bisect_left
from math import ceil

from services.domain.errors import InternalFault
from services.replay.policies.at_once import AtOnce, Pool
from services.replay.policies.load import RequestCounts
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policy import Fleet
from services.replay.sequence import Job

BALANCE = 1.25
"""c: no worker has more than so many times its share of the requests."""
PREFIX_TOKENS = 256
"""Beginning of a prompt that is its key."""
POINTS = 100
"""On the circle, per worker."""
_CIRCLE = 1 << 64


def point(kind: int, number: int) -> int:
    """Place a number of some kind on a circle of 2^64 points (the finish of SplitMix64)."""
    mixed = (number * 0x9E3779B97F4A7C15 + kind * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % _CIRCLE
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % _CIRCLE
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % _CIRCLE
    return mixed ^ mixed >> 31


class BoundedHashing(RequestCounts):
    """The choice within one pool."""

    def __init__(self, pool: Pool, block_size_tokens: int) -> None:
        """Put the workers of a pool on the circle."""
        super().__init__(pool)
        circle = sorted(
            (point(2 + worker, copy), worker) for worker in pool.workers for copy in range(POINTS)
        )
        self._points = [at for at, _worker in circle]
        self._owners = [worker for _at, worker in circle]
        self._key_blocks = max(1, PREFIX_TOKENS // block_size_tokens)

    def choose(self, job: Job) -> int:
        """Take the first worker clockwise that has room."""
        leading = job.block_names[: self._key_blocks]
        key = point(0, leading[-1]) if leading else point(1, job.index)
        most = ceil(BALANCE * (sum(self.counts.values()) + 1) / len(self.counts))
        start = bisect_left(self._points, key)
        for step in range(len(self._owners)):
            worker = self._owners[(start + step) % len(self._owners)]
            if self.counts[worker] < most:
                return self.take(job, worker)
        raise InternalFault(message="every worker has more than its share")


def bounded_hashing(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy."""
    return on_pools(fleet, options, lambda pool: BoundedHashing(pool, fleet.timing.block_size_tokens))
