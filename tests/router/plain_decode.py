"""Every worker that could continue a handed-over prompt, priced by itself: what columns must say."""

from dataclasses import dataclass

from services.domain.blocks import blocks_for
from services.domain.ids import WorkerId
from services.domain.placement import DecodeQuery
from services.domain.worker import Phase
from services.router.fleet.filters import Need
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.prices import preemption_s
from services.router.fleet.worker_view import WorkerView, hash64
from services.router.pricing.sifting import sift, wait_for_room_s
from services.router.pricing.way import tie
from services.router.settings import RouterSettings


@dataclass(frozen=True, kw_only=True, order=True)
class PlainSeat:
    """One worker with the sequence added; compares by its fields in order."""

    cost_s: float
    tie: int
    worker_id: WorkerId
    step_s: float
    wait_s: float
    kv_free_frac: float
    running_count: int
    context_tokens: int
    busy_s: float
    is_soft: bool


@dataclass(frozen=True, kw_only=True)
class PlainDecision:
    """Seats, best first."""

    taken: list[PlainSeat]
    late: list[PlainSeat]
    spared: list[PlainSeat]
    excluded: list[tuple[WorkerId, str]]
    """By id."""


def decide(
    query: DecodeQuery,
    fleet: FleetView,
    settings: RouterSettings,
    *,
    now_s: float,
    step_limit_s: float | None,
) -> PlainDecision:
    """Price one worker after another."""
    need = Need(
        tokens=query.context_tokens + query.output_tokens_max,
        avoid=frozenset(query.avoid_worker_ids),
        now_s=now_s,
        stale_after_s=settings.stale_after_s,
        compatibility=query.compatibility,
    )
    able, excluded = sift(fleet.serving(query.scope.model, Phase.DECODE), need)
    seats = sorted(_seat(view, query, settings.tpot_target_s) for view in able)
    in_time = [seat for seat in seats if seat.wait_s <= settings.wait_max_s]
    taken = in_time if step_limit_s is None else _gathered(in_time, step_limit_s, query.holder_id)
    return PlainDecision(
        taken=taken,
        late=[seat for seat in seats if seat not in in_time],
        spared=[seat for seat in in_time if seat not in taken],
        excluded=sorted((view.worker_id, why) for view, why in excluded),
    )


def _gathered(seats: list[PlainSeat], step_limit_s: float, holder_id: WorkerId | None) -> list[PlainSeat]:
    """Take workers that only decode, then the fullest, then who holds it, then the cheapest of the empty."""
    open_now = [seat for seat in seats if seat.wait_s == 0.0 and seat.step_s + seat.busy_s <= step_limit_s]
    fixed = [seat for seat in open_now if not seat.is_soft]
    busy = sorted((s for s in open_now if s.running_count), key=lambda s: (-s.context_tokens, s.tie))
    empty = [seat for seat in open_now if not seat.running_count]
    stays = [seat for seat in empty if seat.worker_id == holder_id]
    return fixed or busy[:1] or stays or empty[:1] or seats


def _seat(view: WorkerView, query: DecodeQuery, tpot_s: float) -> PlainSeat:
    performance, limits = view.status.performance, view.limits
    running = view.running_count + 1
    context = view.context_tokens + query.context_tokens
    step_s = performance.decode_s(sequence_count=running, context_tokens=context)
    free = max(0, view.free_blocks - blocks_for(query.context_tokens + 1, limits.block_size_tokens))
    output_tokens = query.output_tokens_expected or query.output_tokens_max
    wait_s = wait_for_room_s(view, tokens=query.context_tokens, output_tokens=output_tokens)
    moved_s = 0.0
    if view.worker_id != query.holder_id:
        moved_s = performance.transfer_s(query.context_tokens * limits.kv_bytes_per_token)
    preempted_s = preemption_s(
        performance,
        free_blocks=free,
        block_size_tokens=limits.block_size_tokens,
        running_count=running,
        context_tokens=context,
        output_tokens=output_tokens,
        step_tokens_max=limits.step_tokens_max,
    )
    late_s = running * max(0.0, step_s - tpot_s)
    return PlainSeat(
        cost_s=step_s + late_s + moved_s + view.backlog_s + wait_s + preempted_s,
        tie=tie(hash64(query.request_id), view.tie_seed),
        worker_id=view.worker_id,
        step_s=step_s,
        wait_s=wait_s,
        kv_free_frac=free / limits.kv_blocks,
        running_count=view.running_count,
        context_tokens=view.context_tokens,
        busy_s=view.backlog_s,
        is_soft=Phase.PREFILL in view.status.phases,
    )
