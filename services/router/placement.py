"""Where a prompt is prefilled: by a decode worker, or by a prefill worker through the queue.

Comes in: a query, the fleet, overlaps, the queue, now. Goes out: a placement with its reason and the
candidates' numbers, or why the request is rejected: what is predicted to miss its deadline, to wait too
long, or to find no room at a decode worker is refused; what has begun never is.
Invariant: a function of its inputs; equal costs are ordered by a hash of request and worker, so the same
inputs give the same decision on any machine.
Not here: prices (`services.router.ways`), the words of the record (`services.router.account`), who decodes
a handoff (`services.router.decode_placement`).
"""

from collections.abc import Mapping
from math import inf

from services.domain.errors import Rejected
from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path, PathPreference, PlacementQuery
from services.domain.worker import Phase
from services.router.account import Account, AccountedPlacement, Wish, other_path
from services.router.bounds import Bounds
from services.router.columns import Mask
from services.router.fleet import FleetView
from services.router.queue_load import QueueLoad
from services.router.refusal import Bar, refuse
from services.router.seats import StepBound
from services.router.settings import RouterSettings
from services.router.sifting import Able, sift_lineup
from services.router.way import Ways
from services.router.ways import price
from services.router.worker_view import WorkerView

BIDDEN = Wish(path=Path.REMOTE, why="lets workers of both roles bid for it")
"""Why a prompt is queued although a soft-roled worker could begin it: each of them knows best what it would
stall, and late binding costs less than a wrong guess."""

_WISHES = {
    PathPreference.LOCAL: Wish(path=Path.LOCAL, why="was asked for"),
    PathPreference.REMOTE: Wish(path=Path.REMOTE, why="was asked for"),
}


class _Options:
    """Everything looked at for one query."""

    def __init__(self, ways: Ways, able: Able, bounds: Bounds, *, judged: bool) -> None:
        self.ways, self.bounds, self._able = ways, bounds, able
        self.good = bounds.good(ways) if judged else None
        """Ways that would do; None when all do."""

    def is_bid_for(self, place: int) -> bool:
        """Whether a way is that of a soft-roled worker with its own sequences, which bids in the queue."""
        ways = self.ways
        name = ways.sight.worker_ids[place]
        local = place < ways.sight.decoders.count
        return local and ways.lineup.place(name, Phase.PREFILL) is not None

    def barred(self) -> Mask | None:
        """Tell the ways that could be gone, but not well; None when there is none."""
        return None if self.good is None else ~self.good & (self.ways.cost_s < inf)

    def excluded(self) -> list[tuple[Path, WorkerView, str]]:
        """Say who could not be chosen and why."""
        return self._able.excluded(self.ways.alone)

    def best(self, count: int, path: Path | None = None) -> list[int]:
        """Find the best of the ways that would do."""
        return self.ways.best(count, path=path, among=self.good)

    def best_barred(self, count: int, path: Path | None = None) -> list[int]:
        """Find the best of the barred ways."""
        barred = self.barred() if count > 0 else None
        return [] if barred is None else self.ways.best(count, path=path, among=barred)


def place(
    query: PlacementQuery,
    *,
    fleet: FleetView,
    overlaps: Mapping[WorkerId, int],
    queue: QueueLoad,
    settings: RouterSettings,
    now_s: float,
    overload: bool = False,
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
    """
    bounds = Bounds.of(query, settings, overload=overload)
    options = _look(
        query, fleet=fleet, overlaps=overlaps, queue=queue, settings=settings, now_s=now_s, bounds=bounds
    )
    preference = settings.preference if query.preference is PathPreference.AUTO else query.preference
    wish = _WISHES.get(preference)
    room = settings.candidates_kept
    best = (options.best(room, wish.path) if wish else []) or options.best(room)
    if wish is None and not query.begun and best and options.is_bid_for(best[0]):
        bids = options.best(room, BIDDEN.path)
        if bids:
            best, wish = bids, BIDDEN
    if best:
        return AccountedPlacement(query, _account(query, options, best=best, wish=wish, room=room))
    barred = options.barred()
    return refuse(
        query,
        fleet=fleet,
        settings=settings,
        room_max_s=bounds.wait_max_s(0.0),
        barred=[] if barred is None else bounds.nearest(options.ways, barred),
        excluded=[(view, why) for _, view, why in options.excluded()],
    )


def _look(
    query: PlacementQuery,
    *,
    fleet: FleetView,
    overlaps: Mapping[WorkerId, int],
    queue: QueueLoad,
    settings: RouterSettings,
    now_s: float,
    bounds: Bounds,
) -> _Options:
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
    ways = price(
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
    return _Options(ways, able, bounds, judged=settings.early_rejection and not query.begun)


def _account(
    query: PlacementQuery, options: _Options, *, best: list[int], wish: Wish | None, room: int
) -> Account:
    """Copy what a record tells: the best ways and, as far as there is room, the others."""
    ways = options.ways
    path = ways.path(best[0])
    rest, as_wished = other_path(path), wish is None or path is wish.path
    spared = options.best(room - len(best), rest) if wish is not None and as_wished else []
    barred = options.best_barred(room - len(best) - len(spared))
    named = [*best, *spared, *barred]
    closed = _closed(options, room - len(named)) if len(named) < room else ()
    against: int | None = None
    if as_wished:
        others = ways.of_path(named[: len(best) + len(spared)], rest) or options.best(1, rest)
        if others:
            if others[0] not in named:
                named.append(others[0])
            against = named.index(others[0])
    impossible: str | None = None
    if not as_wished or (wish is None and against is None):
        impossible = _why_not(rest, options)
    return Account(
        taken=ways.take(named),
        good_count=len(best),
        spared_count=len(spared),
        barred_count=len(barred),
        against=against,
        closed=closed,
        wish=wish,
        impossible=impossible,
        block_count=len(query.block_hashes),
        bounds=options.bounds,
    )


def _closed(options: _Options, room: int) -> tuple[Candidate, ...]:
    """List workers that cannot be chosen, with the reason."""
    rest = sorted(options.excluded(), key=lambda e: (e[1].worker_id, e[0]))
    return tuple(
        Candidate(path=path, worker_id=view.worker_id, excluded=why) for path, view, why in rest[:room]
    )


def _why_not(path: Path, options: _Options) -> str:
    """Say why a path is closed, by the first worker that would have offered it."""
    barred = options.best_barred(1, path)
    if barred:
        least, bounds = options.ways.take(barred), options.bounds
        what = "is full for" if bounds.bar(least, 0) is Bar.FULL else "would keep it waiting for"
        return f"{least.worker_ids[0]} {what} {least.candidate(0).wait_s:.1f} s"
    excluded = sorted((v.worker_id, why) for p, v, why in options.excluded() if p is path)
    return f"{excluded[0][0]}: {excluded[0][1]}" if excluded else "no worker offers it"
