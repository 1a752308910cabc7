"""A sequence's place at each worker that decodes: when it is free, and how long its steps then are.

Comes in: decode workers in columns, a query, what else is on its way to them. Goes out: columns of seconds,
and for each prefill worker what its handoff finds at the best other worker. Invariant: no operation mixes
workers, but for the choice of the best one; of equal ones the least hash of request and worker is it.
Not here: what the prompt costs (`services.router.pricing.prompt_prices`).
"""

from dataclasses import dataclass
from math import inf

import numpy as np

from services.domain.placement import PlacementQuery
from services.domain.worker import Phase
from services.router.fleet.columns import Column, Mask, Number, Part, larger
from services.router.fleet.lineup import Lineup
from services.router.pricing.waits import room_waits_s
from services.router.pricing.way import first_place

LOCAL_PACE_FRAC = 0.8
"""Share of the longest time per token up to which a decode worker still takes prompts while there is a
prefill pool: sequences that are handed over stall nobody, so prompts are the first thing to give up."""


@dataclass(slots=True, kw_only=True)
class Coming:
    """What else is on its way to a decode worker: its share of the queue.

    Attributes:
        sequence_count: sequences, as many as the queue holds prompts.
        tokens: of their prompts.
    """

    sequence_count: float
    tokens: float


@dataclass(slots=True, kw_only=True)
class StepBound:
    """How long steps may become.

    Attributes:
        longest_s: beyond it a worker counts as full.
        margin_frac: how much of the time that this leaves to others than the sequence itself is given away,
            in (0, 1].
    """

    longest_s: float
    margin_frac: float = 1.0

    def beside(self, alone_s: Number) -> Number:
        """The longest step of a worker; infinite where the sequence alone misses the bound."""
        longest_s: Number = self.longest_s
        if self.margin_frac < 1.0:
            longest_s = longest_s - (1.0 - self.margin_frac) * (longest_s - alone_s)
        if isinstance(alone_s, np.ndarray):
            return np.where(alone_s <= self.longest_s, longest_s, inf)
        return inf if alone_s > self.longest_s else longest_s


@dataclass(slots=True, kw_only=True)
class Seats:
    """A sequence's place at each decode worker; shape [decoders]."""

    room_s: Column | None
    """Until it is free; None where all are."""
    step_s: Column
    """The step with the sequence in it."""
    pace_s: Column
    """The step once all have joined that are on their way, at the worker's pace."""
    local_room_s: Column | None
    """Until the worker takes a prompt of its own; None where all do."""


def find_seats(
    part: Part, query: PlacementQuery, *, coming: Coming, bound: StepBound, bends: bool, has_pool: bool
) -> Seats:
    """Look for a place at each decode worker.

    Args:
        part: the workers.
        query: what is to be placed.
        coming: what else is on its way to each.
        bound: of their steps.
        bends: whether a performance model has a square of its own.
        has_pool: whether there are prefill workers to leave prompts to.
    """
    loads = part.loads
    added_s, idle_s, alone_s = _sequence_s(part, query.prompt_tokens, bends)
    step_s = loads.is_idle * idle_s + loads.step_s + added_s
    joining = loads.waiting_count + coming.sequence_count if coming.sequence_count else loads.waiting_count
    pace_s = (joining * added_s + step_s) * loads.slowdown
    longest_s = bound.beside(alone_s)
    shy = pace_s > longest_s * LOCAL_PACE_FRAC
    late_count: Column | None = None
    if any_shy := np.count_nonzero(shy):
        late_s = pace_s - longest_s
        # Where a sequence does not make steps longer, all there are have to end.
        late_count = np.divide(late_s, added_s, out=loads.sequence_count.copy(), where=added_s > 0.0)
        late_count = np.where(late_s > 0.0, late_count, 0.0)
        shy &= loads.running_count > 0.0
    room_s = _rooms_s(part, query, coming, late_count)
    local_room_s = room_s
    if any_shy and has_pool:
        if room_s is not None:
            shy &= room_s == 0.0
        if np.count_nonzero(shy):
            otherwise_s = 0.0 if room_s is None else room_s
            local_room_s = np.where(shy, np.maximum(loads.backlog_s, step_s), otherwise_s)
    return Seats(room_s=room_s, step_s=step_s, pace_s=pace_s, local_room_s=local_room_s)


