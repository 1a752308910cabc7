"""NVIDIA Dynamo 1.6.1's KV routing, at its default settings.

Comes in: jobs, overlaps. Goes out: the worker with the lowest cost in blocks:
`max(0, (prefill tokens under way + prompt) / block size - overlap) + blocks in use, with this prompt's`.
Prefill tokens under way: of requests routed there and without a first token, what did not overlap; they go
all at once with the first token. Blocks in use: full prompt blocks of requests routed there that have not
ended, equal ones once. On two pools prefill has the first term only, decode the second, and there equal
blocks are counted each time. Found by experiments with its offline simulator. Deviation: it breaks ties by
chance, this by a hash.
"""

from dataclasses import replace

from services.domain.errors import InternalFault
from services.replay.policies.at_once import AtOnce, Pool, tie_break
from services.replay.policies.options import PolicyOptions, on_pools
from services.replay.policy import Fleet, Mechanisms
from services.replay.sequence import Job


class _Account:
    """What the router believes of one worker."""

    def __init__(self) -> None:
        self.prefill_tokens = 0
        self.blocks = 0
        """In use; equal ones once where blocks are united."""
        self._references: dict[int, int] = {}

    def missing(self, names: list[int]) -> int:
        """Count the blocks of a prompt that are not in use here; those in use are leading ones."""
        low, high = 0, len(names)
        while low < high:
            middle = (low + high + 1) // 2
            if names[middle - 1] in self._references:
                low = middle
            else:
                high = middle - 1
        return len(names) - low

    def refer(self, names: list[int]) -> None:
        references = self._references
        for name in names:
            references[name] = references.get(name, 0) + 1
        self.blocks = len(references)

    def forget(self, names: list[int]) -> None:
        references = self._references
        for name in names:
            count = references[name] - 1
            if count:
                references[name] = count
            else:
                del references[name]
        self.blocks = len(references)


class DynamoKv:
    """The choice within one pool."""

    def __init__(self, fleet: Fleet, pool: Pool) -> None:
        """Know of no request."""
        self._fleet = fleet
        self._pool = pool
        self._unites = pool.prefills
        self._accounts = {worker: _Account() for worker in pool.workers}
        self._chosen: dict[int, tuple[_Account, int]] = {}

    def choose(self, job: Job) -> int:
        """Take the worker with the lowest cost."""
        size, names = self._fleet.timing.block_size_tokens, job.block_names
        best: tuple[float, int, int, int] | None = None
        for worker, account in self._accounts.items():
            cost, overlap = 0.0, 0
            if self._pool.prefills:
                overlap = self._fleet.overlap_blocks(worker, names)
                cost = max(0.0, (account.prefill_tokens + job.prompt_tokens) / size - overlap)
            if self._pool.decodes:
                cost += account.blocks + (account.missing(names) if self._unites else len(names))
            offer = (cost, tie_break(job, worker), worker, overlap)
            if best is None or offer < best:
                best = offer
        if best is None:
            raise InternalFault(message="a pool without workers")
        _cost, _tie, worker, overlap = best
        account = self._accounts[worker]
        new_tokens = max(0, job.prompt_tokens - overlap * size) if self._pool.prefills else 0
        account.prefill_tokens += new_tokens
        if self._pool.decodes and self._unites:
            account.refer(names)
        elif self._pool.decodes:
            account.blocks += len(names)
        self._chosen[job.index] = (account, new_tokens)
        return worker

    def spoke(self, job: Job) -> None:
        """Count its prefill as done."""
        account, new_tokens = self._chosen[job.index]
        account.prefill_tokens -= new_tokens
        self._chosen[job.index] = (account, 0)

    def ended(self, job: Job) -> None:
        """Forget it."""
        chosen = self._chosen.pop(job.index, None)
        if chosen is None or not self._pool.decodes:
            return
        if self._unites:
            chosen[0].forget(job.block_names)
        else:
            chosen[0].blocks -= len(job.block_names)


PEERS_HANDOFFS = Mechanisms(shares_links=False, moves_whole_prompts=True)
"""Each transfer as if alone, of the whole prompt; the first token is written by the decode worker."""


def dynamo_kv(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy; unless told otherwise, handoffs too work as the peer's."""
    options = replace(options, mechanisms=options.mechanisms or PEERS_HANDOFFS)
    return on_pools(fleet, options, lambda pool: DynamoKv(fleet, pool))
