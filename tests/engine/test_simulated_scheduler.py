"""Continuous batching keeps its limits and starves nobody."""

from collections.abc import Sequence as Items

from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import CacheScope
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest, Sampling
from services.domain.worker import WorkerLimits
from services.engine.port import DecodeJob
from services.engine.simulated.oracle import Continuation, Vocabulary
from services.engine.simulated.pool import BlockPool
from services.engine.simulated.scheduler import Scheduler, StepPlan
from services.engine.simulated.sequence import Sequence, open_sequence

VOCABULARY = Vocabulary(size=400, first_ordinary_id=300, eos_token_id=1, eos_every_tokens=0)


def limits(
    *, kv_blocks: int = 64, context: int = 64, sequences: int = 8, step_tokens: int = 32
) -> WorkerLimits:
    """Limits of a small engine with blocks of 4 tokens."""
    return WorkerLimits(
        block_size_tokens=4,
        kv_blocks=kv_blocks,
        kv_bytes_per_token=1,
        context_tokens_max=context,
        sequences_max=sequences,
        step_tokens_max=step_tokens,
        compatibility="test",
    )


def job(number: int, prompt: Items[int], output_tokens: int, *, priority: int = 0) -> Sequence:
    """Make a sequence that decodes greedily."""
    request = InferenceRequest(
        request_id=RequestId(f"r{number}"),
        scope=CacheScope(model="m"),
        prompt_token_ids=tuple(prompt),
        sampling=Sampling(max_tokens=output_tokens, temperature=0.0, ignore_eos=True),
        priority=priority,
    )
    continuation = Continuation(request, vocabulary=VOCABULARY, context_tokens_max=64)
    return open_sequence(DecodeJob(request=request), continuation=continuation, arrival=number, now_s=0.0)


class Run:
    """A scheduler that is stepped by hand."""

    def __init__(self, bounds: WorkerLimits) -> None:
        self.limits = bounds
        self.pool = BlockPool(bounds.kv_blocks)
        self.scheduler = Scheduler(self.pool, bounds)
        self.ended: list[Sequence] = []

    def step(self) -> StepPlan:
        """Plan a step, check its limits, and write its tokens."""
        plan = self.scheduler.plan()
        chunk_tokens = sum(c.new_tokens for c in plan.chunks)
        assert plan.decode_count + chunk_tokens <= self.limits.step_tokens_max
        assert len(self.scheduler.running) <= self.limits.sequences_max
        assert self.pool.used_blocks <= self.limits.kv_blocks
        for sequence in self.scheduler.running:
            assert sequence.holding.blocks * self.limits.block_size_tokens >= sequence.computed
        assert all(s.holding.blocks == 0 for s in self.scheduler.waiting)
        for sequence in plan.complete:
            token = sequence.continuation.draw()
            sequence.tokens.append(token)
            if sequence.continuation.finish(token) is not None:
                self.pool.release(self.scheduler.remove(sequence))
                self.ended.append(sequence)
        return plan


CROWDS = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 14), st.integers(-1, 1)), min_size=1, max_size=14
)


@settings(deadline=None, max_examples=80)
@given(CROWDS, st.integers(16, 40), st.integers(1, 6))
def test_every_crowd_is_served_within_limits(
    crowd: list[tuple[int, int, int]], kv_blocks: int, sequences: int
) -> None:
    """However tight the blocks, every sequence ends, no limit is passed and all blocks come back."""
    run = Run(limits(kv_blocks=kv_blocks, sequences=sequences, step_tokens=16))
    for number, (prompt_tokens, output_tokens, priority) in enumerate(crowd):
        shared = [7] * (prompt_tokens // 2)
        own = [100 + number] * (prompt_tokens - len(shared))
        run.scheduler.add(job(number, [*shared, *own], output_tokens, priority=priority))
    steps = 0
    while len(run.ended) < len(crowd):
        run.step()
        steps += 1
        assert steps < 3000, "somebody starves"
    assert run.pool.used_blocks == 0


def test_decodes_go_before_chunks_and_share_one_budget() -> None:
    """A long prompt gets what the decodes of the step leave, in chunks, and they never pause."""
    run = Run(limits(step_tokens=10, kv_blocks=64))
    for number in range(4):
        run.scheduler.add(job(number, [number], 30))
    run.step()
    run.scheduler.add(job(9, [9] * 20, 4))
    plans = [run.step() for _ in range(5)]
    assert [p.decode_count for p in plans] == [4, 4, 4, 4, 5]
    chunks = [(c.new_tokens, c.context_tokens) for p in plans for c in p.chunks]
    assert chunks == [(6, 0), (6, 6), (6, 12), (2, 18)]


def test_urgent_requests_are_admitted_first() -> None:
    """A smaller priority goes first, equals in the order of arrival."""
    run = Run(limits(sequences=1))
    for number, priority in enumerate((0, 0, -1, 5)):
        run.scheduler.add(job(number, [number], 2, priority=priority))
    while len(run.ended) < 4:
        run.step()
    assert [s.request_id for s in run.ended] == ["r2", "r0", "r1", "r3"]


def test_last_sequence_is_preempted_and_computed_again() -> None:
    """When blocks run out the last one gives way, and later writes the tokens it would have written."""
    run = Run(limits(kv_blocks=8, context=32))
    first, last = job(1, [1] * 12, 16), job(2, [2] * 12, 16)
    alone = job(2, [2] * 12, 16).continuation
    run.scheduler.add(first)
    run.scheduler.add(last)
    preempted = 0
    while len(run.ended) < 2:
        preempted += run.step().preempted_count
    assert preempted > 0
    assert run.ended == [first, last]
    assert last.tokens[12:] == [alone.draw() for _ in range(16)]


def test_same_prompts_in_one_step_are_computed_once() -> None:
    """Requests that arrive together share the blocks that the first of them computes."""
    run = Run(limits())
    for number in range(3):
        run.scheduler.add(job(number, [5] * 17, 2))
    plan = run.step()
    assert sum(c.new_tokens for c in plan.chunks) + plan.decode_count == 17 + 1 + 1
    assert run.pool.used_blocks == 4 + 3
