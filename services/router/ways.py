"""Every way in which a prompt can be served, priced.

Comes in: able workers, overlaps, the queue. Goes out: ways, comparable by cost and then by a hash.
Invariant: the price of a way depends on its own worker, on the queue and, when the prompt is handed
over, on the best worker that would decode it; never on the order in which workers are looked at.
Not here: which way is taken and why (`services.router.placement`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.domain.blocks import blocks_for
from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path, PlacementQuery
from services.router.fleet import WorkerView, hash64
from services.router.prices import PromptPrice, backlog_s, price_prompt, room_wait_s
from services.router.queue_load import QueueLoad
from services.router.sifting import MASK, SPREAD, wait_for_room_s


class Way(NamedTuple):
    """One way; compares by its fields in order. A tuple, because a decision makes one per worker."""

    cost_s: float
    tie: int
    worker_id: WorkerId
    path: Path
    overlap_blocks: int
    uncached_tokens: int
    wait_s: float
    prefill_s: float
    transfer_s: float
    ttft_s: float
    tpot_s: float
    room_s: float
    """Part of the wait until a decode worker has room: nothing but the gateway can hold the prompt for it."""
    harm_s: float
    harmed_count: int

    def candidate(self, excluded: str | None = None) -> Candidate:
        """Turn into the domain's record."""
        return Candidate(
            path=self.path,
            worker_id=self.worker_id,
            overlap_blocks=self.overlap_blocks,
            uncached_tokens=self.uncached_tokens,
            wait_s=self.wait_s,
            prefill_s=self.prefill_s,
            transfer_s=self.transfer_s,
            ttft_s=self.ttft_s,
            tpot_s=self.tpot_s,
            harm_s=self.harm_s,
            cost_s=self.cost_s,
            excluded=excluded,
        )


LOCAL_PACE_FRAC = 0.8
"""Share of the longest time per token up to which a decode worker still takes prompts while there is a
prefill pool: sequences that are handed over stall nobody, so prompts are the first thing to give up."""

Seat = tuple[float, float, float]
"""A sequence's place at a decode worker: seconds until it is free, the step with the sequence in it, and the
step once all have joined that are on their way."""

Join = tuple[float, int, WorkerId, Seat]
"""A decode worker taking over a sequence: seconds until its seat is free and one step is made, tie, who."""


@dataclass(slots=True)
class _Speed:
    """What a query costs on workers of equal performance and limits."""

    prompt_blocks: int
    """Taken by the prompt and its first token."""
    peak_blocks: int
    """Taken once the output is as long as expected."""
    growth_blocks: float
    """What a running sequence still comes to take: half an output, since they are at all stages."""
    coming_blocks: float
    """What one decode worker's share of the queue comes to take."""
    idle_s: float
    """A decode step without any sequence."""
    step_max_s: float
    """Longest step; infinite where this sequence alone makes a longer one."""
    local_pace_max_s: float
    """Longest time per token at which it still takes prompts."""
    sequences_max: int
    added_s: float
    """What this sequence adds to a decode step of others: the model is linear in both its terms."""
    queued_s: float
    """Wait behind one worker's share of the queue."""
    transfer_s: float
    joins: list[Join]
    """Decode workers of its KV layout, best first once all are priced; shared by all speeds of the layout."""
    prompts: dict[int, tuple[PromptPrice, int]]
    """By overlap in blocks: price of the rest, and its tokens."""


