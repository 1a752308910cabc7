"""Which worker holds more of a task's prompt than others, and what is ahead of the task there.

Comes in: the queue as one worker sees it, how fast it is. Goes out: who holds most, and seconds until that
worker would begin the task. It would compute the task in less time; another one that takes it gains only
when the wait there is longer than what the prefix saves. Nobody has to be asked: what a worker has claimed,
and what is meant for it, stands in the queue. So does what begins alike: a worker that computes a prompt now
will hold its prefix, so what arrives meanwhile need not be computed again elsewhere.
Workers of one model are taken for equally fast. Invariant: a function of values.
Not here: what a worker takes (`services.prefill.ordering`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from services.domain.blocks import BlockHash
from services.domain.ids import WorkerId
from services.domain.performance import PerformanceModel
from services.domain.task import QueuedTask, TaskRecord


class Holder(NamedTuple):
    """A worker that holds the beginning of a prompt."""

    worker_id: WorkerId
    blocks: int
    """Leading blocks of the prompt."""
    computing: bool
    """Whether it is still computing them."""


class Rivals:
    """The other workers, as far as the queue tells of them."""

    def __init__(
        self,
        tasks: Sequence[QueuedTask],
        *,
        performance: PerformanceModel,
        block_size_tokens: int,
        step_tokens_max: int,
    ) -> None:
        """Sum up what each worker has before it.

        Args:
            tasks: everything in the queue.
            performance: of a worker.
            block_size_tokens: of its engine.
            step_tokens_max: most prompt tokens per engine step.
        """
        self._performance = performance
        self._block_size_tokens = block_size_tokens
        self._step_tokens_max = step_tokens_max
        self.waiting_count = 0
        """Tasks that nobody has claimed."""
        self._claimed_s: dict[WorkerId, float] = {}
        self._computing: dict[BlockHash, WorkerId] = {}
        meant_s: dict[WorkerId, list[float]] = {}
        for queued in tasks:
            record = queued.record
            if queued.claim is not None:
                holder = queued.claim.worker_id
                took_s = self._prompt_s(
                    record, record.preferred_overlap_blocks if holder == record.preferred_worker_id else 0
                )
                self._computing.update((mark.block_hash, holder) for mark in record.marks)
                before_s = self._claimed_s.get(holder)
                # Of what is computed now, half is left on average; what was claimed beside it, wholly.
                self._claimed_s[holder] = took_s / 2 if before_s is None else before_s + took_s
                continue
            self.waiting_count += 1
            if record.preferred_worker_id is not None:
                meant_s.setdefault(record.preferred_worker_id, []).append(
                    self._prompt_s(record, record.preferred_overlap_blocks)
                )
        self._meant_s = {worker_id: sorted(times_s) for worker_id, times_s in meant_s.items()}
        self._sums_s = {
            worker_id: tuple(accumulate(times_s, initial=0.0)) for worker_id, times_s in self._meant_s.items()
        }

    def holder(self, record: TaskRecord) -> Holder | None:
        """Find who holds most of a task's prompt: whom the router named, or who computes more of it now."""
        held_blocks, named = record.preferred_overlap_blocks, record.preferred_worker_id
        for depth_blocks, block_hash in reversed(record.marks):
            if depth_blocks <= held_blocks:
                break
            worker_id = self._computing.get(block_hash)
            if worker_id is not None:
                return Holder(worker_id, depth_blocks, computing=True)
        return None if named is None else Holder(named, held_blocks, computing=False)

    def held_s(self, record: TaskRecord, holder: Holder) -> float:
        """Say how long a task takes at a worker that holds its beginning."""
        return self._prompt_s(record, holder.blocks)

    def ahead_s(self, record: TaskRecord, holder: Holder) -> float | None:
        """Say how long a holder has to do before it begins a task, shorter ones first.

        Returns:
            Seconds; None when that worker computes nothing, so that only it can tell why it does not claim.
        """
        claimed_s = self._claimed_s.get(holder.worker_id)
        if claimed_s is None:
            return None
        shorter = bisect_left(self._meant_s.get(holder.worker_id, []), self.held_s(record, holder))
        return claimed_s + self._sums_s.get(holder.worker_id, (0.0,))[shorter]

    def _prompt_s(self, record: TaskRecord, cached_blocks: int) -> float:
        return self._performance.prompt_s(
            prompt_tokens=record.prompt_tokens,
            cached_tokens=min(cached_blocks * self._block_size_tokens, record.prompt_tokens - 1),
            step_tokens_max=self._step_tokens_max,
        )
