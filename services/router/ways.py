"""Every way in which a prompt can be served, priced: all workers in one go, in columns.

Comes in: a lineup, who is able, overlaps, the queue. Goes out: ways, comparable by cost and then by a hash.
Invariant: the price of a way depends on its own worker, on the queue and, when the prompt is handed over, on
the best worker that would decode it; never on the order in which workers are looked at. No operation mixes
workers, so equal workers have equal prices to the last bit.
Not here: which way is taken and why (`services.router.placement`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from math import inf

import numpy as np

from services.domain.ids import WorkerId
from services.domain.placement import PlacementQuery
from services.domain.worker import Phase
from services.router.lineup import Column, Lineup, Mask, Number, Part, larger
from services.router.prompt_prices import PromptPrices
from services.router.queue_load import QueueLoad
from services.router.sifting import Able
from services.router.waits import prefill_room_waits_s, queued_s, room_waits_s
from services.router.way import Ways, first_place
from services.router.worker_view import hash64

LOCAL_PACE_FRAC = 0.8
"""Share of the longest time per token up to which a decode worker still takes prompts while there is a
prefill pool: sequences that are handed over stall nobody, so prompts are the first thing to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seats:
    """A sequence's place at each decode worker."""

    room_s: Column | None
    """Until it is free; None where all are."""
    step_s: Column
    """The step with the sequence in it."""
    pace_s: Column
    """The step once all have joined that are on their way, at the worker's pace."""
    local_room_s: Column | None
    """Until the worker takes a prompt of its own; None where all do."""


