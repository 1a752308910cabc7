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
from services.router.filters import FILTERS_OF_ENGINE, FILTERS_OF_WORKER, Filter, Need
from services.router.fleet import WorkerView
from services.router.prices import room_wait_s

SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd (D. Knuth, The Art of Computer Programming, 6.4: multiplicative hashing)."""
MASK = 0xFFFF_FFFF_FFFF_FFFF

_OF_WORKER = tuple(FILTERS_OF_WORKER.values())
_OF_ENGINE = tuple(FILTERS_OF_ENGINE.values())


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
    of_engine: dict[int, str | None] = {}
    now_s, stale_after_s, avoid = need.now_s, need.stale_after_s, need.avoid
    for view in views:
        # Nearly every worker passes: asked in one expression, at a fraction of the price of each filter.
        if view.ready and now_s - view.seen_at_s <= stale_after_s and view.worker_id not in avoid:
            why = None
        else:
            why = _objection(view, need, _OF_WORKER)
        if why is None:
            if view.speed not in of_engine:
                of_engine[view.speed] = _objection(view, need, _OF_ENGINE)
            why = of_engine[view.speed]
        if why is None:
            able.append(view)
        else:
            excluded.append((view, why))
    return able, excluded


def _objection(view: WorkerView, need: Need, filters: tuple[Filter, ...]) -> str | None:
    """First reason why a worker cannot be chosen, or None."""
    for check in filters:
        why = check(view, need)
        if why is not None:
            return why
    return None


def wait_for_room_s(view: WorkerView, *, tokens: int, output_tokens: int) -> float:
    """Time until a worker has memory and a place in its step for one more sequence; mostly 0.

    Args:
        view: the worker.
        tokens: tokens whose KV the sequence brings.
        output_tokens: most tokens that sequences write; how long they are expected to run.
    """
    limits = view.limits
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


def tie(request_seed: int, worker_seed: int) -> int:
    """Order equal costs by a hash of request and worker, so that equal workers share equal requests.

    Multiplying spreads the difference of two seeds over all bits, so each worker comes first for an equal
    share of requests.
    """
    return ((worker_seed ^ request_seed) * SPREAD) & MASK
