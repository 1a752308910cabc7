"""Which decode worker continues a prompt whose KV a prefill worker holds.

Comes in: a query at the moment of the handoff, the fleet, now. Goes out: a placement with its reason and
the candidates' numbers, or why there is none. Invariant: a function of its inputs, as `placement`.
Not here: prices (`services.router.pricing.decode_seats`), the words of the record
(`services.router.pricing.decode_account`), whether the ticket is still good (`services.domain.handoff`).
"""

from math import inf

import numpy as np

from services.domain.errors import Rejected
from services.domain.placement import DecodeQuery
from services.domain.worker import Phase
from services.router.fleet.columns import Mask
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.lineup import Sight
from services.router.fleet.worker_view import hash64
from services.router.pricing.decode_account import AccountedDecode, DecodeAccount
from services.router.pricing.decode_seats import DecodeSeats, price_seats
from services.router.pricing.refusal import Bar, Barred, refuse
from services.router.pricing.sifting import Closed, sift_decoders
from services.router.pricing.way import first_place, spread
from services.router.settings import RouterSettings


def place_decode(
    query: DecodeQuery,
    *,
    fleet: FleetView,
    settings: RouterSettings,
    now_s: float,
    step_limit_s: float | None = None,
) -> AccountedDecode | Rejected:
    """Choose the worker on which the sequence, and those already there, lose least.

    Args:
        query: what is to be continued.
        fleet: workers as known now.
        settings: targets and limits.
        now_s: by the clock that the fleet was folded with.
        step_limit_s: up to which step soft-roled workers are filled, one after another, while workers that
            only decode are full; None where there are none.
    """
    lineup = fleet.lineup(query.scope.model)
    sight = lineup.sight()
    part, first, seed = sight.decoders, sight.decoders.count, hash64(query.request_id)
    closed = sift_decoders(
        lineup,
        tokens=query.context_tokens + query.output_tokens_max,
        avoid=query.avoid_worker_ids,
        now_s=fleet.aged_now_s(now_s),
        stale_after_s=settings.stale_after_s,
        compatibility=query.compatibility,
    )
    if not first or (closed is not None and np.count_nonzero(closed.mask) == first):
        return _refused(query, fleet, settings, closed=closed)
    holder = None if query.holder_id is None else lineup.place(query.holder_id, Phase.DECODE)
    seats = price_seats(part, query, tpot_s=settings.tpot_target_s, holder=holder, bends=sight.bends)
    late: Mask | None = None
    in_time = None if closed is None else ~closed.mask
    if seats.wait_s is not None:
        late = seats.wait_s > settings.wait_max_s
        in_time = ~late if in_time is None else in_time & ~late
        if not np.count_nonzero(in_time):
            waits_s = seats.wait_s if closed is None else np.where(closed.mask, inf, seats.wait_s)
            least_s = float(waits_s.min())
            return _refused(query, fleet, settings, closed=closed, wait_s=least_s)
    taken = in_time
    if step_limit_s is not None:
        taken = _gather(sight, seats, seed, among=in_time, limit_s=step_limit_s, holder=holder)
    cost_s = seats.cost_s if taken is None else np.where(taken, seats.cost_s, inf)
    account = DecodeAccount(
        worker_ids=sight.worker_ids,
        ties=spread(sight.seeds[:first], seed),
        seats=seats,
        taken=taken,
        late=late,
        closed=closed,
        running_count=part.loads.running_count.copy(),
        soft=sight.soft,
        chosen=first_place(cost_s, sight.seeds[:first], seed),
        holder_id=query.holder_id,
        wait_max_s=settings.wait_max_s,
        candidates_kept=settings.candidates_kept,
    )
    return AccountedDecode(query, account)


def _refused(
    query: DecodeQuery,
    fleet: FleetView,
    settings: RouterSettings,
    *,
    closed: Closed | None,
    wait_s: float | None = None,
) -> Rejected:
    """Say why there is none: because of the least wait, or of what is said of each."""
    barred = []
    if wait_s is not None:
        barred.append(Barred(bar=Bar.LATE, wait_s=wait_s, wait_max_s=settings.wait_max_s))
    return refuse(
        query,
        fleet=fleet,
        settings=settings,
        room_max_s=settings.wait_max_s,
        barred=barred,
        excluded=[] if closed is None else [(view, why) for _, view, why in closed.reasons()],
    )


def _gather(
    sight: Sight,
    seats: DecodeSeats,
    request_seed: int,
    *,
    among: Mask | None,
    limit_s: float,
    holder: int | None,
) -> Mask | None:
    """Leave the emptier soft-roled workers free to prefill.

    Args:
        sight: the workers.
        seats: what the sequence costs at each.
        request_seed: hash of the request's id.
        among: who may be chosen; None: all.
        limit_s: up to which step one is filled.
        holder: place of who computed the prompt; None where that one does not decode.

    Returns:
        Those to take; None: all.
    """
    part = sight.decoders
    loads, seeds = part.loads, sight.seeds[: part.count]
    open_now: Mask = seats.step_s + loads.backlog_s <= limit_s
    if seats.wait_s is not None:
        open_now &= seats.wait_s == 0.0
    if among is not None:
        open_now &= among
    if not np.count_nonzero(open_now):
        return among
    fixed: Mask = open_now & ~sight.soft
    if np.count_nonzero(fixed):
        return fixed
    busy = open_now & (loads.running_count > 0.0)
    if np.count_nonzero(busy):
        emptiness = np.where(busy, -loads.context_tokens, inf)
        chosen = first_place(emptiness, seeds, request_seed)
    elif holder is not None and open_now[holder]:
        chosen = holder
    else:
        chosen = first_place(np.where(open_now, seats.cost_s, inf), seeds, request_seed)
    taken = np.zeros(part.count, dtype=bool)
    taken[chosen] = True
    return taken
