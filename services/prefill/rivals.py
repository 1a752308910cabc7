"""What is ahead of a task at the worker that its router named for it.

Comes in: the queue as one worker sees it, how fast it is. Goes out: seconds until the named worker would
begin a task. That worker holds most of the prefix, so it would compute the task in less time; another one
that takes it gains only when the wait there is longer than what the prefix saves. Nobody has to be asked:
what a worker has claimed, and what is meant for it, stands in the queue.
Workers of one model are taken for equally fast. Invariant: a function of values.
Not here: what a worker takes (`services.prefill.ordering`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from services.domain.ids import WorkerId
from services.domain.performance import PerformanceModel
from services.domain.task import QueuedTask, TaskRecord


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
        meant_s: dict[WorkerId, list[float]] = {}
        for queued in tasks:
            record = queued.record
            if queued.claim is not None:
                holder = queued.claim.worker_id
                took_s = self.prefill_s(record, is_named=holder == record.preferred_worker_id)
                before_s = self._claimed_s.get(holder)
                # Of what is computed now, half is left on average; what was claimed beside it, wholly.
                self._claimed_s[holder] = took_s / 2 if before_s is None else before_s + took_s
                continue
            self.waiting_count += 1
            if record.preferred_worker_id is not None:
                meant_s.setdefault(record.preferred_worker_id, []).append(self.prefill_s(record))
        self._meant_s = {worker_id: sorted(times_s) for worker_id, times_s in meant_s.items()}
        self._sums_s = {
            worker_id: tuple(accumulate(times_s, initial=0.0)) for worker_id, times_s in self._meant_s.items()
        }

    def prefill_s(self, record: TaskRecord, *, is_named: bool = True) -> float:
        """Say how long a task takes at the worker that was named for it, or at one that holds nothing."""
        blocks = record.preferred_overlap_blocks if is_named else 0
        return self._performance.prompt_s(
            prompt_tokens=record.prompt_tokens,
            cached_tokens=blocks * self._block_size_tokens,
            step_tokens_max=self._step_tokens_max,
        )

    def ahead_s(self, record: TaskRecord) -> float | None:
        """Say how long the named worker has to do before it begins a task, shorter ones first.

        Returns:
            Seconds; None when that worker computes nothing, so that only it can tell why it does not claim.
        """
        worker_id = record.preferred_worker_id
        if worker_id is None or worker_id not in self._claimed_s:
            return None
        shorter = bisect_left(self._meant_s.get(worker_id, []), self.prefill_s(record))
        return self._claimed_s[worker_id] + self._sums_s.get(worker_id, (0.0,))[shorter]
