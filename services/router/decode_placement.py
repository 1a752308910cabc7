"""Which decode worker continues a prompt whose KV a prefill worker holds.

Comes in: a query at the moment of the handoff, the fleet, now. Goes out: a placement with its reason and
the candidates' numbers, or why there is none. Invariant: a function of its inputs, as `placement`.
Not here: whether the ticket is still good (`services.domain.handoff`).
"""

from typing import NamedTuple

from services.domain.blocks import blocks_for
from services.domain.errors import Rejected
from services.domain.ids import WorkerId
from services.domain.placement import DecodeCandidate, DecodePlacement, DecodeQuery
from services.domain.worker import Phase
from services.router.fleet.filters import Need
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.prices import preemption_s
from services.router.fleet.worker_view import WorkerView, hash64
from services.router.pricing.refusal import Bar, Barred, refuse
from services.router.pricing.sifting import sift, wait_for_room_s
from services.router.pricing.way import tie
from services.router.settings import RouterSettings

FILLED_LATER = "another is filled up first, so that as many as possible are free to prefill"
"""What is said of a worker that sequences do not go to as long as another soft-roled one has room."""


class _Seat(NamedTuple):
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
    """Until the prompts that it has are computed."""
    is_soft: bool
    """Whether its worker could prefill instead."""

    def candidate(self, excluded: str | None = None) -> DecodeCandidate:
        return DecodeCandidate(
            worker_id=self.worker_id,
            step_s=self.step_s,
            kv_free_frac=self.kv_free_frac,
            cost_s=self.cost_s,
            excluded=excluded,
        )


def place_decode(
    query: DecodeQuery,
    *,
    fleet: FleetView,
    settings: RouterSettings,
    now_s: float,
    step_limit_s: float | None = None,
) -> DecodePlacement | Rejected:
    """Choose the worker on which the sequence, and those already there, lose least.

    Cost is the predicted step with the sequence added, plus what that step exceeds the TPOT target by
    for everybody in it, plus the time in which KV moves (none to who holds it), plus prompts that the worker
    still has to prefill (they stall the sequence), plus the wait for memory, plus the expected price of being
    preempted when memory runs out.

    Args:
        query: what is to be continued.
        fleet: workers as known now.
        settings: targets and limits.
        now_s: by the clock that the fleet was folded with.
        step_limit_s: up to which step soft-roled workers are filled, one after another, while workers that
            only decode are full; None where there are none.
    """
    need = Need(
        tokens=query.context_tokens + query.output_tokens_max,
        avoid=frozenset(query.avoid_worker_ids),
        now_s=fleet.aged_now_s(now_s),
        stale_after_s=settings.stale_after_s,
        compatibility=query.compatibility,
    )
    able, excluded = sift(fleet.serving(query.scope.model, Phase.DECODE), need)
    seed = hash64(query.request_id)
    seats = sorted(_seat(view, query, settings.tpot_target_s, seed) for view in able)
    in_time = [seat for seat in seats if seat.wait_s <= settings.wait_max_s]
    spared: list[_Seat] = []
    if step_limit_s is not None:
        in_time, spared = _gather(in_time, step_limit_s, query.holder_id)
    late = [seat for seat in seats if seat.wait_s > settings.wait_max_s]
    if not in_time:
        return refuse(
            query,
            fleet=fleet,
            settings=settings,
            room_max_s=settings.wait_max_s,
            barred=[
                Barred(bar=Bar.LATE, wait_s=seat.wait_s, wait_max_s=settings.wait_max_s) for seat in late
            ],
            excluded=excluded,
        )
    room = settings.candidates_kept
    kept = [seat.candidate() for seat in in_time[:room]]
    kept += [
        seat.candidate(f"its wait of {seat.wait_s:.1f} s is longer than {settings.wait_max_s:g} s")
        for seat in late[: room - len(kept)]
    ]
    kept += [seat.candidate(FILLED_LATER) for seat in spared[: room - len(kept)]]
    others = sorted((view.worker_id, why) for view, why in excluded)
    kept += [DecodeCandidate(worker_id=w, excluded=why) for w, why in others[: room - len(kept)]]
    return DecodePlacement(
        request_id=query.request_id,
        worker_id=in_time[0].worker_id,
        reason=_reason(in_time, spared, query.holder_id),
        candidates=tuple(kept),
    )


def _gather(
    seats: list[_Seat], step_limit_s: float, holder_id: WorkerId | None
) -> tuple[list[_Seat], list[_Seat]]:
    """Leave the emptier soft-roled workers free to prefill.

    Args:
        seats: all, best first.
        step_limit_s: up to which one is filled.
        holder_id: who computed the prompt.

    Returns:
        Seats to take, best first, and those left free.
    """
    open_now = [seat for seat in seats if seat.wait_s == 0.0 and seat.step_s + seat.busy_s <= step_limit_s]
    fixed = [seat for seat in open_now if not seat.is_soft]
    busy = sorted((s for s in open_now if s.running_count), key=lambda s: (-s.context_tokens, s.tie))
    empty = [seat for seat in open_now if not seat.running_count]
    stays = [seat for seat in empty if seat.worker_id == holder_id]
    taken = fixed or busy[:1] or stays or empty[:1] or seats
    return taken, [seat for seat in seats if seat not in taken]


def _seat(view: WorkerView, query: DecodeQuery, tpot_s: float, seed: int) -> _Seat:
    performance, limits = view.status.performance, view.limits
    running = view.running_count + 1
    context = view.context_tokens + query.context_tokens
    step_s = performance.decode_s(sequence_count=running, context_tokens=context)
    free = view.free_blocks - blocks_for(query.context_tokens + 1, limits.block_size_tokens)
    output_tokens = query.output_tokens_expected or query.output_tokens_max
    wait_s = wait_for_room_s(view, tokens=query.context_tokens, output_tokens=output_tokens)
    moved_s = 0.0
    if view.worker_id != query.holder_id:
        moved_s = performance.transfer_s(query.context_tokens * limits.kv_bytes_per_token)
    preempted_s = preemption_s(
        performance,
        free_blocks=max(0, free),
        block_size_tokens=limits.block_size_tokens,
        running_count=running,
        context_tokens=context,
        output_tokens=output_tokens,
        step_tokens_max=limits.step_tokens_max,
    )
    late_s = running * max(0.0, step_s - tpot_s)
    return _Seat(
        step_s + late_s + moved_s + view.backlog_s + wait_s + preempted_s,
        tie(seed, view.tie_seed),
        view.worker_id,
        step_s,
        wait_s,
        max(0, free) / limits.kv_blocks,
        view.running_count,
        view.context_tokens,
        view.backlog_s,
        Phase.PREFILL in view.status.phases,
    )


def _reason(seats: list[_Seat], spared: list[_Seat], holder_id: WorkerId | None) -> str:
    best = seats[0]
    text = "nothing moves: " if best.worker_id == holder_id else ""
    text += (
        f"worker {best.worker_id} runs {best.running_count} requests; with this one its step takes "
        f"{best.step_s * 1000:.3g} ms and {best.kv_free_frac:.0%} of its KV memory stays free"
    )
    if best.wait_s > 0:
        text += f", after {best.wait_s:.2g} s until memory is free"
    if len(seats) > 1:
        text += f"; next best is {seats[1].worker_id} at a cost of {seats[1].cost_s * 1000:.3g} ms "
        text += f"against {best.cost_s * 1000:.3g} ms"
    free_count = sum(seat.is_soft and not seat.running_count for seat in spared)
    if free_count:
        text += f"; {free_count} others stay free to prefill"
    return text