def _rooms_s(part: Part, query: PlacementQuery, coming: Coming, late_count: Column | None) -> Column | None:
    """Time until each worker has memory, a place and time for the sequence; None where all have.

    Args:
        part: the workers.
        query: what is to be placed.
        coming: what else is on its way to each.
        late_count: sequences that would have to end first for steps to be short enough; None where they are.
    """
    loads, size = part.loads, part.traits.block_size_tokens
    growth, joining = query.output_tokens_expected or 0, coming.sequence_count
    needed_blocks = -(-(query.prompt_tokens + max(1.0, growth)) // size)
    if joining or coming.tokens:
        needed_blocks = needed_blocks + (coming.tokens + joining * growth) / size
    growth_blocks = growth / 2 / size  # those there are halfway through theirs
    if late_count is None and part.all_have_room(needed_blocks, growth_blocks=growth_blocks, joining=joining):
        return None
    short_blocks = loads.sequence_count * growth_blocks + needed_blocks - loads.free_blocks
    short_count = (1.0 + joining) - loads.free_count
    full = (short_blocks > 0.0) | (loads.free_count <= joining)
    if late_count is not None:
        full |= late_count > 0.0
        short_count = np.maximum(short_count, late_count)
    if not np.count_nonzero(full):
        return None
    return room_waits_s(
        part,
        shortage_blocks=short_blocks,
        shortage_sequences=short_count,
        output_tokens=query.output_tokens_expected or query.output_tokens_max,
        where=full,
    )


def _sequence_s(part: Part, tokens: int, bends: bool) -> tuple[Number, Number, Number]:
    """What a sequence adds to a decode step of others, a step without any, and its step alone."""
    traits = part.traits
    context_s = traits.decode_context_token_s * tokens
    alone_s, pair_s = traits.decode_first_s + context_s, traits.decode_second_s + context_s
    if bends:
        bend_s = traits.decode_context_square_s * tokens * tokens
        alone_s, pair_s = alone_s + bend_s, pair_s + bend_s
    alone_s = larger(traits.decode_least_s, alone_s)
    added_s = larger(traits.decode_least_s, pair_s) - traits.decode_shortest_s
    return added_s, alone_s - added_s, alone_s


@dataclass(slots=True, kw_only=True)
class Handed:
    """What the handoff of each prefill worker finds at the best other worker that decodes.

    Each number is one for all prefillers, or a column of shape [prefillers].
    """

    room_s: Number
    """Until a seat is free."""
    step_s: Number
    """Of the first step there."""
    pace_s: Number
    """Of those after it."""
    alone: Mask | None
    """Who has no other worker; None when all have one. Their numbers say nothing."""


def hand_over(seats: Seats, *, lineup: Lineup, able: Mask | None, request_seed: int) -> Handed:
    """Find the best seat for what each prefill worker hands over.

    Args:
        seats: at each decode worker.
        lineup: all workers.
        able: who may be chosen, shape [places]; None when all may.
        request_seed: hash of the request's id.
    """
    sight = lineup.sight()
    count, first = sight.prefillers.count, sight.decoders.count
    join_s = seats.step_s if seats.room_s is None else seats.room_s + seats.step_s
    if able is not None:
        join_s = np.where(able[:first], join_s, inf)
    seeds = sight.seeds[:first]
    found = np.zeros((3, count))
    alone: Mask | None = None
    for decoders, prefillers in sight.layouts or ((None, None),):
        of_layout = join_s if decoders is None else np.where(decoders, join_s, inf)
        best = first_place(of_layout, seeds, request_seed)
        own = lineup.place(sight.worker_ids[best], Phase.PREFILL)
        if decoders is None and own is None and of_layout[best] < inf:
            return Handed(
                room_s=0.0 if seats.room_s is None else float(seats.room_s[best]),
                step_s=float(seats.step_s[best]),
                pace_s=float(seats.pace_s[best]),
                alone=None,
            )
        places = slice(None) if prefillers is None else prefillers
        if of_layout[best] < inf:
            found[:, places] = _seat(seats, best)
            if own is None:
                continue
            places = slice(own - first, own - first + 1)  # it hands over to the second best
            of_layout = of_layout.copy()
            of_layout[best] = inf
            second = first_place(of_layout, seeds, request_seed)
            if of_layout[second] < inf:
                found[:, places] = _seat(seats, second)
                continue
        alone = np.zeros(count, dtype=bool) if alone is None else alone
        alone[places] = True
    return Handed(room_s=found[0], step_s=found[1], pace_s=found[2], alone=alone)


def _seat(seats: Seats, place: int) -> Column:
    """One decode worker's seat; shape [3, 1]."""
    room_s = 0.0 if seats.room_s is None else seats.room_s[place]
    return np.array(((room_s,), (seats.step_s[place],), (seats.pace_s[place],)))
