"""Baton's placement with everything it is to do: one configuration for every load, no ratio.

Comes in: jobs. Goes out: ways. One late-bound queue, shortest prefill first, where what can no longer be
in time comes later. Every worker may do both: as many decode as `services.router.roles` finds, the others
prefill; one that decodes takes a prompt when `services.domain.stalls` finds that worth it. KV moves while
prefill goes on, missing prefixes are fetched from whoever has them, the first token is shown just in
time, and copies left behind by a handoff are evicted first.
Simulated only as yet: KV that moves during prefill, fetched prefixes, eviction on request (docs/replay.md).
Invariant: a job is bound when a worker can begin it, not before. Not here: the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.stalls import Decoding, Targets, stall_price_s
from services.replay.policies.at_once import tie_break
from services.replay.policies.options import PolicyOptions
from services.replay.policy import FirstToken, Fleet, Mechanisms, Way, WorkerState
from services.replay.sequence import Job
from services.router.roles import DemandRecord, decoder_count

LATE_FRAC = 0.25
"""Share of the TTFT target by which a prompt that cannot be in time any more stands behind others."""
OUTPUT_TOKENS = 256.0
"""Expected length of an output before any has ended."""
OUTPUT_WEIGHT = 0.01
"""Weight of the newest length."""
GROWTH_BLOCKS = 10
"""Blocks left free for a sequence's output when it is bound to a worker."""

BATON = Mechanisms(first_token=FirstToken.JUST_IN_TIME, streams_kv=True, cools_handed_over=True)


@dataclass(slots=True, kw_only=True)
class _Given:
    """What one worker has been given."""

    prefilling: set[int]
    """Jobs whose prompts it computes."""
    prefill_end_s: float = 0.0
    coming: dict[int, float]
    """Jobs bound to decode here that have not begun: when their prompts are expected to be computed."""
    coming_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """One kept job, priced on every worker."""

    job: Job
    prefill_s: list[float]
    """By worker, a fetch included."""
    leading_blocks: list[int]
    """By worker: blocks that need no computing there."""
    holder: int
    """Who has the longest prefix."""
    fetches: list[bool]
    """By worker: whether it fetches that prefix."""


