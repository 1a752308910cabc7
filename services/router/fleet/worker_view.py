"""One worker as this router believes it is now.

Comes in: its last status, and the placements since that the status cannot show. Goes out: a frozen view.
Invariant: a function of both. Not here: who keeps views (`services.router.fleet.fleet_view`).
"""

import hashlib
from typing import NamedTuple

from services.domain.blocks import blocks_for
from services.domain.ids import WorkerId
from services.domain.worker import Lifecycle, WorkerLimits, WorkerStatus
from services.router.fleet.ledger import Burden
from services.router.fleet.prices import backlog_s

PREFILL_SHARE_MAX = 0.9
"""Share beyond which it tells nothing more: nearly every status shows a prefill."""


class WorkerView(NamedTuple):
    """One worker: its last status with the placements since added. Made anew with each, so made cheaply.

    Attributes:
        worker_id: who.
        limits: fixed facts of its engine.
        status: as announced.
        ready: whether its lifecycle lets it take new work.
        seen_at_s: when it arrived.
        tie_seed: 64-bit hash of the worker's id.
        speed: equal for workers whose performance and limits are equal.
        sequence_count: sequences accepted, waiting or running.
        running_count: sequences that decode.
        context_tokens: KV tokens of these.
        used_blocks: blocks that cannot be evicted.
        free_blocks: the rest; negative when more was placed than fits.
        backlog_s: until prompts accepted so far are computed.
        step_s: decode step of the running sequences, 0 when idle.
        prefill_share: of its recent statuses, those that show it computing prompts, in [0, 1].
        slowdown: what that makes of the time per token: decoding gets the rest of the time.
    """

    worker_id: WorkerId
    limits: WorkerLimits
    status: WorkerStatus
    ready: bool
    seen_at_s: float
    tie_seed: int
    speed: int
    sequence_count: int
    running_count: int
    context_tokens: int
    used_blocks: int
    free_blocks: int
    backlog_s: float
    step_s: float
    prefill_share: float
    slowdown: float

    @property
    def holds_tokens_max(self) -> int:
        """Most tokens that one sequence can have here: context and KV memory."""
        limits = self.limits
        return min(limits.context_tokens_max, limits.kv_blocks * limits.block_size_tokens)


def hash64(text: str) -> int:
    """Hash text to 64 bits, equally on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def view_worker(
    status: WorkerStatus,
    *,
    seen_at_s: float,
    tie_seed: int,
    speed: int,
    placed: Burden,
    prefill_share: float = 0.0,
) -> WorkerView:
    """Combine a status and what was placed since.

    Args:
        status: as announced.
        seen_at_s: when it arrived.
        tie_seed: hash of the worker's id.
        speed: class of its performance and limits.
        placed: sum of the placements that the status cannot show.
        prefill_share: of its recent statuses, those that show it computing prompts.
    """
    load, limits, performance = status.load, status.limits, status.performance
    running = load.running_count + placed.running_count
    context = load.running_context_tokens + placed.context_tokens
    waiting = load.waiting_count + placed.waiting_count
    used = load.kv_used_blocks + placed.blocks
    step_s = performance.decode_s(sequence_count=running, context_tokens=context)
    return WorkerView(
        worker_id=status.worker_id,
        limits=limits,
        status=status,
        ready=status.lifecycle is Lifecycle.READY,
        seen_at_s=seen_at_s,
        tie_seed=tie_seed,
        speed=speed,
        sequence_count=running + waiting,
        running_count=running,
        context_tokens=context,
        used_blocks=used,
        free_blocks=limits.kv_blocks - used,
        backlog_s=backlog_s(
            performance,
            tokens=load.waiting_prefill_tokens + placed.prefill_tokens,
            prompt_count=waiting,
            step_tokens_max=limits.step_tokens_max,
            decode_step_s=step_s,
        ),
        step_s=step_s,
        prefill_share=prefill_share,
        slowdown=1.0 / (1.0 - min(prefill_share, PREFILL_SHARE_MAX)),
    )


def burden_of_prompt(limits: WorkerLimits, *, prompt_tokens: int, uncached_tokens: int) -> Burden:
    """What a prompt that a worker is to prefill adds to it."""
    return Burden(
        waiting_count=1,
        prefill_tokens=uncached_tokens,
        blocks=blocks_for(prompt_tokens + 1, limits.block_size_tokens),
    )


def burden_of_sequence(limits: WorkerLimits, *, context_tokens: int) -> Burden:
    """What a handed-over sequence adds to a decode worker."""
    return Burden(
        running_count=1,
        context_tokens=context_tokens,
        blocks=blocks_for(context_tokens + 1, limits.block_size_tokens),
    )
