"""The batch of one worker: who runs, who waits, and which tokens the next step computes.

Comes in: sequences, pulls that ended. Goes out: the work of a step. Decoding sequences are counted, not
walked: how many there are, how long they are together, and in which steps they will need another block
(one in so many, by residue). Only when blocks run out are they looked at one by one, in order.
Invariant: before each step all decoding sequences are booked up to it; a step's plan equals that of
`services.engine.simulated.scheduler`. Not here: time, and which step a sequence ends with (`worker`).
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

from services.domain.performance import PrefillChunk
from services.replay.cache import BlockCache
from services.replay.presets import EngineTiming
from services.replay.sequence import Sequence, Stage, order_of


@dataclass(slots=True, kw_only=True)
class StepWork:
    """What one step computes."""

    decode_count: int = 0
    decode_context_tokens: int = 0
    chunks: list[PrefillChunk] = field(default_factory=list)
    pulls: list[Sequence] = field(default_factory=list)
    """Their blocks were just reserved."""
    preempted_count: int = 0


class Batch:
    """All sequences of one worker."""

    def __init__(self, timing: EngineTiming) -> None:
        """Make an empty batch."""
        self.timing = timing
        self.cache = BlockCache(timing.kv_blocks)
        self.waiting: list[Sequence] = []
        self.pulled: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        """Those of the running that have not all their KV."""
        self.complete: list[Sequence] = []
        """Get a token at the end of this step and did not decode before."""
        self.chunked: list[Sequence] = []
        """Computed a part of their prompt in this step."""
        self.decode_count = 0
        self.decode_context_tokens = 0
        """Of all decoding sequences together, in the next step to begin."""
        self.prefill_pending_tokens = 0
        """Still to be computed, of all sequences here; cached ones count until a sequence is admitted."""
        self.pulling_count = 0
        """Sequences with blocks whose KV is on its way, or has come and waits for a place."""
        self.preempted_count = 0
        self.stall_steps = 0
        """Steps that computed prompts while others decoded."""
        self._growth = [0] * timing.block_size_tokens
        self._orders = 0
        self._fresh = -1 - (1 << 60)

    # ------------------------------------------------------------------ what comes and goes

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""
        self._orders += 1
        sequence.order = self._orders
        self.waiting.append(sequence)
        if not sequence.pulls:
            self.prefill_pending_tokens += sequence.total_tokens

    def arrive(self, sequence: Sequence, tokens: int) -> None:
        """Count so many leading tokens of a pulled sequence as computed; it waits for its place."""
        sequence.stage = Stage.PULLED
        sequence.pulls = False
        sequence.computed_tokens = min(tokens, sequence.total_tokens - 1)
        self._seal(sequence)
        if sequence.cached_tokens is None and not sequence.emitted_tokens:
            sequence.cached_tokens = sequence.computed_tokens
        self.prefill_pending_tokens += sequence.missing_tokens
        self.pulled.append(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """Take a sequence out that waits, or whose KV is on its way."""
        if sequence.stage is Stage.WAITING:
            self.waiting.remove(sequence)
            return
        self.pulling_count -= 1
        self.give_back(sequence)
        sequence.stage = Stage.ENDED

    def leave(self, sequence: Sequence) -> None:
        """Take a running sequence out; it keeps its blocks."""
        _take(self.running, sequence)

    def rejoin(self, sequence: Sequence) -> None:
        """Let a sequence run again that left with its blocks."""
        insort(self.running, sequence, key=order_of)

    def give_back(self, sequence: Sequence, *, cold: bool = False) -> None:
        """Take all blocks of a sequence; what is full stays readable, its output included."""
        size, names = self.timing.block_size_tokens, sequence.names
        full = sequence.computed_tokens // size
        held = max(sequence.held_blocks, -(-sequence.computed_tokens // size))
        if full > len(names):
            fresh = self._fresh
            self._fresh = fresh - (full - len(names))
            names = sequence.names = [*names, *range(fresh, self._fresh, -1)]
        if full > sequence.shared_blocks:
            self.cache.seal(names, sequence.shared_blocks, full)
            sequence.shared_blocks = full
        self.cache.release(names, sequence.shared_blocks, held - sequence.shared_blocks, cold=cold)
        sequence.shared_blocks = sequence.held_blocks = 0

    # ------------------------------------------------------------------ decoding, counted

    def join_decodes(self, sequence: Sequence, step: int) -> None:
        """Let a running sequence that got a token at the end of `step` have one in every later step."""
        sequence.stage = Stage.DECODING
        sequence.joined_step = step
        sequence.stalls_before = self.stall_steps
        sequence.end_step = step + sequence.target_tokens - sequence.emitted_tokens
        self.decode_count += 1
        self.decode_context_tokens += sequence.total_tokens
        self._growth[(step + 1 - sequence.computed_tokens) % len(self._growth)] += 1

    def leave_decodes(self, sequence: Sequence, step: int) -> None:
        """Book a decoding sequence that gets its last token for now at the end of `step`."""
        self._growth[(sequence.joined_step + 1 - sequence.computed_tokens) % len(self._growth)] -= 1
        steps = step - sequence.joined_step
        sequence.emitted_tokens += steps
        sequence.computed_tokens += steps
        self.decode_count -= 1
        self.decode_context_tokens -= sequence.total_tokens
        sequence.spans.append((sequence.joined_step, step))
        sequence.end_step = -1

    def advance(self, step: int, count: int) -> None:
        """Book so many steps, from `step` on, in which all decoding sequences compute a token."""
        growth, size = self._growth, len(self._growth)
        blocks, rest = self.decode_count * (count // size), count % size
        first = step % size
        blocks += sum(growth[first : first + rest])
        if first + rest > size:
            blocks += sum(growth[: first + rest - size])
        self.decode_context_tokens += self.decode_count * count
        self.cache.take(blocks)

    def steps_with_room(self, step: int, count: int) -> int:
        """Count the steps from `step` on, at most `count`, for which there are blocks."""
        free, size = self.cache.free_blocks, len(self._growth)
        if self.decode_count * (count // size + 1) <= free:
            return count
        for steps in range(count):
            free -= self._growth[(step + steps) % size]
            if free < 0:
                return steps
        return count

    # ------------------------------------------------------------------ a step

    def begin(self, step: int) -> StepWork:
        """Choose what a step computes, reserve its blocks and book it."""
        work = StepWork()
        growth = self._growth[step % len(self._growth)]
        if growth > self.cache.free_blocks:
            self._grow_one_by_one(work, step)
        else:
            self.cache.take(growth)
        work.decode_count = self.decode_count
        work.decode_context_tokens = self.decode_context_tokens
        self.decode_context_tokens += self.decode_count
        budget = self.timing.step_tokens_max - work.decode_count
        if self.prefilling:
            for sequence in list(self.prefilling):
                if budget:
                    budget -= self._compute(work, sequence, budget)
        while self.pulled and budget and len(self.running) < self.timing.sequences_max:
            self.pulling_count -= 1
            budget -= self._join(work, self.pulled.popleft(), budget)
        if self.waiting and not work.preempted_count:
            self._admit(work, budget)
        if work.chunks and work.decode_count:
            self.stall_steps += 1
        return work

    def _grow_one_by_one(self, work: StepWork, step: int) -> None:
        """Give each decoding sequence in order the block it needs, at the cost of the last running ones."""
        size, place = self.timing.block_size_tokens, 0
        while place < len(self.running):
            sequence = self.running[place]
            place += 1
            computed = sequence.computed_tokens + step - sequence.joined_step - 1
            if sequence.stage is not Stage.DECODING or computed % size:
                continue
            while not self.cache.grow(1):
                victim = self.running[-1]
                self._preempt(victim, step)
                work.preempted_count += 1
                if victim is sequence:
                    return

    def _preempt(self, sequence: Sequence, step: int) -> None:
        if sequence.stage is Stage.DECODING:
            self.leave_decodes(sequence, step - 1)
        else:
            self.prefilling.remove(sequence)
            self.prefill_pending_tokens -= sequence.missing_tokens
        self.leave(sequence)
        self.give_back(sequence)
        sequence.computed_tokens = 0
        sequence.stage = Stage.WAITING
        self.prefill_pending_tokens += sequence.total_tokens
        self.preempted_count += 1
        insort(self.waiting, sequence, key=order_of)

    def _compute(self, work: StepWork, sequence: Sequence, budget: int) -> int:
        """Compute the next part of a running sequence's tokens; returns how many."""
        before, missing = sequence.computed_tokens, sequence.missing_tokens
        new = min(missing, budget)
        sequence.computed_tokens = before + new
        self.prefill_pending_tokens -= new
        self._seal(sequence)
        if new == missing:
            _take(self.prefilling, sequence)
            self.complete.append(sequence)
        if new == missing == 1:
            work.decode_count += 1
            work.decode_context_tokens += sequence.computed_tokens
        else:
            work.chunks.append(PrefillChunk(new_tokens=new, context_tokens=before))
            self.chunked.append(sequence)
        return new

    def _seal(self, sequence: Sequence) -> None:
        full = min(sequence.computed_tokens // self.timing.block_size_tokens, len(sequence.names))
        if full > sequence.shared_blocks:
            self.cache.seal(sequence.names, sequence.shared_blocks, full)
            sequence.shared_blocks = full

    def _join(self, work: StepWork, sequence: Sequence, budget: int) -> int:
        sequence.stage = Stage.PREFILLING
        insort(self.running, sequence, key=order_of)
        insort(self.prefilling, sequence, key=order_of)
        return self._compute(work, sequence, budget)

    def _admit(self, work: StepWork, budget: int) -> None:
        size = self.timing.block_size_tokens
        place = 0
        while place < len(self.waiting) and budget and len(self.running) < self.timing.sequences_max:
            sequence = self.waiting[place]
            total = sequence.total_tokens
            blocks = -(-total // size)
            hits = self.cache.admit(sequence.names, min(len(sequence.names), (total - 1) // size), blocks)
            if hits < 0:
                break
            place += 1
            sequence.shared_blocks, sequence.held_blocks = hits, blocks
            if sequence.pulls:
                sequence.stage = Stage.PULLING
                self.pulling_count += 1
                work.pulls.append(sequence)
                continue
            sequence.computed_tokens = hits * size
            self.prefill_pending_tokens -= hits * size
            if sequence.cached_tokens is None:
                sequence.cached_tokens = min(hits * size, sequence.job.prompt_tokens)
            budget -= self._join(work, sequence, budget)
        if place:
            del self.waiting[:place]


def _take(ordered: list[Sequence], sequence: Sequence) -> None:
    del ordered[bisect_left(ordered, sequence.order, key=order_of)]