class Baton:
    """The policy."""

    def __init__(self, fleet: Fleet, options: PolicyOptions) -> None:
        """Begin with an empty queue."""
        self.mechanisms = options.mechanisms or BATON
        self._fleet = fleet
        self._options = options
        self._held: dict[int, Job] = {}
        self._given = [_Given(prefilling=set(), coming={}) for _ in range(fleet.worker_count)]
        self._bound: dict[int, tuple[int, int | None]] = {}
        """Who computes a job's prompt, and who writes, if that is known."""
        self._demand = DemandRecord()
        self._output_tokens = OUTPUT_TOKENS

    @property
    def held_count(self) -> int:
        """Jobs in the queue."""
        return len(self._held)

    def wake_s(self) -> float | None:
        """Never: a worker between two steps is asked for work anyway."""
        return None

    # ------------------------------------------------------------------ prompts

    def arrive(self, job: Job, now_s: float) -> Way | None:
        """Keep a job until a worker can begin it."""
        self._held[job.index] = job
        fleet = self._fleet
        best = max(fleet.overlap_blocks(worker, job.block_names) for worker in range(fleet.worker_count))
        self._demand.fold(self._prefill_s(job, best), now_s)
        return None

    def _prefill_s(self, job: Job, leading_blocks: int) -> float:
        timing = self._fleet.timing
        return timing.performance.prompt_s(
            prompt_tokens=job.prompt_tokens,
            cached_tokens=leading_blocks * timing.block_size_tokens,
            step_tokens_max=timing.step_tokens_max,
        )

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Bind what a worker can begin now, the most urgent first.

        A job for which waiting for a busy worker is shorter than any other way keeps its place there: later
        ones see that worker as busy for longer.
        """
        fleet, workers = self._fleet, range(self._fleet.worker_count)
        states = [fleet.state(worker) for worker in workers]
        free_s = [self._free_s(worker, states[worker], now_s) for worker in workers]
        decoders = self._decoders(states)
        offers = [self._offer(job) for job in self._held.values()]
        offers.sort(key=lambda offer: (self._urgency(offer, now_s), offer.job.index))
        decoding: dict[int, Sequence[Decoding]] = {}
        ways: list[tuple[Job, Way]] = []
        taken: set[int] = set()
        for offer in offers:
            best: tuple[float, int, int] | None = None
            for worker in workers:
                price_s = free_s[worker] - now_s + offer.prefill_s[worker]
                if states[worker].decode_count or self._given[worker].coming:
                    if worker in taken:
                        continue
                    if worker not in decoding:
                        decoding[worker] = fleet.decodes(worker)
                    stall_s = self._stall_s(offer, worker, decoding[worker], now_s)
                    if stall_s is None:
                        continue
                    price_s += stall_s
                rank = (price_s, tie_break(offer.job, worker), worker)
                if best is None or rank < best:
                    best = rank
            if best is None:
                continue
            worker = best[2]
            if free_s[worker] <= now_s and not self._given[worker].prefilling:
                stays = worker in decoders
                ways.append((offer.job, self._bind(offer, worker, stays=stays, now_s=now_s)))
                taken.add(worker)
            free_s[worker] += offer.prefill_s[worker]
        return ways

    def _free_s(self, worker: int, state: WorkerState, now_s: float) -> float:
        """Say when a worker can begin another prompt."""
        given = self._given[worker]
        at_s = now_s if state.step_end_s is None else max(now_s, state.step_end_s)
        return max(at_s, given.prefill_end_s) if given.prefilling else at_s

    def _offer(self, job: Job) -> _Offer:
        fleet, timing = self._fleet, self._fleet.timing
        leading = [fleet.overlap_blocks(worker, job.block_names) for worker in range(fleet.worker_count)]
        prefill_s = [self._prefill_s(job, blocks) for blocks in leading]
        most = max(leading)
        fetches = [False] * len(leading)
        behind_s = self._prefill_s(job, most)
        for worker, blocks in enumerate(leading):
            fetched_s = timing.performance.transfer_s((most - blocks) * timing.block_bytes) + behind_s
            if blocks < most and fetched_s < prefill_s[worker]:
                prefill_s[worker], leading[worker], fetches[worker] = fetched_s, most, True
        holder = next(
            worker for worker, blocks in enumerate(leading) if blocks == most and not fetches[worker]
        )
        return _Offer(job=job, prefill_s=prefill_s, leading_blocks=leading, holder=holder, fetches=fetches)

    def _urgency(self, offer: _Offer, now_s: float) -> float:
        """Order the queue: shortest prefill first, what is lost later."""
        prefill_s = min(offer.prefill_s)
        target_s = self._options.ttft_slo_s
        is_late = now_s - offer.job.arrival_s + prefill_s > target_s
        return prefill_s + (LATE_FRAC * target_s if is_late else 0.0)

    def _stall_s(
        self, offer: _Offer, worker: int, decoding: Sequence[Decoding], now_s: float
    ) -> float | None:
        """Price what a prompt does to those who decode at a worker, and to those about to."""
        timing = self._fleet.timing
        new_tokens = offer.job.prompt_tokens - offer.leading_blocks[worker] * timing.block_size_tokens
        targets = Targets(
            ttft_s=self._options.ttft_slo_s,
            tpot_s=self._options.itl_slo_s,
            output_tokens=self._output_tokens,
        )
        price_s = stall_price_s(
            decoding,
            stall_s=offer.prefill_s[worker],
            stalls_count=-(-new_tokens // timing.step_tokens_max),
            targets=targets,
        )
        if price_s is None:
            return None
        ends_s = now_s + offer.prefill_s[worker]
        return price_s + sum(
            max(0.0, ends_s - max(begins_s, now_s)) for begins_s in self._given[worker].coming.values()
        )

    def _bind(self, offer: _Offer, worker: int, *, stays: bool, now_s: float) -> Way:
        job, given = offer.job, self._given[worker]
        del self._held[job.index]
        given.prefilling.add(job.index)
        given.prefill_end_s = now_s + offer.prefill_s[worker]
        self._bound[job.index] = (worker, None)
        if stays:
            self._promise(job, worker)
        fetches = offer.fetches[worker]
        return Way(
            prefill=worker,
            decode=worker if stays else None,
            fetch_from=offer.holder if fetches else None,
            fetch_blocks=offer.leading_blocks[worker] if fetches else 0,
        )

    # ------------------------------------------------------------------ tokens

    def _decoders(self, states: Sequence[WorkerState], joining_tokens: int = 0) -> list[int]:
        """List the workers that should decode, of those that do: the fullest ones."""
        given = self._given
        counts = [state.decode_count + len(given[w].coming) for w, state in enumerate(states)]
        tokens = [state.decode_context_tokens + given[w].coming_tokens for w, state in enumerate(states)]
        busy = sorted((w for w in range(len(states)) if counts[w]), key=lambda w: (-tokens[w], w))
        return busy[: self._wanted(sum(counts) + 1, sum(tokens) + joining_tokens)]

    def _wanted(self, sequences: int, tokens: int) -> int:
        performance = self._fleet.timing.performance
        return decoder_count(
            self._fleet.worker_count,
            self._demand.demand(),
            step_s=lambda decoders: performance.decode_s(
                sequence_count=-(-sequences // decoders), context_tokens=tokens // decoders
            ),
            ttft_target_s=self._options.ttft_slo_s,
            tpot_target_s=self._options.itl_slo_s,
        )

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Choose who writes: of those that should decode, the one with the shortest step and no prompt."""
        fleet, given = self._fleet, self._given
        workers = range(fleet.worker_count)
        states = [fleet.state(worker) for worker in workers]
        size = fleet.timing.block_size_tokens
        needed = job.prompt_tokens // size + GROWTH_BLOCKS
        fits = [w for w in workers if states[w].free_blocks - given[w].coming_tokens // size > needed]
        chosen = [w for w in self._decoders(states, job.prompt_tokens) if w in fits]
        tokens = sum(s.decode_context_tokens for s in states) + sum(g.coming_tokens for g in given)
        counts = [states[w].decode_count + len(given[w].coming) for w in workers]
        if len(chosen) < self._wanted(sum(counts) + 1, tokens + job.prompt_tokens):
            empty = [w for w in fits if not counts[w] and (w == prefill or not given[w].prefilling)]
            chosen += [prefill] if prefill in empty else empty[:1]
        worker = min(chosen or fits or workers, key=lambda w: self._seat(w, states[w], job, prefill, now_s))
        self._promise(job, worker)
        return worker

    def _seat(
        self, worker: int, state: WorkerState, job: Job, prefill: int, now_s: float
    ) -> tuple[float, int]:
        """Price a place at a worker: its step, and how much longer than the prompt it will be prefilling."""
        given = self._given[worker]
        step_s = self._fleet.timing.performance.decode_s(
            sequence_count=state.decode_count + len(given.coming) + 1,
            context_tokens=state.decode_context_tokens + given.coming_tokens + job.prompt_tokens,
        )
        stall_s = 0.0
        if worker != prefill and given.prefilling:
            stall_s = max(0.0, given.prefill_end_s - max(self._given[prefill].prefill_end_s, now_s))
        return step_s + stall_s, tie_break(job, worker)

    def _promise(self, job: Job, worker: int) -> None:
        prefill, _ = self._bound[job.index]
        self._bound[job.index] = (prefill, worker)
        self._given[worker].coming[job.index] = self._given[prefill].prefill_end_s
        self._given[worker].coming_tokens += job.prompt_tokens

    # ------------------------------------------------------------------ ends

    def spoke(self, job: Job, now_s: float) -> None:
        """Learn that a prompt is computed: whoever writes sees it from now on."""
        prefill, decode = self._bound[job.index]
        self._given[prefill].prefilling.discard(job.index)
        if decode is not None:
            self._arrived(job, decode)

    def _arrived(self, job: Job, worker: int) -> None:
        given = self._given[worker]
        if given.coming.pop(job.index, None) is not None:
            given.coming_tokens -= job.prompt_tokens

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Learn how long an output was."""
        _, decode = self._bound.pop(job.index)
        self._output_tokens += OUTPUT_WEIGHT * (output_tokens - self._output_tokens)
        if decode is not None:
            self._arrived(job, decode)


def baton(fleet: Fleet, options: PolicyOptions) -> Baton:
    """Make the policy; a fixed split does not apply."""
    return Baton(fleet, options)
