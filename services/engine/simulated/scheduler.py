"""Continuous batching: which tokens the next step computes, and who must wait.

Comes in: sequences, pulls that ended. Goes out: a plan per step. As vLLM 0.32's v1 scheduler: decodes
first, then chunks of prompts already begun, then waiting ones in the order (priority, arrival), all
within one token budget; when blocks run out, the last running sequence loses its blocks and computes
them again later. A whole prompt gets its blocks when it is admitted. A prompt of which one token is
missing counts as a decode, as in vLLM. A block becomes readable in the step that fills it.
Invariants: a running sequence holds blocks for every token computed; the first running sequence always
advances. Not here: durations, tokens, outputs (`engine`).
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

from services.domain.blocks import blocks_for
from services.domain.pace import StepSpan
from services.domain.performance import PerformanceModel, PrefillChunk
from services.domain.worker import WorkerLimits
from services.engine.simulated.pool import BlockPool, Holding
from services.engine.simulated.sequence import Sequence, Stage, prompt_blocks


@dataclass(slots=True, eq=False)
class StepPlan:
    """What one step does.

    Attributes:
        decode_count: sequences that compute one token.
        decode_context_tokens: KV tokens of these together.
        chunks: parts of prompts computed.
        complete: sequences whose tokens all have KV after this step: each gets a new token.
        pulls: sequences whose blocks were just reserved: their transfer begins, beside the step.
        preempted_count: sequences that lost their blocks.
    """

    decode_count: int = 0
    decode_context_tokens: int = 0
    chunks: list[PrefillChunk] = field(default_factory=list)
    complete: list[Sequence] = field(default_factory=list)
    pulls: list[Sequence] = field(default_factory=list)
    preempted_count: int = 0

    def span(self, performance: PerformanceModel) -> StepSpan:
        """Predict how long the step takes; 0 where it computes nothing."""
        prefill_s = performance.prefill_s(self.chunks)
        decode_s = performance.decode_s(
            sequence_count=self.decode_count, context_tokens=self.decode_context_tokens
        )
        return StepSpan(took_s=prefill_s + decode_s, prefill_s=prefill_s, decode_s=decode_s)


class Scheduler:
    """Decides every step of one engine."""

    def __init__(self, pool: BlockPool, limits: WorkerLimits) -> None:
        self._pool = pool
        self._limits = limits
        self.waiting: list[Sequence] = []
        """In order; none of them holds a block."""
        self.pulled: deque[Sequence] = deque()
        """Hold their blocks and wait for a place in the batch."""
        self.pulling: dict[Sequence, None] = {}
        """Their blocks are on their way."""
        self.running: list[Sequence] = []
        """In order."""

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its turn."""
        insort(self.waiting, sequence, key=_order)

    def arrive(self, sequence: Sequence) -> None:
        """A pull ended: the prompt can be read; the last token is computed again to sample from."""
        del self.pulling[sequence]
        size = self._limits.block_size_tokens
        prompt_tokens = sequence.request.prompt_tokens
        sequence.stage = Stage.WAITING
        sequence.ticket = None
        sequence.computed = min(prompt_tokens, len(sequence.tokens) - 1)
        full = sequence.full_blocks(prompt_tokens, size)
        self._pool.seal(sequence.holding, full[len(sequence.holding.shared) :])
        self.pulled.append(sequence)

    def remove(self, sequence: Sequence) -> Holding:
        """Take a sequence out, wherever it stands, and hand over its blocks."""
        stage, sequence.stage = sequence.stage, Stage.ENDED
        if stage is Stage.RUNNING:
            _take(self.running, sequence)
        elif sequence in self.pulling:
            del self.pulling[sequence]
        elif sequence in self.pulled:
            self.pulled.remove(sequence)
        else:
            _take(self.waiting, sequence)
        return sequence.holding

    def plan(self) -> StepPlan:
        """Choose the next step and reserve its blocks."""
        plan = StepPlan()
        budget = self._limits.step_tokens_max
        prefilling = self._plan_decodes(plan)
        budget -= plan.decode_count
        for sequence in prefilling:
            if budget and sequence.stage is Stage.RUNNING:
                budget -= self._plan_chunk(plan, sequence, budget)
        while self.pulled and len(self.running) < self._limits.sequences_max and budget:
            budget -= self._join(plan, self.pulled.popleft(), budget)
        if not plan.preempted_count:
            self._admit(plan, budget)
        return plan

    def _plan_decodes(self, plan: StepPlan) -> list[Sequence]:
        """Let every decoding sequence compute its token; the others, still prefilling, are returned."""
        size = self._limits.block_size_tokens
        running = self.running
        complete = plan.complete
        prefilling: list[Sequence] = []
        context = count = place = 0
        while place < len(running):
            sequence = running[place]
            place += 1
            computed = sequence.computed
            if len(sequence.tokens) - computed != 1:
                prefilling.append(sequence)
                continue
            if computed % size == 0 and not self._make_room(plan, sequence, computed // size + 1):
                break
            computed += 1
            sequence.computed = computed
            context += computed
            count += 1
            if computed % size == 0:
                self._seal(sequence)
            complete.append(sequence)
        plan.decode_count = count
        plan.decode_context_tokens = context
        return prefilling

    def _seal(self, sequence: Sequence) -> None:
        """Make blocks readable that are full now; of a pulled prompt some are already."""
        full = sequence.full_blocks(sequence.computed, self._limits.block_size_tokens)
        self._pool.seal(sequence.holding, full[len(sequence.holding.shared) :])

    def _make_room(self, plan: StepPlan, sequence: Sequence, blocks: int) -> bool:
        """Grow a sequence at the cost of the last running ones; False when it was the last itself."""
        while not self._pool.grow(sequence.holding, blocks):
            victim = self.running.pop()
            self._preempt(victim)
            plan.preempted_count += 1
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._pool.release(sequence.holding)
        sequence.holding = Holding(root=sequence.holding.root)
        sequence.computed = 0
        sequence.stage = Stage.WAITING
        insort(self.waiting, sequence, key=_order)

    def _plan_chunk(self, plan: StepPlan, sequence: Sequence, budget: int) -> int:
        before = sequence.computed
        new = min(sequence.remaining, budget)
        sequence.computed = before + new
        self._seal(sequence)
        if new == 1 and sequence.remaining == 0:
            plan.decode_count += 1
            plan.decode_context_tokens += sequence.computed
        else:
            plan.chunks.append(PrefillChunk(new_tokens=new, context_tokens=before))
        if sequence.remaining == 0:
            plan.complete.append(sequence)
        return new

    def _join(self, plan: StepPlan, sequence: Sequence, budget: int) -> int:
        sequence.stage = Stage.RUNNING
        insort(self.running, sequence, key=_order)
        return self._plan_chunk(plan, sequence, budget)

    def _admit(self, plan: StepPlan, budget: int) -> None:
        size = self._limits.block_size_tokens
        while self.waiting and budget and len(self.running) < self._limits.sequences_max:
            sequence = self.waiting[0]
            holding = sequence.holding
            reusable = sequence.full_blocks(len(sequence.tokens) - 1, size)
            pulls = sequence.ticket is not None
            if pulls:
                reusable = reusable[: prompt_blocks(sequence, size)]
            if not self._pool.admit(holding, reusable, blocks_for(len(sequence.tokens), size)):
                return
            del self.waiting[0]
            sequence.continuation.taint(holding.tainted)
            if pulls:
                sequence.stage = Stage.PULLING
                self.pulling[sequence] = None
                plan.pulls.append(sequence)
                continue
            sequence.computed = len(holding.shared) * size
            if sequence.cached_tokens is None:
                sequence.cached_tokens = min(sequence.computed, sequence.request.prompt_tokens)
            budget -= self._join(plan, sequence, budget)


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _take(ordered: list[Sequence], sequence: Sequence) -> None:
    del ordered[bisect_left(ordered, sequence.order, key=_order)]
