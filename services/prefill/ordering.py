"""Which waiting task a worker with room should take: one pure function.

Comes in: the queue as this worker sees it, what this worker's cache holds, how fast it is.
Goes out: a task to claim, one to drop, or how long to wait, with the reason.
Order: more urgent priorities first, and within one, shortest remaining prefill: the predicted seconds of the
tail that is not cached here. A task that has waited for a multiple of its own prefill time moves up past
shorter ones: the key is that over its response ratio (`services.domain.aging`). Putting first what
would else just miss its TTFT target was tried: it costs others more than it gains (docs/router-alone.md).
Nobody starves: a task that was passed over for OVERDUE_S goes before all that were not, oldest first, at the
workers that it fits. So it waits at most that long and until those that are older are done. A task that would
end after its deadline even if it started now is dropped: computing it would only make others late.
Not here: the claim (`services.prefill.phase`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.domain.aging import aged_s
from services.domain.blocks import BlockHash
from services.domain.errors import DeadlineUnmeetable
from services.domain.ids import GatewayId, WorkerId
from services.domain.performance import PerformanceModel, PrefillChunk
from services.domain.task import QueuedTask, TaskRecord
from services.prefill.rivals import Rivals
from services.prefill.stalling import NOBODY_STALLS, Stalls


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """What the decision needs to know of the worker that asks.

    Attributes:
        worker_id: who.
        model: name of the model it serves.
        block_size_tokens: of its engine.
        step_tokens_max: most prompt tokens per engine step.
        performance: how fast it is.
        holds: whether its cache holds a block.
        reachable: gateways that are linked to it.
        peer_count: prefill workers that may race for the same task, itself included.
        stalls: what prompts cost those who decode on it.
        has_reader: whether a decode worker may read KV of its layout.
    """

    worker_id: WorkerId
    model: str
    block_size_tokens: int
    step_tokens_max: int
    performance: PerformanceModel
    holds: Callable[[BlockHash], bool]
    reachable: frozenset[GatewayId]
    peer_count: int
    stalls: Stalls = NOBODY_STALLS
    has_reader: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Claim this task now."""

    queued: QueuedTask
    overlap_tokens: int
    prefill_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Take this task out of the queue: it can no longer meet its deadline."""

    queued: QueuedTask
    error: DeadlineUnmeetable
    """What its gateway is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Claim nothing now; look again after `retry_s`, or at the next change when it is None."""

    retry_s: float | None
    reason: str


OVERDUE_S = 10.0
"""Waiting time from which on a task goes before all younger ones, whatever their priority and length: as
long as the router's default lets an interactive prompt wait at all (twenty TTFT targets)."""

RACE_STEP_S = 0.002
"""How much later each further worker tries for the same task, so that idle workers do not collide.

A whole claim takes at least 1 ms (docs/decisions/0002), and its news has to travel before the next tries.
"""


