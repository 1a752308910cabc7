"""Mooncake's Conductor: prefill where the predicted TTFT is least, and refuse early what would be late.

Comes in: jobs, overlaps, decoding sequences. Goes out: ways, refusals. Source: R. Qin et al., Mooncake (FAST
2025; arXiv 2407.00079), algorithm 1, sections 6 and 7; no code of it is public.
TTFT of a prefill worker: queue, which is the predicted prefill of what it was sent and has not computed, and
the prompt's own prefill. If the longest prefix anywhere is as long as its own times a threshold, or longer,
that prefix is fetched first: its transfer counts, and so it comes to lie at both (hot prefixes replicate);
else it computes from what it has. The decode worker is that with the least predicted time between tokens.
Refused: predicted TTFT over its target, or predicted time between tokens over its target at the moment the
prompt will be computed. For that, all decoding is taken to last equally long (section 7.4, system level):
those whose prompt is computed by then are added, those that decode for longer by then are taken out, and
the rest lie evenly on the decode workers. KV streams while prefill goes on; the prefill worker speaks first.
Deviations: the paper gives no threshold ("adjusted manually"): 2 here. How long decoding takes is the mean of
what ended so far; before that nobody is taken out. The paper has two pools; on one, whoever computes writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.replay.policies.at_once import Pool, tie_break
from services.replay.policies.options import PolicyOptions, pools_of
from services.replay.policy import FirstToken, Fleet, Mechanisms, Refusal, Way
from services.replay.sequence import Job

BALANCING_THRESHOLD = 2.0
"""`kvcache_balancing_threshold`: best prefix over own prefix from which on it is fetched."""

LATE_FIRST_TOKEN = Refusal(reason="predicted TTFT over its target")
SLOW_TOKENS = Refusal(reason="predicted time between tokens over its target")

STREAMED = Mechanisms(streams_kv=True, first_token=FirstToken.PREFILL)
"""Layer-wise prefill: KV leaves while the rest is computed."""


@dataclass(slots=True, kw_only=True)
class _UnderWay:
    """A job that was let in."""

    prefill: int
    decode: int
    prompt_tokens: int
    prefill_s: float
    speaks_s: float
    """When its prompt is computed: predicted, then true."""
    has_spoken: bool = False


class _PrefillQueue:
    """What one worker was sent and has not computed, as predicted."""

    def __init__(self) -> None:
        self._prompts_s: dict[int, float] = {}
        self._begun_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """Predict how long a new prompt waits; the first one's time runs already."""
        if not self._prompts_s:
            return 0.0
        head_s = next(iter(self._prompts_s.values()))
        return sum(self._prompts_s.values()) - min(head_s, now_s - self._begun_s)

    def add(self, index: int, prefill_s: float, now_s: float) -> None:
        if not self._prompts_s:
            self._begun_s = now_s
        self._prompts_s[index] = prefill_s

    def remove(self, index: int, now_s: float) -> None:
        del self._prompts_s[index]
        self._begun_s = now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """A prefill worker, as predicted."""

    ttft_s: float
    prefill_s: float
    worker: int
    fetch_blocks: int


