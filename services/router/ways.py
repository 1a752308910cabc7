"""Every way in which a prompt can be served, priced.

Comes in: able workers, overlaps, the queue. Goes out: ways, comparable by cost and then by a hash.
Invariant: the price of a way depends on its own worker, on the queue and, when the prompt is handed
over, on the best worker that would decode it; never on the order in which workers are looked at.
Not here: which way is taken and why (`services.router.placement`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path, PlacementQuery
from services.router.fleet import WorkerView, hash64
from services.router.prices import PromptPrice, backlog_s, price_prompt
from services.router.queue_load import QueueLoad
from services.router.sifting import tie, wait_for_room_s


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
            harm_s=self.harm_s,
            cost_s=self.cost_s,
            excluded=excluded,
        )


class Join(NamedTuple):
    """A decode worker taking over a sequence."""

    join_s: float
    """Until its first token there, once its KV is readable."""
    tie: int
    worker_id: WorkerId


class Pricing:
    """Prices one query; remembers what workers of equal speed share."""

    def __init__(self, query: PlacementQuery, *, overlaps: Mapping[WorkerId, int], tpot_s: float) -> None:
        self._query = query
        self._overlaps = overlaps
        self._tpot_s = tpot_s
        self._seed = hash64(query.request_id)
        self._prompts: dict[tuple[int, int], tuple[PromptPrice, int]] = {}

    def ways(
        self, *, decoders: Sequence[WorkerView], prefillers: Sequence[WorkerView], queue: QueueLoad
    ) -> tuple[list[Way], list[WorkerView]]:
        """Price every way.

        Args:
            decoders: workers that may prefill and decode it, or decode it.
            prefillers: workers that may prefill it through the queue.
            queue: what waits for them.

        Returns:
            The ways, and prefill workers whose KV no other worker could decode.
        """
        query = self._query
        rooms_s = [
            wait_for_room_s(view, tokens=query.prompt_tokens, output_tokens=query.output_tokens_max)
            for view in decoders
        ]
        ways = [
            self._way(view, Path.LOCAL, view.backlog_s + room_s, 0.0, 0.0)
            for view, room_s in zip(decoders, rooms_s, strict=True)
        ]
        joins = self._joins(decoders, rooms_s) if prefillers else {}
        shared: dict[int, tuple[float, float]] = {}
        alone: list[WorkerView] = []
        for view in prefillers:
            join = _other(joins.get(view.limits.compatibility, ()), view.worker_id)
            if join is None:
                alone.append(view)
                continue
            if view.speed not in shared:
                shared[view.speed] = self._shared(view, queue, len(prefillers))
            queued_s, transfer_s = shared[view.speed]
            room_s = wait_for_room_s(view, tokens=query.prompt_tokens, output_tokens=1)
            wait_s = view.backlog_s + queued_s + room_s
            ways.append(self._way(view, Path.REMOTE, wait_s, transfer_s, join.join_s))
        return ways, alone

    def _way(self, view: WorkerView, path: Path, wait_s: float, transfer_s: float, join_s: float) -> Way:
        worker_id = view.worker_id
        overlap = self._overlaps.get(worker_id, 0)
        priced = self._prompts.get((view.speed, overlap))
        if priced is None:
            priced = self._prompts[view.speed, overlap] = self._price(view, overlap)
        price, uncached = priced
        ttft_s = wait_s + price.total_s + price.step_count * view.step_s + transfer_s + join_s
        harmed = view.running_count
        harm_s = 0.0
        if harmed:
            harm_s = harmed * price.stall_s(decode_step_s=view.step_s, tpot_s=self._tpot_s)
        return Way(
            ttft_s + harm_s,
            tie(self._seed, view.tie_seed),
            worker_id,
            path,
            overlap,
            uncached,
            wait_s,
            price.total_s,
            transfer_s,
            ttft_s,
            harm_s,
            harmed,
        )

    def _price(self, view: WorkerView, overlap_blocks: int) -> tuple[PromptPrice, int]:
        limits, prompt = view.limits, self._query.prompt_tokens
        cached = min(overlap_blocks * limits.block_size_tokens, prompt - 1)
        price = price_prompt(
            view.status.performance,
            prompt_tokens=prompt,
            cached_tokens=cached,
            step_tokens_max=limits.step_tokens_max,
        )
        return price, prompt - cached

    def _shared(self, view: WorkerView, queue: QueueLoad, worker_count: int) -> tuple[float, float]:
        """Wait behind this worker's share of the queue, and transfer: equal for equal workers."""
        performance, limits = view.status.performance, view.limits
        queued_s = backlog_s(
            performance,
            tokens=queue.waiting_tokens / worker_count,
            prompt_count=queue.waiting_count / worker_count,
            step_tokens_max=limits.step_tokens_max,
        )
        return queued_s, performance.transfer_s(self._query.prompt_tokens * limits.kv_bytes_per_token)

    def _joins(self, decoders: Sequence[WorkerView], rooms_s: Sequence[float]) -> dict[str, tuple[Join, ...]]:
        """Best two decode workers per KV layout: the best, and who takes over from itself."""
        joins: dict[str, list[Join]] = {}
        added: dict[int, tuple[float, float]] = {}
        for view, room_s in zip(decoders, rooms_s, strict=True):
            if view.speed not in added:
                added[view.speed] = self._added_s(view)
            first_s, more_s = added[view.speed]
            step_s = view.step_s + more_s if view.running_count else first_s
            joins.setdefault(view.limits.compatibility, []).append(
                Join(room_s + step_s, tie(self._seed, view.tie_seed), view.worker_id)
            )
        return {layout: tuple(sorted(of_layout)[:2]) for layout, of_layout in joins.items()}

    def _added_s(self, view: WorkerView) -> tuple[float, float]:
        """Step of this sequence alone, and what it adds to a step of others: the model is linear."""
        performance, tokens = view.status.performance, self._query.prompt_tokens
        alone_s = performance.decode_s(sequence_count=1, context_tokens=tokens)
        pair_s = performance.decode_s(sequence_count=2, context_tokens=tokens)
        return alone_s, pair_s - performance.decode_s(sequence_count=1, context_tokens=0)


def _other(joins: Sequence[Join], worker_id: WorkerId) -> Join | None:
    for join in joins:
        if join.worker_id != worker_id:
            return join
    return None
