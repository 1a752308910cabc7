"""Who writes: decode workers fill up one after another, as few as the demand for prompts leaves.

Comes in: states, what has been promised. Goes out: a worker. A job goes to the fullest worker whose step
stays within `services.router.roles.step_limit_s`; where none does and fewer write than should, to one that
writes nothing yet, best where the prompt is computed, since then nothing moves; where enough do, a little
beyond that limit. So the last worker to begin has few sequences, and prompts
may stall it cheaply. Invariant: what is promised and has not begun counts like what decodes.
Not here: prompts (`baton`, `baton_offers`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.domain.spoiling import LengthRecord
from services.replay.policies.at_once import tie_break
from services.replay.policies.baton_coming import Coming, Lateness, lateness
from services.replay.policies.baton_moves import Holding, choose_moves
from services.replay.policy import Fleet, Move, WorkerState
from services.replay.sequence import Job
from services.router.learning.wait_record import WaitRecord
from services.router.roles import (
    KV_USE_MAX,
    PASSING_FRAC_MAX,
    STEP_FRAC_MAX,
    Decodes,
    DemandRecord,
    RecentLoad,
    decoder_count,
    step_limit_s,
)

OVER_FACTOR = 1.05
"""How far beyond the limit steps may be while as many workers decode as should: so that one that prefills is
not made to decode for one sequence."""
GROWTH_BLOCKS = 10
"""Blocks left free for a sequence's output when it is bound to a worker."""
MEMORY_LEAST_S = 0.5
"""Prompts are remembered for as long as an output takes, and at least so long."""
BUSY_FRAC = 1.0
"""Share of the TPOT target that a sequence may wait for a prompt under way at its worker, or its KV for the
link there, beyond where that is soonest."""


@dataclass(slots=True, kw_only=True)
class Given:
    """What one worker has been given."""

    prefilling: set[int] = field(default_factory=set)
    """Jobs whose prompts it computes."""
    prompts_end_s: float = 0.0
    """When those are computed that begin at once."""
    prefill_end_s: float = 0.0
    """When all are, the one included whose prefix is fetched first."""
    fetching: int | None = None
    """That job."""
    coming: dict[int, Coming] = field(default_factory=dict)
    """Jobs bound to decode here that have not begun."""
    coming_tokens: int = 0
    leaving_s: dict[int, tuple[float, Job]] = field(default_factory=dict)
    """Of those, the ones whose KV is on its way: when it should be here."""
    moving: set[int] = field(default_factory=set)
    """Jobs that decode here and are about to go on elsewhere."""

    def end_s(self, index: int) -> float:
        """Say when the prompt of a job here should be computed."""
        return self.prefill_end_s if index == self.fetching else self.prompts_end_s


