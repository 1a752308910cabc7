"""llm-d's scorers: each gives a worker a score in [0, 1], the highest weighted sum wins.

Comes in: jobs, waiting requests and KV use of workers. Goes out: workers.
Sources: Gateway API Inference Extension, `pkg/epp/scheduling/framework/plugins` (commits 02308be, 00913f9),
and llm-d-router. On one pool the chart's default profile (`config/charts/inferencepool`, commit 0ae94df):
queue 2 ((most - own) / (most - least) waiting requests; 1 if all are equal), KV cache utilisation 2
(1 - used), prefix cache 3 (part of the prompt's blocks that it was sent before). On two pools
(`deploy/config/pd-epp-config.yaml`, commit e068bab): prefix cache 2 and queue 1 in either pool; the decode
worker is chosen first, and computes the prompt itself if it lacks fewer than 16 tokens.
Waiting are, as in vLLM's `num_requests_waiting`, also those whose KV is on its way. Prefixes are those the
router sent, not those the workers tell of: a least recently used index for each worker, tuned to its block
size and count, of the first 131,072 tokens of a prompt.
Deviation: of equals the source takes one by chance, this by a hash. The source reads the workers' counters
every 50 ms (`--status-delay-s 0.05`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from services.replay.policies.at_once import AtOnce, Pool, tie_break
from services.replay.policies.options import PolicyOptions, pools_of
from services.replay.policy import Fleet, Mechanisms, Way
from services.replay.sequence import Job

PREFIX_TOKENS_MAX = 131_072
"""Of a prompt that is compared."""
LOCAL_TOKENS = 16
"""A decode worker that lacks fewer computes them itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each score counts."""

    queue: float
    kv_use: float
    prefix: float


ONE_POOL = Weights(queue=2.0, kv_use=2.0, prefix=3.0)
TWO_POOLS = Weights(queue=1.0, kv_use=0.0, prefix=2.0)


class SentPrefixes:
    """The blocks sent to each worker, as far as they may still be cached there."""

    def __init__(self, capacity_blocks: int) -> None:
        """Begin with none.

        Args:
            capacity_blocks: kept per worker, the last used ones.
        """
        self._capacity_blocks = capacity_blocks
        self._sent: dict[int, OrderedDict[int, None]] = {}
        self._holders: dict[int, int] = {}
        """Bit set of workers, by block."""

    def matches(self, names: Sequence[int], worker_count: int) -> list[int]:
        """Count the blocks that each worker was sent, up to the first that none was.

        Returns:
            Shape [worker_count].
        """
        counts = [0] * worker_count
        for holders, run in groupby(self._holders.get(name, 0) for name in names):
            if not holders:
                break
            length = sum(1 for _ in run)
            for worker in range(worker_count):
                if holders >> worker & 1:
                    counts[worker] += length
        return counts

    def add(self, names: Sequence[int], worker: int) -> None:
        """Note a prompt as sent to a worker."""
        sent, bit = self._sent.setdefault(worker, OrderedDict()), 1 << worker
        for name in names:
            if name in sent:
                sent.move_to_end(name)
            else:
                sent[name] = None
                self._holders[name] = self._holders.get(name, 0) | bit
        while len(sent) > self._capacity_blocks:
            name, _none = sent.popitem(last=False)
            self._holders[name] &= ~bit
            if not self._holders[name]:
                del self._holders[name]


class Scorers:
    """The choice within one pool."""

    def __init__(self, fleet: Fleet, pool: Pool, weights: Weights, prefixes: SentPrefixes) -> None:
        """Weigh scores.

        Args:
            fleet: what is seen.
            pool: workers to choose from.
            weights: of the scores.
            prefixes: shared by all pools of a policy.
        """
        self._fleet = fleet
        self._pool = pool
        self._weights = weights
        self._prefixes = prefixes
        self._names_max = PREFIX_TOKENS_MAX // fleet.timing.block_size_tokens

    def missing_tokens(self, job: Job, worker: int) -> int:
        """Count the tokens of a prompt that were not sent to a worker before."""
        blocks = self._prefixes.matches(job.block_names[: self._names_max], self._fleet.worker_count)[worker]
        return job.prompt_tokens - blocks * self._fleet.timing.block_size_tokens

    def choose(self, job: Job) -> int:
        """Take the worker with the highest sum."""
        worker = self.pick(job)
        self.send(job, worker)
        return worker

    def pick(self, job: Job) -> int:
        """Find the worker with the highest sum, and note nothing."""
        names = job.block_names[: self._names_max]
        states = {worker: self._fleet.state(worker) for worker in self._pool.workers}
        matches = self._prefixes.matches(names, self._fleet.worker_count)
        waiting = {worker: state.waiting_count + state.pulling_count for worker, state in states.items()}
        least, most = min(waiting.values()), max(waiting.values())
        best: tuple[float, int, int] | None = None
        for worker, state in states.items():
            queue = (most - waiting[worker]) / (most - least) if most > least else 1.0
            kv_free = state.free_blocks / self._fleet.timing.kv_blocks
            prefix = matches[worker] / len(names) if names else 0.0
            score = (
                self._weights.queue * queue + self._weights.kv_use * kv_free + self._weights.prefix * prefix
            )
            offer = (-score, tie_break(job, worker), worker)
            if best is None or offer < best:
                best = offer
        return best[2] if best is not None else self._pool.workers[0]

    def send(self, job: Job, worker: int) -> None:
        """Note a prompt as sent."""
        self._prefixes.add(job.block_names[: self._names_max], worker)

    def spoke(self, job: Job) -> None:
        """Keep no account: the workers tell."""

    def ended(self, job: Job) -> None:
        """Keep no account: the workers tell."""


class DecodeFirst(AtOnce):
    """Chooses who writes, then whether anybody else computes the prompt, then who."""

    def __init__(self, mechanisms: Mechanisms, prefill: Scorers, decode: Scorers) -> None:
        """Make a policy on two pools.

        Args:
            mechanisms: how handoffs work.
            prefill: chooses who computes prompts.
            decode: chooses who writes.
        """
        super().__init__(mechanisms, prefill, decode)
        self._prefills = prefill
        self._decodes = decode

    def arrive(self, job: Job, now_s: float) -> Way:
        """Place a job at both."""
        decode = self._decodes.pick(job)
        is_local = self._decodes.missing_tokens(job, decode) < LOCAL_TOKENS
        prefill = decode if is_local else self._prefills.choose(job)
        self._decodes.send(job, decode)
        return Way(prefill=prefill, decode=decode)


def llm_d(fleet: Fleet, options: PolicyOptions) -> AtOnce:
    """Make the policy."""
    mechanisms = options.mechanisms or Mechanisms()
    prefixes = SentPrefixes(fleet.timing.kv_blocks)
    first, second = pools_of(fleet.worker_count, options.prefill_workers)
    if second is None:
        return AtOnce(mechanisms, Scorers(fleet, first, ONE_POOL, prefixes))
    return DecodeFirst(
        mechanisms,
        Scorers(fleet, first, TWO_POOLS, prefixes),
        Scorers(fleet, second, TWO_POOLS, prefixes),
    )
