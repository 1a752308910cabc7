"""SGLang's cache-aware routing.

Comes in: jobs. Goes out: workers. Source: sglang, `sgl-model-gateway/src/policies/cache_aware.rs` at commit
053b63f with the defaults of its command line. When the most loaded worker has over 64 requests more than the
least loaded and over 1.5 times as many: the least loaded one. Else, if over 0.3 of the prompt was sent
somewhere before: a worker it was sent to. Else: the least loaded one (`sglang`); in earlier releases, and
still in that file's comment, the one that was sent the least text (`sglang-smallest-tree`).
Every 120 s each worker's part of the tree is cut to 67,108,864 characters, taken as four to a token. On two
pools each has its own tree. Of equals the first worker.
Deviation: prompts are compared by full blocks, not by characters.
"""

from dataclasses import dataclass

from services.replay.policies.at_once import AtOnce, Pool
from services.replay.policies.load import RequestCounts
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policies.request_tree import RequestTree
from services.replay.policy import Fleet
from services.replay.sequence import Job

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAwareSettings:
    """Settings of the policy, as its command line has them."""

    cache_threshold_frac: float = 0.3
    """Part of a prompt that must have been sent somewhere."""
    balance_abs_threshold_count: int = 64
    balance_rel_threshold: float = 1.5
    eviction_interval_s: float = 120.0
    max_tree_size_characters: int = 67_108_864
    to_smallest_tree: bool = False
    """Prompts that are new go where the least was sent, not where the load is least."""


class CacheAware(RequestCounts):
    """The choice within one pool."""

    def __init__(self, pool: Pool, block_size_tokens: int, settings: CacheAwareSettings) -> None:
        """Begin with nothing sent.

        Args:
            pool: workers to choose from.
            block_size_tokens: of the blocks that prompts are named by.
            settings: thresholds.
        """
        super().__init__(pool)
        self._settings = settings
        self._block_size_tokens = block_size_tokens
        self._tree = RequestTree(pool.workers)
        self._evicts_s = settings.eviction_interval_s

    def choose(self, job: Job) -> int:
        """Take a worker and note the prompt as sent there."""
        self._evict(job.arrival_s)
        worker = self._pick(job)
        self._tree.insert(job.block_names, worker)
        return self.take(job, worker)

    def _pick(self, job: Job) -> int:
        settings, counts = self._settings, self.counts
        least = min(counts, key=counts.__getitem__)
        most_count, least_count = max(counts.values()), counts[least]
        is_apart = most_count - least_count > settings.balance_abs_threshold_count
        if is_apart and most_count > settings.balance_rel_threshold * least_count:
            return least
        blocks, sent_to = self._tree.match(job.block_names)
        if blocks * self._block_size_tokens > settings.cache_threshold_frac * job.prompt_tokens:
            return sent_to
        if settings.to_smallest_tree:
            return min(counts, key=self._tree.sizes_blocks.__getitem__)
        return least

    def _evict(self, now_s: float) -> None:
        if now_s >= self._evicts_s:
            interval_s = self._settings.eviction_interval_s
            self._evicts_s = (now_s // interval_s + 1) * interval_s
            block_characters = CHARACTERS_PER_TOKEN * self._block_size_tokens
            self._tree.evict(self._settings.max_tree_size_characters // block_characters)


def sglang(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy as it is."""
    return _cache_aware(fleet, options, CacheAwareSettings())


def sglang_smallest_tree(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy as it was."""
    return _cache_aware(fleet, options, CacheAwareSettings(to_smallest_tree=True))


def _cache_aware(fleet: Fleet, options: PolicyOptions, settings: CacheAwareSettings) -> AtOnce:
    size = fleet.timing.block_size_tokens
    return on_pools(fleet, options, lambda pool: CacheAware(pool, size, settings))