class Seats:
    """Chooses decode workers."""

    def __init__(
        self,
        fleet: Fleet,
        given: Sequence[Given],
        lengths: LengthRecord,
        *,
        ttft_slo_s: float,
        itl_slo_s: float,
    ) -> None:
        """Know of no demand."""
        self._fleet = fleet
        self._given = given
        self._lengths = lengths
        self._ttft_slo_s = ttft_slo_s
        self._itl_slo_s = itl_slo_s
        self._demand = DemandRecord()
        self._recent = RecentLoad()
        self._waits = WaitRecord()
        self._step_s = 0.0
        """Of a worker that decodes, when last looked at; so are the next two."""
        self._decoders = 1
        """Workers that should decode."""
        self._wait_expected_s = 0.0
        """Mean, of a prompt."""

    def fold(self, job: Job, leading_blocks: int, prefill_s: float, now_s: float) -> None:
        """Learn of a prompt that arrived: how much of it is cached where most is, and what is left takes."""
        timing = self._fleet.timing
        shared_s = timing.performance.shared_s(
            prompt_tokens=job.prompt_tokens,
            cached_tokens=leading_blocks * timing.block_size_tokens,
            step_tokens_max=timing.step_tokens_max,
        )
        self._demand.fold(prefill_s, now_s, shared_s=shared_s)
        self._recent.fold(prefill_s, now_s, self._memory_s())

    def fold_wait(self, wait_s: float) -> None:
        """Learn how much longer a prompt took than its prefill alone."""
        self._waits.fold(wait_s)

    @property
    def wait_s(self) -> float:
        """Mean of that, lately."""
        return self._waits.mean_s

    def _memory_s(self) -> float:
        """How long what is placed now will decode: demand over that time decides who may."""
        return max(MEMORY_LEAST_S, self._lengths.mean_tokens * self._step_s)

    def choose(self, job: Job, prefill: int, now_s: float) -> int:
        """Choose who writes for a job whose prompt a worker is about to compute."""
        fleet, given = self._fleet, self._given
        workers = range(fleet.worker_count)
        states = [fleet.state(worker) for worker in workers]
        counts = [states[w].decode_count + len(given[w].coming) for w in workers]
        tokens = [states[w].decode_context_tokens + given[w].coming_tokens for w in workers]
        limit_s = self._plan(sum(counts) + 1, sum(tokens) + job.prompt_tokens, now_s)
        self._waits.expect(self._wait_expected_s)
        fits = self._with_room(job, states)
        wait_max_s = BUSY_FRAC * self._itl_slo_s
        soon = [w for w in fits if self._wait_s(w, job, prefill, now_s) <= wait_max_s]
        step_s = {w: self._seat_s(w, states[w], job) for w in soon if counts[w]}
        if seats := [w for w in step_s if step_s[w] <= limit_s]:
            late_s = {w: self._lateness(w, job, prefill, now_s).whole_s for w in seats}
            latest_s = min(late_s.values()) + wait_max_s
            return min((w for w in seats if late_s[w] <= latest_s), key=lambda w: (-tokens[w], w))
        if step_s and sum(map(bool, counts)) >= self._decoders:
            least = min(step_s, key=lambda w: (step_s[w], w))
            if step_s[least] <= min(STEP_FRAC_MAX * self._itl_slo_s, OVER_FACTOR * limit_s):
                return least
        if prefill in soon and not counts[prefill]:
            return prefill
        if empty := [w for w in fits if not counts[w] and not given[w].prefilling]:
            return empty[0]

        def harm_s(worker: int) -> float:
            return self._seat_s(worker, states[worker], job) + self._wait_s(worker, job, prefill, now_s)

        return min(fits or workers, key=lambda w: (harm_s(w), tie_break(job, w)))

    def _with_room(self, job: Job, states: Sequence[WorkerState]) -> list[int]:
        """List workers with memory for a job: those that no sequence is about to leave, if there are any."""
        size, given = self._fleet.timing.block_size_tokens, self._given
        needed = job.prompt_tokens // size + GROWTH_BLOCKS
        roomy = [
            w for w, state in enumerate(states) if state.free_blocks - given[w].coming_tokens // size > needed
        ]
        return [w for w in roomy if not given[w].moving] or roomy

    def coming(self, worker: int, job: Job, prefill: int, now_s: float) -> Coming:
        """Say when a job whose prompt begins should come to a worker that was chosen for it."""
        return Coming(
            at_s=max(now_s, self._given[prefill].end_s(job.index)),
            is_shown=False,
            begin_s=now_s,
            move_s=0.0 if worker == prefill else self._move_s(worker, job),
            late_s=self._lateness(worker, job, prefill, now_s).own_s,
        )

    def _lateness(self, worker: int, job: Job, prefill: int, now_s: float) -> Lateness:
        """Predict by how much KV would be late at a worker, and make that of others later."""
        if worker == prefill:
            return Lateness(own_s=0.0, others_s=0.0)
        return lateness(
            self._given[worker].coming.values(),
            move_s=self._move_s(worker, job),
            end_s=max(now_s, self._given[prefill].end_s(job.index)),
            now_s=now_s,
        )

    def _move_s(self, worker: int, job: Job) -> float:
        """Say what moving the KV that a worker lacks of a prompt takes on a link of its own."""
        timing = self._fleet.timing
        held = self._fleet.overlap_blocks(worker, job.block_names) * timing.block_size_tokens
        return timing.performance.transfer_s((job.prompt_tokens - held) * timing.kv_bytes_per_token)

    def moves(self, now_s: float) -> list[Move]:
        """Choose sequences that go on elsewhere; none while some do."""
        fleet, given = self._fleet, self._given
        workers = range(fleet.worker_count)
        if any(given[w].moving for w in workers):
            return []
        states = [fleet.state(worker) for worker in workers]
        size = fleet.timing.block_size_tokens
        holdings = [
            Holding(
                worker=w,
                sequence_count=states[w].decode_count + len(given[w].coming),
                context_tokens=states[w].decode_context_tokens + given[w].coming_tokens,
                free_blocks=states[w].free_blocks - given[w].coming_tokens // size,
                is_source=not given[w].coming,
                is_target=not given[w].prefilling or given[w].prefill_end_s <= now_s + self._itl_slo_s,
            )
            for w in workers
        ]
        sequences = sum(one.sequence_count for one in holdings)
        limit_s = self._plan(sequences, sum(one.context_tokens for one in holdings), now_s)
        return choose_moves(
            holdings,
            [fleet.running(worker) for worker in workers],
            timing=fleet.timing,
            decoders=self._decoders,
            limit_s=limit_s,
            growth_blocks=GROWTH_BLOCKS,
            life_s=self._lengths.mean_tokens * self._step_s,
        )

    def _plan(self, sequences: int, tokens: int, now_s: float) -> float:
        """Choose how many workers decode; returns how long a step may become, s."""
        decodes = Decodes(
            performance=self._fleet.timing.performance, sequence_count=sequences, context_tokens=tokens
        )
        workers, timing, demand = self._fleet.worker_count, self._fleet.timing, self._demand.demand()
        fits_tokens = KV_USE_MAX * timing.kv_blocks * timing.block_size_tokens
        recent_s = self._memory_s()
        demand = replace(demand, recent_load=self._recent.load(now_s, recent_s), recent_s=recent_s)
        decoders = decoder_count(
            workers,
            demand,
            step_s=decodes.step_s,
            ttft_target_s=self._ttft_slo_s,
            tpot_target_s=self._itl_slo_s,
            least=min(max(1, workers - 1), max(1, math.ceil(tokens / fits_tokens))),
            wait_factor=self._waits.tail_factor,
            now=self._decoders,
        )
        self._decoders = decoders
        wait_s = demand.wait_s(max(1, workers - decoders), passing_max_s=PASSING_FRAC_MAX * self._ttft_slo_s)
        self._wait_expected_s = min(self._ttft_slo_s, wait_s)
        self._step_s = decodes.step_s(decoders)
        return step_limit_s(decoders, decodes, tpot_target_s=self._itl_slo_s)

    def _seat_s(self, worker: int, state: WorkerState, job: Job) -> float:
        """Predict a worker's step with a job."""
        given = self._given[worker]
        return self._fleet.timing.performance.decode_s(
            sequence_count=state.decode_count + len(given.coming) + 1,
            context_tokens=state.decode_context_tokens + given.coming_tokens + job.prompt_tokens,
        )

    def _wait_s(self, worker: int, job: Job, prefill: int, now_s: float) -> float:
        """Predict how much longer than the job's prompt a worker will be prefilling."""
        given = self._given[worker]
        if not given.prefilling:
            return 0.0
        return max(0.0, given.prefill_end_s - max(self._given[prefill].end_s(job.index), now_s))