def order(tasks: Sequence[QueuedTask], claimant: Claimant) -> Take | Drop | Leave:
    """Choose the task to claim, or one to drop.

    Args:
        tasks: everything in the queue; claimed tasks and those of other models are passed over.
        claimant: the worker that has room.
    """
    if not claimant.has_reader:
        return Leave(retry_s=None, reason="no decode worker can read KV of this engine's layout")
    best: tuple[tuple[float, ...], Take] | None = None
    retry_s: float | None = None
    rivals = Rivals(
        tasks,
        performance=claimant.performance,
        block_size_tokens=claimant.block_size_tokens,
        step_tokens_max=claimant.step_tokens_max,
    )
    for queued in tasks:
        record = queued.record
        if queued.claim is not None or record.model != claimant.model:
            continue
        if record.gateway_id not in claimant.reachable:
            continue
        overlap = _overlap_tokens(record, claimant)
        prefill_s = claimant.performance.prompt_s(
            prompt_tokens=record.prompt_tokens,
            cached_tokens=overlap,
            step_tokens_max=claimant.step_tokens_max,
        )
        patience = _patience(record, claimant, overlap, prefill_s, rivals)
        if patience.wait_s is None:
            continue
        cached = min(overlap, record.prompt_tokens - 1)
        chunk = PrefillChunk(new_tokens=record.prompt_tokens - cached, context_tokens=cached)
        steps_count = -(-chunk.new_tokens // claimant.step_tokens_max)
        left_s = claimant.stalls.patience_s(queued, chunk, prefill_s=prefill_s, steps_count=steps_count)
        patience_s = left_s + patience.wait_s - queued.waited_s
        if patience_s > 0:
            retry_s = patience_s if retry_s is None else min(retry_s, patience_s)
            continue
        hopeless = _hopeless(queued, prefill_s)
        if hopeless is not None:
            return Drop(queued=queued, error=hopeless)
        take = Take(
            queued=queued,
            overlap_tokens=overlap,
            prefill_s=prefill_s,
            reason=f"{prefill_s * 1e3:.1f} ms of prefill, {overlap} tokens cached here, "
            f"waited {queued.waited_s * 1e3:.1f} ms",
        )
        key = _urgency(queued, prefill_s, fits=patience.fits)
        if best is None or key < best[0]:
            best = (key, take)
    if best is not None:
        return best[1]
    return Leave(retry_s=retry_s, reason="nothing that this worker may take now")


def _hopeless(queued: QueuedTask, prefill_s: float) -> DeadlineUnmeetable | None:
    """Say so when a task that nobody has begun would end after its deadline."""
    deadline_s = queued.record.deadline_s
    predicted_s = queued.waited_s + prefill_s + queued.record.decode_s
    if deadline_s is None or queued.attempts or predicted_s <= deadline_s:
        return None
    return DeadlineUnmeetable(
        message=f"after {queued.waited_s:.2f} s in the queue it would end {predicted_s:.2f} s after it came, "
        f"later than its deadline of {deadline_s:.2f} s",
        predicted_s=predicted_s,
        deadline_s=deadline_s,
        retry_after_s=predicted_s - deadline_s,
    )


def _urgency(queued: QueuedTask, prefill_s: float, *, fits: bool) -> tuple[float, ...]:
    """Say what goes first; what is overdue does where it fits, else a fleet would compute twice as much."""
    tie = _hash(queued.record.task_id)
    if fits and queued.waited_s >= OVERDUE_S:
        return (0.0, -queued.waited_s, tie)
    return (1.0, queued.record.priority, aged_s(prefill_s, prefill_s, queued.waited_s), tie)


def _overlap_tokens(record: TaskRecord, claimant: Claimant) -> int:
    """Leading tokens held here, as far as the record's marks tell: the deepest mark that is held."""
    low, high = 0, len(record.marks)
    while low < high:
        middle = (low + high) // 2
        if claimant.holds(record.marks[middle].block_hash):
            low = middle + 1
        else:
            high = middle
    return record.marks[low - 1].depth_blocks * claimant.block_size_tokens if low else 0


class _Patience(NamedTuple):
    """How this worker stands to a task that another one is better for."""

    wait_s: float | None
    """From the task's arrival, how long it leaves it to that one; None while that one is sure to come."""
    fits: bool = True
    """Whether nobody who is at work holds more of the prompt."""


def _patience(
    record: TaskRecord, claimant: Claimant, overlap_tokens: int, prefill_s: float, rivals: Rivals
) -> _Patience:
    """How long this worker leaves a task to a worker that is better for it.

    That one holds a prefix that would save seconds here, or computes it now: perhaps it is this worker
    itself, which then ends that first. While it is busy, this one takes the task only when that is worth it:
    the task gains what is ahead of it there less what the prefix saves, and each task that waits for this
    worker loses what the prefix would have saved. When it is not busy it should have claimed; the task is
    left to it for as long as it would save. Among equals a hash of task and worker decides who tries first,
    so that idle workers do not race for one task.
    """
    turn_s = _turn_s(record, claimant)
    holder = rivals.holder(record)
    if holder is None or holder.blocks * claimant.block_size_tokens <= overlap_tokens:
        return _Patience(turn_s)
    if not holder.computing if holder.worker_id == claimant.worker_id else claimant.peer_count <= 1:
        return _Patience(turn_s)  # it lost what it held, or nobody else is there
    saved_s = max(0.0, prefill_s - rivals.held_s(record, holder))
    ahead_s = rivals.ahead_s(record, holder)
    if ahead_s is None:
        return _Patience(saved_s + turn_s)
    if ahead_s - saved_s <= saved_s * rivals.waiting_count / claimant.peer_count:
        return _Patience(None, fits=False)
    return _Patience(turn_s, fits=False)


def _turn_s(record: TaskRecord, claimant: Claimant) -> float:
    """Say when a worker tries for a task that it may take as well as others."""
    if record.preferred_worker_id == claimant.worker_id or claimant.peer_count <= 1:
        return 0.0
    return (1 + _hash(f"{record.task_id}/{claimant.worker_id}") % claimant.peer_count) * RACE_STEP_S


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