class Conductor:
    """The policy."""

    def __init__(self, fleet: Fleet, options: PolicyOptions, prefill: Pool, decode: Pool | None) -> None:
        """Begin with nothing under way.

        Args:
            fleet: what it sees.
            options: the targets.
            prefill: workers that compute prompts.
            decode: workers that write; None: whoever computed.
        """
        self.mechanisms = options.mechanisms or STREAMED
        self.held_count = 0
        self._fleet = fleet
        self._options = options
        self._prefill = prefill
        self._decode = decode
        self._queues = {worker: _PrefillQueue() for worker in prefill.workers}
        self._under_way: dict[int, _UnderWay] = {}
        self._ended_count = 0
        self._decoded_s = 0.0

    def arrive(self, job: Job, now_s: float) -> Way | Refusal:
        """Let a job in where it is predicted to be quickest, or refuse it."""
        overlaps = {
            worker: self._fleet.overlap_blocks(worker, job.block_names) for worker in self._prefill.workers
        }
        source = max(overlaps, key=lambda worker: (overlaps[worker], tie_break(job, worker)))
        offer = min(
            (self._offer(job, worker, overlaps[worker], overlaps[source], now_s) for worker in overlaps),
            key=lambda offer: (offer.ttft_s, tie_break(job, offer.worker)),
        )
        if offer.ttft_s > self._options.ttft_slo_s:
            return LATE_FIRST_TOKEN
        if self._token_s_at(now_s + offer.ttft_s, job) > self._options.itl_slo_s:
            return SLOW_TOKENS
        decode = offer.worker if self._decode is None else self._quickest(job, self._decode)
        self._queues[offer.worker].add(job.index, offer.prefill_s, now_s)
        self._under_way[job.index] = _UnderWay(
            prefill=offer.worker,
            decode=decode,
            prompt_tokens=job.prompt_tokens,
            prefill_s=offer.prefill_s,
            speaks_s=now_s + offer.ttft_s,
        )
        return Way(
            prefill=offer.worker,
            decode=decode,
            fetch_from=source if offer.fetch_blocks else None,
            fetch_blocks=offer.fetch_blocks,
        )

    def _offer(self, job: Job, worker: int, own_blocks: int, best_blocks: int, now_s: float) -> _Offer:
        """Predict the TTFT at one worker: algorithm 1, lines 8 to 23."""
        timing = self._fleet.timing
        fetches = best_blocks > own_blocks and best_blocks >= BALANCING_THRESHOLD * own_blocks
        blocks = best_blocks if fetches else own_blocks
        moved_bytes = (blocks - own_blocks) * timing.block_bytes
        prefill_s = timing.performance.prompt_s(
            prompt_tokens=job.prompt_tokens,
            cached_tokens=blocks * timing.block_size_tokens,
            step_tokens_max=timing.step_tokens_max,
        )
        transfer_s = moved_bytes / timing.performance.transfer_bytes_per_s
        return _Offer(
            ttft_s=self._queues[worker].wait_s(now_s) + transfer_s + prefill_s,
            prefill_s=prefill_s,
            worker=worker,
            fetch_blocks=blocks if fetches else 0,
        )

    def _quickest(self, job: Job, pool: Pool) -> int:
        """Find the decode worker with the least predicted time between tokens, those on their way counted."""
        counts, tokens = dict.fromkeys(pool.workers, 1), dict.fromkeys(pool.workers, job.prompt_tokens)
        for other in self._under_way.values():
            if not other.has_spoken:
                counts[other.decode] += 1
                tokens[other.decode] += other.prompt_tokens

        def token_s(worker: int) -> float:
            state = self._fleet.state(worker)
            return self._fleet.timing.performance.decode_s(
                sequence_count=state.decode_count + counts[worker],
                context_tokens=state.decode_context_tokens + tokens[worker],
            )

        return min(pool.workers, key=lambda worker: (token_s(worker), tie_break(job, worker)))

    def _token_s_at(self, at_s: float, job: Job) -> float:
        """Predict the mean time between tokens at a moment, with this job."""
        decoded_s = self._decoded_s / self._ended_count if self._ended_count else float("inf")
        there = [
            other.prompt_tokens
            for other in self._under_way.values()
            if other.speaks_s <= at_s < other.speaks_s + decoded_s
        ]
        workers = len((self._decode or self._prefill).workers)
        return self._fleet.timing.performance.decode_s(
            sequence_count=-(-(len(there) + 1) // workers),
            context_tokens=(sum(there) + job.prompt_tokens) // workers,
        )

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Hand out nothing."""
        return ()

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Tell what was chosen at arrival."""
        return self._under_way[job.index].decode

    def spoke(self, job: Job, now_s: float) -> None:
        """Learn that a prompt is computed."""
        known = self._under_way[job.index]
        self._queues[known.prefill].remove(job.index, now_s)
        known.speaks_s, known.has_spoken = now_s, True

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Learn how long decoding takes."""
        known = self._under_way.pop(job.index)
        self._ended_count += 1
        self._decoded_s += now_s - known.speaks_s

    def wake_s(self) -> float | None:
        """Never."""
        return None


def mooncake(fleet: Fleet, options: PolicyOptions) -> Conductor:
    """Make the policy."""
    prefill, decode = pools_of(fleet.worker_count, options.prefill_workers)
    return Conductor(fleet, options, prefill, decode)