class Pricing:
    """Prices one query."""

    def __init__(
        self,
        query: PlacementQuery,
        *,
        lineup: Lineup,
        able: Able,
        overlaps: Mapping[WorkerId, int],
        queue: QueueLoad,
        tpot_s: float,
        step_max_s: float,
        step_margin_frac: float = 1.0,
    ) -> None:
        """Prepare to price.

        Args:
            query: what is to be placed.
            lineup: workers of its model.
            able: which of them may be chosen.
            overlaps: leading blocks that each worker holds; absent is 0.
            queue: what waits for any prefill worker.
            tpot_s: what a decode step should take.
            step_max_s: what it may take at most before a worker counts as full.
            step_margin_frac: how much of the time that `step_max_s` leaves to others than this sequence
                itself is given away, in (0, 1].
        """
        self._query, self._able, self._queue = query, able, queue
        self._lineup, self._sight, self._overlaps = lineup, lineup.sight(), overlaps
        self._coming = queue.waiting_count / max(1, able.decoder_count)
        self._coming_tokens = queue.waiting_tokens / max(1, able.decoder_count)
        self._tpot_s, self._step_max_s, self._step_margin_frac = tpot_s, step_max_s, step_margin_frac
        self._seed = hash64(query.request_id)

    def ways(self) -> Ways:
        """Price every way."""
        sight, query = self._sight, self._query
        everyone, first = sight.all, sight.decoders.count
        loads, overlap_blocks = everyone.loads, self._by_place(self._overlaps)
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
        join_s: Number = 0.0
        if first:
            seats = self._seats(sight.decoders)
            pace_s[:first] = seats.pace_s
            if seats.local_room_s is not None:
                room_s = np.zeros(everyone.count)
                room_s[:first] = seats.local_room_s
                wait_s[:first] += seats.local_room_s
        if sight.prefillers.count:
            self._queue_up(sight.prefillers, wait_s[first:])
            transfer_s = self._transfer_s(sight.prefillers)
            if first:
                free_s, join_s, pace_s[first:], alone = self._handed(seats)
                if seats.room_s is not None:
                    total_s = prices.total_s
                    if isinstance(total_s, np.ndarray):
                        total_s = total_s[first:]
                    free_s = np.maximum(0.0, free_s - wait_s[first:] - total_s)  # sequences end meanwhile
                    if room_s is None:
                        room_s = np.zeros(everyone.count)
                    room_s[first:] = free_s
                    wait_s[first:] += free_s
            else:
                alone = np.ones(everyone.count, dtype=bool)
        ttft_s: Column = wait_s + prices.total_s
        if sight.prefillers.count:
            ttft_s[first:] += transfer_s
            ttft_s[first:] += join_s
        cost_s = ttft_s
        harm_s: Column | None = None
        running = loads.running_count > 0.0
        if np.count_nonzero(running):
            ttft_s += prices.step_count * loads.step_s
            stall_s = prices.stall_s(decode_step_s=loads.step_s, tpot_s=self._tpot_s, running=running)
            harm_s = loads.running_count * stall_s
            cost_s = ttft_s + harm_s
        return Ways(
            lineup=self._lineup,
            sight=sight,
            request_seed=self._seed,
            cost_s=self._closed(cost_s, alone),
            overlap_blocks=overlap_blocks,
            uncached_tokens=prices.new_tokens,
            wait_s=wait_s,
            prefill_s=prices.total_s,
            transfer_s=transfer_s,
            ttft_s=ttft_s,
            tpot_s=pace_s,
            room_s=room_s,
            harm_s=harm_s,
            alone=alone,
        )

    def _closed(self, cost_s: Column, alone: Mask | None) -> Column:
        """Close the ways of workers that cannot be chosen."""
        if self._able.mask is not None:
            cost_s = np.where(self._able.mask, cost_s, inf)
        if alone is not None:
            first = self._sight.decoders.count
            cost_s = np.concatenate((cost_s[:first], np.where(alone, inf, cost_s[first:])))
        return cost_s

    def _bound_tokens(self) -> Column | None:
        """Of the queue, what waits for each prefill worker in particular; None without any."""
        bound = self._by_place(self._queue.bound_tokens)
        return None if bound is None else bound[self._sight.decoders.count :]

    def _by_place(self, told: Mapping[WorkerId, float]) -> Column | None:
        """Bring what is told by worker into the order of places; absent workers and places have 0."""
        count, nobody = len(told), self._sight.numbers_max
        if not count:
            return None
        column = np.zeros(nobody + 1)
        at = np.fromiter(map(self._lineup.numbers.get, told, repeat(nobody)), np.intp, count)
        column[at] = np.fromiter(told.values(), np.float64, count)
        return column[self._sight.numbers]

    def _seats(self, part: Part) -> _Seats:
        loads, traits, query = part.loads, part.traits, self._query
        sequences, coming, size = loads.sequence_count, self._coming, traits.block_size_tokens
        added_s, idle_s, alone_s = self._sequence_s(part)
        step_s = loads.step_s + loads.is_idle * idle_s + added_s
        joined = coming + sequences if coming else sequences
        pace_s = (step_s + added_s * (joined - loads.running_count)) * loads.slowdown
        step_max_s = self._longest_s(alone_s)
        growth = query.output_tokens_expected or 0
        free = loads.free_blocks
        if growth:
            free = free - growth / 2 / size * sequences
        if self._queue.waiting_count or self._queue.waiting_tokens:
            free = free - (self._coming_tokens + coming * growth) / size
        peak_blocks = -(-(query.prompt_tokens + max(1.0, growth)) // size)
        full = free < peak_blocks
        full |= joined >= traits.sequences_max
        shy = pace_s > step_max_s * LOCAL_PACE_FRAC
        slow = shy
        if np.count_nonzero(shy):
            slow = pace_s > step_max_s
            shy &= loads.running_count > 0.0
            full |= slow
        room_s = None
        if np.count_nonzero(full):
            late = np.divide(pace_s - step_max_s, added_s, out=np.zeros(part.count), where=slow)
            crowd = sequences + 1.0 + coming - traits.sequences_max
            room_s = room_waits_s(
                part,
                shortage_blocks=np.ceil(peak_blocks - free),
                shortage_sequences=np.ceil(np.maximum(late, crowd)),
                output_tokens=query.output_tokens_expected or query.output_tokens_max,
                where=full,
            )
        local_room_s = room_s
        if self._able.prefiller_count and np.count_nonzero(shy):  # there is a pool to leave prompts to
            if room_s is not None:
                shy &= room_s == 0.0
            otherwise_s = 0.0 if room_s is None else room_s
            if np.count_nonzero(shy):
                local_room_s = np.where(shy, np.maximum(loads.backlog_s, step_s), otherwise_s)
        return _Seats(room_s=room_s, step_s=step_s, pace_s=pace_s, local_room_s=local_room_s)

    def _longest_s(self, alone_s: Number) -> Number:
        """The longest step of a worker; infinite where this sequence alone misses the bound."""
        longest_s: Number = self._step_max_s
        if self._step_margin_frac < 1.0:
            longest_s = longest_s - (1.0 - self._step_margin_frac) * (longest_s - alone_s)
        if isinstance(alone_s, np.ndarray):
            return np.where(alone_s <= self._step_max_s, longest_s, inf)
        return inf if alone_s > self._step_max_s else longest_s

    def _sequence_s(self, part: Part) -> tuple[Number, Number, Number]:
        """What this sequence adds to a decode step of others, a step without any, and its step alone."""
        traits, tokens = part.traits, self._query.prompt_tokens
        context_s = traits.decode_context_token_s * tokens
        alone_s, pair_s = traits.decode_first_s + context_s, traits.decode_second_s + context_s
        if self._sight.bends:
            bend_s = traits.decode_context_square_s * tokens * tokens
            alone_s, pair_s = alone_s + bend_s, pair_s + bend_s
        alone_s = larger(traits.decode_least_s, alone_s)
        added_s = larger(traits.decode_least_s, pair_s) - traits.decode_shortest_s
        return added_s, alone_s - added_s, alone_s

    def _queue_up(self, part: Part, wait_s: Column) -> None:
        """Add what is ahead of a prompt in the queue and at full prefill workers."""
        behind_s = queued_s(
            part.traits,
            self._queue,
            prefiller_count=max(1, self._able.prefiller_count),
            bound_tokens=self._bound_tokens(),
        )
        if behind_s is not None:
            wait_s += behind_s
        full_s = prefill_room_waits_s(part, self._query.prompt_tokens)
        if full_s is not None:
            wait_s += full_s

    def _transfer_s(self, part: Part) -> Number:
        traits = part.traits
        size_bytes = self._query.prompt_tokens * traits.kv_bytes_per_token
        return traits.handoff_s + size_bytes / traits.transfer_bytes_per_s

    def _handed(self, seats: _Seats) -> tuple[Number, Number, Number, Mask | None]:
        """Say for each prefill worker what its handoff finds at the best other worker that decodes.

        Returns:
            Until a seat is free, the first step, the pace, and who has no other worker.
        """
        sight, lineup = self._sight, self._lineup
        count, first = sight.prefillers.count, sight.decoders.count
        join_s = seats.step_s if seats.room_s is None else seats.room_s + seats.step_s
        if self._able.mask is not None:
            join_s = np.where(self._able.mask[:first], join_s, inf)
        if not sight.layouts:
            best = first_place(join_s, sight.seeds[:first], self._seed)
            if lineup.place(sight.worker_ids[best], Phase.PREFILL) is None and join_s[best] < inf:
                room_s = 0.0 if seats.room_s is None else float(seats.room_s[best])
                return room_s, float(seats.step_s[best]), float(seats.pace_s[best]), None
        found = np.zeros((3, count))
        alone: Mask | None = None
        for decoders, prefillers in sight.layouts or ((None, None),):
            of_layout = join_s if decoders is None else np.where(decoders, join_s, inf)
            best = first_place(of_layout, sight.seeds[:first], self._seed)
            own = lineup.place(lineup.view(best).worker_id, Phase.PREFILL)
            places = slice(None) if prefillers is None else prefillers
            if of_layout[best] < inf:
                found[:, places] = self._seat(seats, best)
                if own is None:
                    continue
                places = slice(own - first, own - first + 1)
                of_layout = of_layout.copy()
                of_layout[best] = inf
                second = first_place(of_layout, sight.seeds[:first], self._seed)
                if of_layout[second] < inf:
                    found[:, places] = self._seat(seats, second)
                    continue
            alone = np.zeros(count, dtype=bool) if alone is None else alone
            alone[places] = True
        return found[0], found[1], found[2], alone

    @staticmethod
    def _seat(seats: _Seats, place: int) -> Column:
        """One decode worker's seat; shape [3, 1]."""
        room_s = 0.0 if seats.room_s is None else seats.room_s[place]
        return np.array(((room_s,), (seats.step_s[place],), (seats.pace_s[place],)))
