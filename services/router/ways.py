"""Every way in which a prompt can be served, priced.

Comes in: able workers, overlaps, the queue. Goes out: ways, comparable by cost and then by a hash.
Invariant: the price of a way depends on its own worker, on the queue and, when the prompt is handed
over, on the best worker that would decode it; never on the order in which workers are looked at.
Not here: which way is taken and why (`services.router.placement`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.domain.blocks import blocks_for
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


Join = tuple[float, int, WorkerId]
"""A decode worker taking over a sequence: seconds until its first token there once its KV is readable,
tie, who."""


@dataclass(slots=True)
class _Speed:
    """What a query costs on workers of equal performance and limits."""

    needed_blocks: int
    alone_s: float
    """A decode step of this sequence alone."""
    added_s: float
    """What this sequence adds to a decode step of others: the model is linear in both its terms."""
    queued_s: float
    """Wait behind one worker's share of the queue."""
    transfer_s: float
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
        tpot_s: float,
    ) -> None:
        """Prepare to price.

        Args:
            query: what is to be placed.
            overlaps: leading blocks that each worker holds; absent is 0.
            queue: what waits for any prefill worker.
            prefiller_count: workers that share the queue.
            tpot_s: what a decode step may take.
        """
        self._query = query
        self._overlaps = overlaps
        self._queue = queue
        self._prefiller_count = max(1, prefiller_count)
        self._tpot_s = tpot_s
        self._seed = hash64(query.request_id)
        self._speeds: dict[int, _Speed] = {}

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
        query = self._query
        ways: list[Way] = []
        joins: defaultdict[str, list[Join]] = defaultdict(list)
        for view in decoders:
            speed = self._speeds.get(view.speed) or self._speed(view)
            room_s = self._room_s(view, speed, query.output_tokens_max)
            way = self._way(view, speed, Path.LOCAL, view.backlog_s + room_s, 0.0)
            ways.append(way)
            step_s = view.step_s + speed.added_s if view.running_count else speed.alone_s
            joins[view.limits.compatibility].append((room_s + step_s, way.tie, view.worker_id))
        best = {layout: sorted(of_layout)[:2] for layout, of_layout in joins.items()}
        alone: list[WorkerView] = []
        for view in prefillers:
            takeover = _other_s(best.get(view.limits.compatibility, ()), view.worker_id)
            if takeover is None:
                alone.append(view)
                continue
            speed = self._speeds.get(view.speed) or self._speed(view)
            wait_s = view.backlog_s + speed.queued_s + self._room_s(view, speed, 1)
            ways.append(self._way(view, speed, Path.REMOTE, wait_s, takeover))
        return ways, alone

    def _room_s(self, view: WorkerView, speed: _Speed, output_tokens: int) -> float:
        if view.free_blocks >= speed.needed_blocks and view.sequence_count < view.limits.sequences_max:
            return 0.0
        return wait_for_room_s(view, tokens=self._query.prompt_tokens, output_tokens=output_tokens)

    def _way(self, view: WorkerView, speed: _Speed, path: Path, wait_s: float, join_s: float) -> Way:
        worker_id, running, step_s = view.worker_id, view.running_count, view.step_s
        overlap = self._overlaps.get(worker_id, 0)
        price, uncached = speed.prompts.get(overlap) or self._price(view, speed, overlap)
        transfer_s = speed.transfer_s if path is Path.REMOTE else 0.0
        ttft_s = wait_s + price.total_s + price.step_count * step_s + transfer_s + join_s
        harm_s = running * price.stall_s(decode_step_s=step_s, tpot_s=self._tpot_s) if running else 0.0
        row = (
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
        alone_s = performance.decode_s(sequence_count=1, context_tokens=tokens)
        pair_s = performance.decode_s(sequence_count=2, context_tokens=tokens)
        speed = self._speeds[view.speed] = _Speed(
            needed_blocks=blocks_for(tokens + 1, limits.block_size_tokens),
            alone_s=alone_s,
            added_s=pair_s - performance.decode_s(sequence_count=1, context_tokens=0),
            queued_s=backlog_s(
                performance,
                tokens=self._queue.waiting_tokens / self._prefiller_count,
                prompt_count=self._queue.waiting_count / self._prefiller_count,
                step_tokens_max=limits.step_tokens_max,
            ),
            transfer_s=performance.transfer_s(tokens * limits.kv_bytes_per_token),
            prompts={},
        )
        return speed


def _other_s(joins: Sequence[Join], worker_id: WorkerId) -> float | None:
    """Time at the best decode worker that is not the prefill worker itself."""
    for join_s, _, joined in joins:
        if joined != worker_id:
            return join_s
    return None