class Pricing:
    """Prices one query; what workers of equal speed share is computed once."""

    def __init__(
        self,
        query: PlacementQuery,
        *,
        overlaps: Mapping[WorkerId, int],
        queue: QueueLoad,
        prefiller_count: int,
        decoder_count: int,
        tpot_s: float,
        step_max_s: float,
    ) -> None:
        """Prepare to price.

        Args:
            query: what is to be placed.
            overlaps: leading blocks that each worker holds; absent is 0.
            queue: what waits for any prefill worker.
            prefiller_count: workers that share the queue.
            decoder_count: workers that will share what the queue's prompts become.
            tpot_s: what a decode step should take.
            step_max_s: what it may take at most before a worker counts as full.
        """
        self._query = query
        self._overlaps = overlaps
        self._queue = queue
        self._prefiller_count = max(1, prefiller_count)
        self._has_pool = prefiller_count > 0
        self._coming = queue.waiting_count / max(1, decoder_count)
        self._coming_tokens = queue.waiting_tokens / max(1, decoder_count)
        self._tpot_s = tpot_s
        self._step_max_s = step_max_s
        self._growth_tokens = query.output_tokens_expected or 0
        self._seed = hash64(query.request_id)
        self._speeds: dict[int, _Speed] = {}
        self._joins: dict[str, list[Join]] = {}

    def ways(
        self, *, decoders: Sequence[WorkerView], prefillers: Sequence[WorkerView]
    ) -> tuple[list[Way], list[WorkerView]]:
        """Price every way.

        Args:
            decoders: workers that may prefill and decode it, or decode it.
            prefillers: workers that may prefill it through the queue.

        Returns:
            The ways, and prefill workers whose KV no other worker could decode.
        """
        ways: list[Way] = []
        coming = self._coming
        for view in decoders:
            speed = self._speeds.get(view.speed) or self._speed(view)
            running, sequences = view.running_count, view.sequence_count
            step_s = (view.step_s if running else speed.idle_s) + speed.added_s
            pace_s = (step_s + speed.added_s * (coming + sequences - running)) * view.slowdown
            free = view.free_blocks - speed.growth_blocks * sequences - speed.coming_blocks
            room_s = 0.0  # with a place in the batch, a step within its bound, memory for what all will write
            if (
                pace_s > speed.step_max_s
                or free < speed.peak_blocks
                or sequences + coming >= speed.sequences_max
            ):
                room_s = self._room_s(view, speed, pace_s, free)
            seat = (room_s, step_s, pace_s)
            local_seat = seat
            if running and pace_s > speed.local_pace_max_s and not room_s:
                local_seat = (max(view.backlog_s, step_s), step_s, pace_s)
            way = self._way(view, speed, Path.LOCAL, view.backlog_s, local_seat)
            ways.append(way)
            speed.joins.append((room_s + step_s, way.tie, view.worker_id, seat))
        for of_layout in self._joins.values():
            of_layout.sort()
        alone: list[WorkerView] = []
        for view in prefillers:
            speed = self._speeds.get(view.speed) or self._speed(view)
            ranked = speed.joins
            if not ranked or (ranked[0][2] == view.worker_id and len(ranked) == 1):
                alone.append(view)
                continue
            _, _, joined, seat = ranked[0]
            if joined == view.worker_id:
                seat = ranked[1][3]
            wait_s = view.backlog_s + speed.queued_s
            if view.free_blocks < speed.prompt_blocks or view.sequence_count >= speed.sequences_max:
                wait_s += wait_for_room_s(view, tokens=self._query.prompt_tokens, output_tokens=1)
            ways.append(self._way(view, speed, Path.REMOTE, wait_s, seat))
        return ways, alone

    def _room_s(self, view: WorkerView, speed: _Speed, pace_s: float, free_blocks: float) -> float:
        """Say when a full decode worker has room.

        Args:
            view: the worker.
            speed: what the query costs there.
            pace_s: its step once all have joined.
            free_blocks: left when all have written what they are expected to; negative when they cannot.
        """
        late = (pace_s - speed.step_max_s) / speed.added_s if pace_s > speed.step_max_s else 0.0
        crowd = view.sequence_count + 1 + self._coming - speed.sequences_max
        return room_wait_s(
            view.status.performance,
            shortage_blocks=math.ceil(speed.peak_blocks - free_blocks),
            shortage_sequences=math.ceil(max(late, crowd)),
            used_blocks=view.used_blocks,
            running_count=view.running_count,
            step_s=view.step_s,
            output_tokens=self._query.output_tokens_expected or self._query.output_tokens_max,
        )

    def _way(self, view: WorkerView, speed: _Speed, path: Path, wait_s: float, seat: Seat) -> Way:
        worker_id, running, step_s = view.worker_id, view.running_count, view.step_s
        overlap = self._overlaps.get(worker_id, 0)
        price, uncached = speed.prompts.get(overlap) or self._price(view, speed, overlap)
        room_s, join_s, pace_s = seat
        transfer_s = speed.transfer_s
        if path is Path.LOCAL:
            transfer_s = join_s = 0.0
        else:
            room_s = max(0.0, room_s - wait_s - price.total_s)  # sequences end meanwhile
        wait_s += room_s
        ttft_s = wait_s + price.total_s + transfer_s + join_s
        harm_s = 0.0
        if running:
            ttft_s += price.step_count * step_s
            harm_s = running * price.stall_s(decode_step_s=step_s, tpot_s=self._tpot_s)
        row = (
            ttft_s + harm_s,
            ((view.tie_seed ^ self._seed) * SPREAD) & MASK,  # `tie`, without the price of a call
            worker_id,
            path,
            overlap,
            uncached,
            wait_s,
            price.total_s,
            transfer_s,
            ttft_s,
            pace_s,
            room_s,
            harm_s,
            running,
        )
        return tuple.__new__(Way, row)  # half the price of Way(...), paid once per worker

    def _price(self, view: WorkerView, speed: _Speed, overlap_blocks: int) -> tuple[PromptPrice, int]:
        limits, prompt = view.limits, self._query.prompt_tokens
        cached = min(overlap_blocks * limits.block_size_tokens, prompt - 1)
        price = price_prompt(
            view.status.performance,
            prompt_tokens=prompt,
            cached_tokens=cached,
            step_tokens_max=limits.step_tokens_max,
        )
        priced = speed.prompts[overlap_blocks] = (price, prompt - cached)
        return priced

    def _speed(self, view: WorkerView) -> _Speed:
        performance, limits, tokens = view.status.performance, view.limits, self._query.prompt_tokens
        size, growth = limits.block_size_tokens, self._growth_tokens
        alone_s = performance.decode_s(sequence_count=1, context_tokens=tokens)
        pair_s = performance.decode_s(sequence_count=2, context_tokens=tokens)
        added_s = pair_s - performance.decode_s(sequence_count=1, context_tokens=0)
        step_max_s = self._step_max_s if alone_s <= self._step_max_s else math.inf
        speed = self._speeds[view.speed] = _Speed(
            prompt_blocks=blocks_for(tokens + 1, size),
            peak_blocks=blocks_for(tokens + max(1, growth), size),
            growth_blocks=growth / 2 / size,
            coming_blocks=(self._coming_tokens + self._coming * growth) / size,
            idle_s=alone_s - added_s,
            step_max_s=step_max_s,
            local_pace_max_s=step_max_s * LOCAL_PACE_FRAC if self._has_pool else math.inf,
            sequences_max=limits.sequences_max,
            added_s=added_s,
            queued_s=backlog_s(
                performance,
                tokens=self._queue.waiting_tokens / self._prefiller_count,
                prompt_count=self._queue.waiting_count / self._prefiller_count,
                step_tokens_max=limits.step_tokens_max,
            ),
            transfer_s=performance.transfer_s(tokens * limits.kv_bytes_per_token),
            joins=self._joins.setdefault(limits.compatibility, []),
            prompts={},
        )
        return speed
