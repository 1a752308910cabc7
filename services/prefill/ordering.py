"""Which waiting task a worker with room should take: one pure function.

Comes in: the queue as this worker sees it, what this worker's cache holds, how fast it is.
Goes out: a task to claim, one to drop, or how long to wait, with the reason.
Order: more urgent priorities first, and within one, deadline-aware shortest remaining prefill. A task
whose first token would be late unless it starts now goes first, then by predicted prefill seconds of its
uncached tail. A task that has waited for a multiple of its own prefill time moves up past shorter ones:
the key is `prefill_s` divided by the response ratio `(prefill_s + waited_s) / prefill_s` (Hansen 1971,
highest response ratio next), so that length and waiting both count.
Nobody starves: a task that was passed over for OVERDUE_S goes before all that were not, oldest first. So it
waits at most that long and until those that are older are done. A task that would end after its deadline
even if it started now is dropped: computing it would only make others late.
Not here: the claim (`services.prefill.phase`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.domain.blocks import BlockHash
from services.domain.errors import DeadlineUnmeetable
from services.domain.ids import GatewayId, WorkerId
from services.domain.performance import PerformanceModel
from services.domain.stalls import Decoding
from services.domain.task import QueuedTask, TaskRecord
from services.prefill.stalling import stall_patience_s


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
        decoding: those who decode on it: a prompt stalls them.
        has_free_peer: whether another of those workers decodes nothing.
    """

    worker_id: WorkerId
    model: str
    block_size_tokens: int
    step_tokens_max: int
    performance: PerformanceModel
    holds: Callable[[BlockHash], bool]
    reachable: frozenset[GatewayId]
    peer_count: int
    decoding: Sequence[Decoding] = ()
    has_free_peer: bool = False


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


LOOK_AGAIN_S = 0.1
"""After which a task is looked at again that somebody who decodes here cannot bear: some tokens later."""

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
    best: tuple[tuple[float, ...], Take] | None = None
    retry_s: float | None = None
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
        left_s = stall_patience_s(
            queued,
            decoding=claimant.decoding,
            prefill_s=prefill_s,
            chunk_count=-(-(record.prompt_tokens - overlap) // claimant.step_tokens_max),
            has_free_peer=claimant.has_free_peer,
        )
        if left_s is None:
            retry_s = LOOK_AGAIN_S if retry_s is None else min(retry_s, LOOK_AGAIN_S)
            continue
        patience_s = left_s + _patience_s(record, claimant, overlap, prefill_s) - queued.waited_s
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
        key = _urgency(queued, prefill_s)
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


def _urgency(queued: QueuedTask, prefill_s: float) -> tuple[float, ...]:
    tie = _hash(queued.record.task_id)
    if queued.waited_s >= OVERDUE_S:
        return (0.0, -queued.waited_s, tie)
    slack_s = queued.record.ttft_target_s - queued.waited_s - prefill_s
    near = 0 <= slack_s < prefill_s  # one that is late already cannot be saved by going first
    aged_s = prefill_s * prefill_s / (prefill_s + queued.waited_s)
    return (1.0, queued.record.priority, 0.0 if near else 1.0, aged_s, tie)


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


def _patience_s(record: TaskRecord, claimant: Claimant, overlap_tokens: int, prefill_s: float) -> float:
    """How long this worker leaves a task to a worker that is better for it.

    The preferred worker holds a prefix that would save seconds here; waiting longer than it saves
    would be a loss, so that is the limit. Among equals a hash of task and worker decides who tries
    first, so that idle workers do not race for one task.
    """
    if record.preferred_worker_id == claimant.worker_id or claimant.peer_count <= 1:
        return 0.0
    preferred_tokens = record.preferred_overlap_blocks * claimant.block_size_tokens
    saved_s = 0.0
    if record.preferred_worker_id is not None and preferred_tokens > overlap_tokens:
        saved_s = prefill_s - claimant.performance.prompt_s(
            prompt_tokens=record.prompt_tokens,
            cached_tokens=preferred_tokens,
            step_tokens_max=claimant.step_tokens_max,
        )
    rank = 1 + _hash(f"{record.task_id}/{claimant.worker_id}") % claimant.peer_count
    return max(saved_s, 0.0) + rank * RACE_STEP_S


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
