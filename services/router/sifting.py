"""From all workers of a phase to those that can be chosen, and why the others cannot.

Comes in: views and a need. Goes out: the able ones and the rest with reasons.
Invariant: nothing is refused that a worker could serve: when all able workers fell silent (the bus is
slow, not the workers), the last known statuses are used.
Not here: the single filters (`services.router.filters`).
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from services.domain.blocks import blocks_for
from services.router.filters import Need, objection
from services.router.fleet import WorkerView
from services.router.prices import room_wait_s


def sift(views: Sequence[WorkerView], need: Need) -> tuple[list[WorkerView], list[tuple[WorkerView, str]]]:
    """Split workers into those that can be chosen and those that cannot, with the reason."""
    able, excluded = _split(views, need)
    if not able and excluded:
        able_if_silent, others = _split(views, replace(need, stale_after_s=inf))
        if able_if_silent:
            return able_if_silent, others
    return able, excluded


def _split(views: Sequence[WorkerView], need: Need) -> tuple[list[WorkerView], list[tuple[WorkerView, str]]]:
    able: list[WorkerView] = []
    excluded: list[tuple[WorkerView, str]] = []
    for view in views:
        why = objection(view, need)
        if why is None:
            able.append(view)
        else:
            excluded.append((view, why))
    return able, excluded


def wait_for_room_s(view: WorkerView, *, tokens: int, output_tokens: int) -> float:
    """Time until a worker has memory and a place in its step for one more sequence; mostly 0.

    Args:
        view: the worker.
        tokens: tokens whose KV the sequence brings.
        output_tokens: most tokens that sequences write; how long they are expected to run.
    """
    limits = view.status.limits
    shortage_blocks = blocks_for(tokens + 1, limits.block_size_tokens) - view.free_blocks
    shortage_sequences = view.sequence_count + 1 - limits.sequences_max
    if shortage_blocks <= 0 and shortage_sequences <= 0:
        return 0.0
    return room_wait_s(
        view.status.performance,
        shortage_blocks=shortage_blocks,
        shortage_sequences=shortage_sequences,
        used_blocks=view.used_blocks,
        running_count=view.running_count,
        step_s=view.step_s,
        output_tokens=output_tokens,
    )


def tie(request_seed: int, view: WorkerView) -> int:
    """Order equal costs by a hash of request and worker, so that equal workers share equal requests."""
    return ((view.tie_seed ^ request_seed) * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF
