"""Every way of serving a prompt, priced worker by worker in plain arithmetic: what columns must say.

Slow on purpose: each prompt is walked step by step, each worker asked by itself, by the performance model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from services.domain.ids import WorkerId
from services.domain.performance import PrefillChunk
from services.domain.placement import Path, PlacementQuery
from services.domain.worker import Phase
from services.router.fleet.filters import Need
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.prices import room_wait_s
from services.router.fleet.worker_view import WorkerView, hash64
from services.router.pricing.bounds import Bounds
from services.router.pricing.queue_load import QueueLoad
from services.router.pricing.seats import LOCAL_PACE_FRAC
from services.router.pricing.sifting import sift
from services.router.pricing.way import tie
from services.router.settings import RouterSettings


@dataclass(frozen=True, kw_only=True)
class PlainWay:
    """One way; see `Candidate`."""

    path: Path
    worker_id: WorkerId
    wait_s: float
    room_s: float
    prefill_s: float
    transfer_s: float
    ttft_s: float
    tpot_s: float
    harm_s: float
    tie: int

    @property
    def cost_s(self) -> float:
        """What is compared."""
        return self.ttft_s + self.harm_s


@dataclass(frozen=True, kw_only=True)
class _Seat:
    room_s: float
    step_s: float
    pace_s: float
    is_shy: bool


@dataclass(frozen=True, kw_only=True)
class _Prefill:
    step_count: int
    total_s: float
    stall_s: float


@dataclass(frozen=True, kw_only=True)
class PlainPricing:
    """Prices one query."""

    query: PlacementQuery
    fleet: FleetView
    overlaps: Mapping[WorkerId, int]
    queue: QueueLoad
    settings: RouterSettings
    bounds: Bounds

    def ways(self) -> list[PlainWay]:
        """Price every way that can be gone, best first."""
        prompt, model = self.query.prompt_tokens, self.query.scope.model
        decoders = self._able(Phase.DECODE, prompt + self.query.output_tokens_max)
        prefillers = self._able(Phase.PREFILL, prompt + 1)
        prefillers = prefillers if self.queue.reachable else []
        assert all(view.status.model == model for view in decoders)
        found = [self._local(view, decoders, prefillers) for view in decoders]
        found += [w for w in (self._remote(view, decoders, prefillers) for view in prefillers) if w]
        return sorted(found, key=lambda way: (way.cost_s, way.tie))

    def is_good(self, way: PlainWay) -> bool:
        """Whether a way serves the request well."""
        bounds = self.bounds
        if way.wait_s > bounds.wait_max_s(way.ttft_s - way.wait_s) or way.room_s > 0.0:
            return False
        return bounds.deadline_s is None or bounds.predicted_s(way.ttft_s, way.tpot_s) <= bounds.deadline_s

    def _able(self, phase: Phase, tokens: int) -> list[WorkerView]:
        need = Need(
            tokens=tokens,
            avoid=frozenset(self.query.avoid_worker_ids),
            now_s=0.0,
            stale_after_s=self.settings.stale_after_s,
        )
        return sift(self.fleet.serving(self.query.scope.model, phase), need)[0]

    def _local(
        self, view: WorkerView, decoders: Sequence[WorkerView], prefillers: Sequence[WorkerView]
    ) -> PlainWay:
        seat, prefill = self._seat(view, len(decoders)), self._prefill(view)
        room_s = seat.room_s
        if prefillers and seat.is_shy and room_s == 0.0:
            room_s = max(view.backlog_s, seat.step_s)
        wait_s = view.backlog_s + room_s
        return PlainWay(
            path=Path.LOCAL,
            worker_id=view.worker_id,
            wait_s=wait_s,
            room_s=room_s,
            prefill_s=prefill.total_s,
            transfer_s=0.0,
            ttft_s=wait_s + prefill.total_s + prefill.step_count * view.step_s,
            tpot_s=seat.pace_s,
            harm_s=view.running_count * prefill.stall_s,
            tie=self._tie(view),
        )

    def _remote(
        self, view: WorkerView, decoders: Sequence[WorkerView], prefillers: Sequence[WorkerView]
    ) -> PlainWay | None:
        prefill, performance, limits = self._prefill(view), view.status.performance, view.limits
        others = [
            (seat.room_s + seat.step_s, self._tie(other), seat)
            for other in decoders
            if other.worker_id != view.worker_id and other.limits.compatibility == limits.compatibility
            for seat in (self._seat(other, len(decoders)),)
        ]
        if not others:
            return None
        seat = min(others, key=lambda other: other[:2])[2]
        ahead_s = view.backlog_s + self._queued_s(view, len(prefillers)) + self._prefill_room_s(view)
        free_s = max(0.0, seat.room_s - ahead_s - prefill.total_s)
        transfer_s = performance.transfer_s(self.query.prompt_tokens * limits.kv_bytes_per_token)
        ttft_s = ahead_s + free_s + prefill.total_s + transfer_s + seat.step_s
        return PlainWay(
            path=Path.REMOTE,
            worker_id=view.worker_id,
            wait_s=ahead_s + free_s,
            room_s=free_s,
            prefill_s=prefill.total_s,
            transfer_s=transfer_s,
            ttft_s=ttft_s + prefill.step_count * view.step_s,
            tpot_s=seat.pace_s,
            harm_s=view.running_count * prefill.stall_s,
            tie=self._tie(view),
        )

    def _tie(self, view: WorkerView) -> int:
        return tie(view.tie_seed, hash64(self.query.request_id))

    def _prefill(self, view: WorkerView) -> _Prefill:
        performance, limits = view.status.performance, view.limits
        prompt = self.query.prompt_tokens
        held = self.overlaps.get(view.worker_id, 0) * limits.block_size_tokens
        done, steps, total_s, stall_s = min(held, prompt - 1), 0, 0.0, 0.0
        slack_s = max(0.0, self.settings.tpot_target_s - view.step_s)
        while done < prompt:
            new = min(limits.step_tokens_max, prompt - done)
            step_s = performance.prefill_s((PrefillChunk(new_tokens=new, context_tokens=done),))
            steps, total_s, done = steps + 1, total_s + step_s, done + new
            stall_s += max(0.0, step_s - slack_s)
        return _Prefill(step_count=steps, total_s=total_s, stall_s=stall_s)

    def _queued_s(self, view: WorkerView, prefiller_count: int) -> float:
        queue, performance = self.queue, view.status.performance
        if not queue.waiting_tokens:
            return 0.0
        share = queue.waiting_tokens / prefiller_count
        each = max(1, round(share / max(queue.waiting_count / prefiller_count, 1.0)))
        anybodys = max(0.0, queue.waiting_tokens - sum(queue.bound_tokens.values()))
        tokens = anybodys / prefiller_count + queue.bound_tokens.get(view.worker_id, 0.0)
        chunk_s = performance.chunk_s(PrefillChunk(new_tokens=each, context_tokens=0))
        steps_s = performance.steps_s(tokens=ceil(tokens), step_tokens_max=view.limits.step_tokens_max)
        return tokens / each * chunk_s + steps_s

    def _prefill_room_s(self, view: WorkerView) -> float:
        blocks = ceil((self.query.prompt_tokens + 1) / view.limits.block_size_tokens)
        return self._room_s(view, blocks - view.free_blocks, self._crowd(view), output_tokens=1)

    def _seat(self, view: WorkerView, decoder_count: int) -> _Seat:
        performance, limits, query = view.status.performance, view.limits, self.query
        coming = self.queue.waiting_count / decoder_count
        alone_s = performance.decode_s(sequence_count=1, context_tokens=query.prompt_tokens)
        added_s = performance.decode_s(sequence_count=2, context_tokens=query.prompt_tokens)
        added_s -= performance.decode_s(sequence_count=1, context_tokens=0)
        step_s = view.step_s + added_s if view.running_count else alone_s
        joining = view.sequence_count - view.running_count + coming
        pace_s = (step_s + joining * added_s) * view.slowdown
        longest_s = self._longest_s(alone_s)
        growth = query.output_tokens_expected or 0
        needed = ceil((query.prompt_tokens + max(1, growth)) / limits.block_size_tokens)
        before = growth / 2 * view.sequence_count + coming * growth
        before += self.queue.waiting_tokens / decoder_count
        short_blocks = needed + before / limits.block_size_tokens - view.free_blocks
        crowd = self._crowd(view) + coming
        room_s = 0.0
        if short_blocks > 0 or crowd >= 1 or pace_s > longest_s:
            late = (pace_s - longest_s) / added_s if added_s else view.sequence_count
            late = late if pace_s > longest_s else 0.0
            outputs = query.output_tokens_expected or query.output_tokens_max
            room_s = self._room_s(view, short_blocks, max(late, crowd), output_tokens=outputs)
        is_shy = view.running_count > 0 and pace_s > longest_s * LOCAL_PACE_FRAC
        return _Seat(room_s=room_s, step_s=step_s, pace_s=pace_s, is_shy=is_shy)

    def _longest_s(self, alone_s: float) -> float:
        most_s, margins = self.bounds.step_max_s, self.bounds.margins
        if alone_s > most_s:
            return inf
        return most_s if margins is None else most_s - (1 - margins.tpot_frac) * (most_s - alone_s)

    @staticmethod
    def _crowd(view: WorkerView) -> int:
        return view.sequence_count + 1 - view.limits.sequences_max

    @staticmethod
    def _room_s(view: WorkerView, blocks: float, sequences: float, *, output_tokens: int) -> float:
        return room_wait_s(
            view.status.performance,
            shortage_blocks=ceil(blocks),
            shortage_sequences=ceil(sequences),
            used_blocks=view.used_blocks,
            running_count=view.running_count,
            step_s=view.step_s,
            output_tokens=output_tokens,
        )
