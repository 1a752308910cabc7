"""Every way in which a prompt can be served, priced: all workers in one go, in columns.

Comes in: a lineup, who is able, overlaps, the queue. Goes out: ways, comparable by cost and then by a hash.
Invariant: the price of a way depends on its own worker, on the queue and, when the prompt is handed over, on
the best worker that would decode it; never on the order in which workers are looked at. No operation mixes
workers, so equal workers have equal prices to the last bit. What a worker's status alone says stands in the
columns already; here is what the request makes of it.
Not here: which way is taken and why (`services.router.placement`).
"""

from collections.abc import Mapping
from itertools import repeat
from math import inf

import numpy as np

from services.domain.ids import WorkerId
from services.domain.placement import PlacementQuery
from services.router.fleet.columns import Column, Mask, Number, Part
from services.router.fleet.lineup import Lineup
from services.router.fleet.worker_view import hash64
from services.router.pricing.prompt_prices import PromptPrices
from services.router.pricing.queue_load import QueueLoad
from services.router.pricing.seats import Coming, StepBound, find_seats, hand_over
from services.router.pricing.sifting import Able, Closed
from services.router.pricing.waits import prefill_room_waits_s, queued_s
from services.router.pricing.way import Ways

FEW_COUNT = 16
"""Workers of which something is told, up to which each is put in its place by itself: cheaper for so few."""


def price(
    query: PlacementQuery,
    *,
    lineup: Lineup,
    able: Able,
    overlaps: Mapping[WorkerId, int],
    queue: QueueLoad,
    tpot_s: float,
    bound: StepBound,
) -> tuple[Ways, Closed | None]:
    """Price every way.

    Args:
        query: what is to be placed.
        lineup: workers of its model.
        able: which of them may be chosen.
        overlaps: leading blocks that each worker holds; absent is 0.
        queue: what waits for any prefill worker.
        tpot_s: what a decode step should take.
        bound: what it may take at most.

    Returns:
        The ways, and those that are closed; None when none is.
    """
    sight = lineup.sight()
    everyone, first, seed = sight.all, sight.decoders.count, hash64(query.request_id)
    loads, has_pool = everyone.loads, sight.prefillers.count > 0
    overlap_blocks = _by_place(lineup, overlaps)
    cached: Number = 0.0
    if overlap_blocks is not None:
        cached = np.minimum(overlap_blocks * everyone.traits.block_size_tokens, query.prompt_tokens - 1.0)
    prices = PromptPrices(
        everyone.traits, prompt_tokens=query.prompt_tokens, cached_tokens=cached, bends=sight.bends
    )
    wait_s, pace_s = loads.backlog_s.copy(), np.zeros(everyone.count)
    room_s: Column | None = None
    alone: Mask | None = None
    transfer_s: Number = 0.0
    handed_s: Number = 0.0
    if first:
        decoder_count = max(1, able.decoder_count)
        seats = find_seats(
            sight.decoders,
            query,
            coming=Coming(
                sequence_count=queue.waiting_count / decoder_count,
                tokens=queue.waiting_tokens / decoder_count,
            ),
            bound=bound,
            bends=sight.bends,
            has_pool=able.prefiller_count > 0,
        )
        pace_s[:first] = seats.pace_s
        if seats.local_room_s is not None:
            room_s = np.zeros(everyone.count)
            room_s[:first] = seats.local_room_s
            wait_s[:first] += seats.local_room_s
    if has_pool:
        ahead_s = wait_s[first:]
        _queue_up(ahead_s, query, lineup=lineup, able=able, queue=queue)
        handed_s = transfer_s = _transfer_s(sight.prefillers, query)
        if first:
            handed = hand_over(seats, lineup=lineup, able=able.mask, request_seed=seed)
            pace_s[first:], alone = handed.pace_s, handed.alone
            handed_s = transfer_s + handed.step_s
            if seats.room_s is not None:
                total_s = prices.total_s
                if isinstance(total_s, np.ndarray):
                    total_s = total_s[first:]
                free_s = np.maximum(0.0, handed.room_s - ahead_s - total_s)  # sequences end meanwhile
                if room_s is None:
                    room_s = np.zeros(everyone.count)
                room_s[first:] = free_s
                ahead_s += free_s
        else:
            alone = np.ones(everyone.count, dtype=bool)
    ttft_s: Column = wait_s + prices.total_s
    if has_pool:
        remote_s = ttft_s[first:]
        remote_s += handed_s
    cost_s = ttft_s
    harm_s: Number = 0.0
    if np.count_nonzero(loads.running_count):
        ttft_s += loads.step_s * prices.step_count
        harm_s = loads.running_count * prices.stall_s(decode_step_s=loads.step_s, tpot_s=tpot_s)
        cost_s = ttft_s + harm_s
    ways = Ways(
        worker_ids=sight.worker_ids,
        decoder_count=first,
        seeds=sight.seeds,
        request_seed=seed,
        prompt_tokens=query.prompt_tokens,
        cost_s=cost_s,
        overlap_blocks=0.0 if overlap_blocks is None else overlap_blocks,
        cached_tokens=cached,
        wait_s=wait_s,
        prefill_s=prices.total_s,
        transfer_s=transfer_s,
        ttft_s=ttft_s,
        tpot_s=pace_s,
        room_s=room_s,
        harm_s=harm_s,
        running_count=loads.running_count.copy(),
    )
    if able.mask is None and alone is None:
        return ways, None
    closed = able.closed(alone)
    ways.cost_s = np.where(closed.mask, inf, cost_s)
    return ways, closed


def _by_place(lineup: Lineup, told: Mapping[WorkerId, float]) -> Column | None:
    """Bring what is told by worker into the order of places; absent workers and places have 0."""
    sight, count = lineup.sight(), len(told)
    if not count:
        return None
    if count <= FEW_COUNT:
        few = np.zeros(sight.all.count)
        for worker_id, number in told.items():
            for place in sight.places.get(worker_id, ()):
                few[place] = number
        return few
    column = np.zeros(sight.numbers_max + 1)
    at = np.fromiter(map(lineup.numbers.get, told, repeat(sight.numbers_max)), np.intp, count)
    column[at] = np.fromiter(told.values(), np.float64, count)
    return column[sight.numbers]


def _queue_up(wait_s: Column, query: PlacementQuery, *, lineup: Lineup, able: Able, queue: QueueLoad) -> None:
    """Add what is ahead of a prompt in the queue and at full prefill workers; shape [prefillers]."""
    sight = lineup.sight()
    if queue.waiting_tokens > 0:
        bound_tokens = _by_place(lineup, queue.bound_tokens)
        wait_s += queued_s(
            sight.prefillers.traits,
            queue,
            prefiller_count=max(1, able.prefiller_count),
            bound_tokens=None if bound_tokens is None else bound_tokens[sight.decoders.count :],
        )
    full_s = prefill_room_waits_s(sight.prefillers, query.prompt_tokens)
    if full_s is not None:
        wait_s += full_s


def _transfer_s(part: Part, query: PlacementQuery) -> Number:
    traits = part.traits
    return traits.handoff_s + query.prompt_tokens * traits.kv_bytes_per_token / traits.transfer_bytes_per_s
