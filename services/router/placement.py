"""Where a prompt is prefilled: by a decode worker, or by a prefill worker through the queue.

Comes in: a query, the fleet, overlaps, the queue, now. Goes out: a placement with its reason and the
candidates' numbers, or why the request is rejected: what is predicted to miss its deadline, to wait too
long, or to find no room at a decode worker is refused; what has begun never is.
Invariant: a function of its inputs; equal costs are ordered by a hash of request and worker, so the same
inputs give the same decision on any machine.
Not here: prices (`services.router.pricing.ways`), the words of the record
(`services.router.pricing.account`), who decodes a handoff (`services.router.decode_placement`).
"""

from collections.abc import Mapping
from math import inf

from services.domain.errors import Rejected
from services.domain.ids import WorkerId
from services.domain.placement import Path, PathPreference, PlacementQuery
from services.domain.worker import Phase
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.lineup import Lineup
from services.router.prefixes.coming import Coming
from services.router.pricing.account import Account, AccountedPlacement, Wish
from services.router.pricing.bounds import Bounds
from services.router.pricing.queue_load import QueueLoad
from services.router.pricing.refusal import refuse
from services.router.pricing.seats import StepBound
from services.router.pricing.sifting import sift_lineup
from services.router.pricing.way import Ways
from services.router.pricing.ways import price
from services.router.settings import RouterSettings

BIDDEN = Wish(path=Path.REMOTE, why="lets workers of both roles bid for it")
"""Why a prompt is queued although a soft-roled worker could begin it: each of them knows best what it would
stall, and late binding costs less than a wrong guess."""

_WISHES = {
    PathPreference.LOCAL: Wish(path=Path.LOCAL, why="was asked for"),
    PathPreference.REMOTE: Wish(path=Path.REMOTE, why="was asked for"),
}


def place(
    query: PlacementQuery,
    *,
    fleet: FleetView,
    overlaps: Mapping[WorkerId, int],
    queue: QueueLoad,
    settings: RouterSettings,
    now_s: float,
    overload: bool = False,
    coming: Coming | None = None,
) -> AccountedPlacement | Rejected:
    """Choose the way with the least cost: predicted TTFT and what running requests would lose.

    Ways that would end after the deadline, wait longer than allowed or find their decode worker full are
    left out, unless work on the request has begun or early rejection is off.

    Args:
        query: what is to be placed.
        fleet: workers as known now.
        overlaps: leading blocks of the prompt that each worker holds; absent is 0.
        queue: prompts of the model that wait for any prefill worker.
        settings: targets and limits.
        now_s: by the clock that the fleet was folded with.
        overload: whether requests have been late for so long that only the targets count.
        coming: which of the overlaps is still computed; None: all blocks are there.
    """
    bounds = Bounds.of(query, settings, overload=overload)
    lineup = fleet.lineup(query.scope.model)
    able = sift_lineup(
        lineup,
        decode_tokens=query.prompt_tokens + query.output_tokens_max,
        prefill_tokens=query.prompt_tokens + 1,
        avoid=query.avoid_worker_ids,
        now_s=fleet.aged_now_s(now_s),
        stale_after_s=settings.stale_after_s,
        queue_reachable=queue.reachable,
    )
    ways, closed = price(
        query,
        lineup=lineup,
        able=able,
        overlaps=overlaps,
        queue=queue,
        tpot_s=settings.tpot_target_s,
        bound=StepBound(
            longest_s=bounds.step_max_s,
            margin_frac=1.0 if bounds.margins is None else bounds.margins.tpot_frac,
        ),
    )
    good = bounds.good(ways) if settings.early_rejection and not query.begun else None
    preference = settings.preference if query.preference is PathPreference.AUTO else query.preference
    wish = _WISHES.get(preference)
    chosen = None if wish is None else ways.first(path=wish.path, among=good)
    if chosen is None:
        chosen = ways.first(among=good)
    if chosen is None:
        return refuse(
            query,
            fleet=fleet,
            settings=settings,
            room_max_s=bounds.wait_max_s(0.0),
            barred=[] if good is None else bounds.nearest(ways, ~good & (ways.cost_s < inf)),
            excluded=[] if closed is None else [(view, why) for _, view, why in closed.reasons()],
        )
    if wish is None and not query.begun and _bids(ways, chosen, lineup):
        bid = ways.first(path=BIDDEN.path, among=good)
        if bid is not None:
            chosen, wish = bid, BIDDEN
    account = Account(
        ways=ways,
        good=good,
        closed=closed,
        bounds=bounds,
        chosen=chosen,
        wish=wish,
        block_count=len(query.block_hashes),
        coming=coming,
        candidates_kept=settings.candidates_kept,
    )
    return AccountedPlacement(query, account)


def _bids(ways: Ways, place: int, lineup: Lineup) -> bool:
    """Whether a way is that of a soft-roled worker with its own sequences, which bids in the queue."""
    is_local = place < ways.decoder_count
    return is_local and lineup.place(ways.worker_ids[place], Phase.PREFILL) is not None
