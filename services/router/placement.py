"""Where a prompt is prefilled: by a decode worker, or by a prefill worker through the queue.

Comes in: a query, the fleet, overlaps, the queue, now. Goes out: a placement with its reason and the
candidates' numbers, or why the request is rejected: what is predicted to miss its deadline, to wait too
long, or to find no room at a decode worker is refused; what has begun never is.
Invariant: a function of its inputs; equal costs are ordered by a hash of request and worker, so the same
inputs give the same decision on any machine.
Not here: prices (`services.router.ways`), who decodes a handoff (`services.router.decode_placement`).
"""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from services.domain.errors import Rejected
from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path, PathPreference, Placement, PlacementQuery
from services.domain.worker import Phase
from services.router.bounds import Bounds
from services.router.fleet import FleetView
from services.router.lineup import Mask
from services.router.queue_load import QueueLoad
from services.router.refusal import Bar, refuse
from services.router.settings import RouterSettings
from services.router.sifting import Able, sift_lineup
from services.router.way import Glance, Ways
from services.router.ways import Pricing
from services.router.worker_view import WorkerView

BIDDEN = "lets workers of both roles bid for it"
"""Why a prompt is queued although a soft-roled worker could begin it: each of them knows best what it would
stall, and late binding costs less than a wrong guess."""

_OTHER = {Path.LOCAL: Path.REMOTE, Path.REMOTE: Path.LOCAL}


class _Wanted(NamedTuple):
    """The one path that is to be taken where that is possible."""

    path: Path
    why: str


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
        barred = self.barred()
        return [] if barred is None else self.ways.best(count, path=path, among=barred)


_WANTED = {
    PathPreference.LOCAL: _Wanted(Path.LOCAL, "was asked for"),
    PathPreference.REMOTE: _Wanted(Path.REMOTE, "was asked for"),
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
) -> Placement | Rejected:
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
    wanted = _WANTED.get(preference)
    room = settings.candidates_kept
    best = (options.best(room, wanted.path) if wanted else []) or options.best(room)
    if wanted is None and not query.begun and best and options.is_bid_for(best[0]):
        bids = options.best(room, Path.REMOTE)
        if bids:
            best, wanted = bids, _Wanted(Path.REMOTE, BIDDEN)
    if not best:
        barred = options.barred()
        return refuse(
            query,
            fleet=fleet,
            settings=settings,
            room_max_s=bounds.wait_max_s(0.0),
            barred=[] if barred is None else bounds.nearest(options.ways, barred),
            excluded=[(view, why) for _, view, why in options.excluded()],
        )
    kept = options.ways.candidates(best)
    chosen = kept[0]
    return Placement(
        request_id=query.request_id,
        path=chosen.path,
        worker_id=chosen.worker_id,
        overlap_blocks=chosen.overlap_blocks,
        predicted_ttft_s=chosen.ttft_s,
        predicted_tpot_s=chosen.tpot_s,
        predicted_s=bounds.predicted_s(chosen),
        reason=_reason(query, best, chosen, options, wanted),
        candidates=_record(kept, options, wanted, room),
        margins=bounds.margins,
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
    pricing = Pricing(
        query,
        lineup=lineup,
        able=able,
        overlaps=overlaps,
        queue=queue,
        tpot_s=settings.tpot_target_s,
        step_max_s=bounds.step_max_s,
        step_margin_frac=1.0 if bounds.margins is None else bounds.margins.tpot_frac,
    )
    return _Options(pricing.ways(), able, bounds, judged=settings.early_rejection and not query.begun)


def _record(
    kept: list[Candidate], options: _Options, wanted: _Wanted | None, room: int
) -> tuple[Candidate, ...]:
    """Add to the best ways, as far as there is room, the others."""
    ways = options.ways
    if len(kept) < room and wanted is not None and kept[0].path is wanted.path:
        places = options.best(room - len(kept), _OTHER[wanted.path])
        kept = kept + ways.candidates(places, [f"{wanted.path} prefill {wanted.why}"] * len(places))
    if len(kept) < room:
        places = options.best_barred(room - len(kept))
        kept = kept + ways.candidates(places, options.bounds.objections(ways, places))
    if len(kept) < room:
        rest = sorted(options.excluded(), key=lambda e: (e[1].worker_id, e[0]))
        kept += [
            Candidate(path=path, worker_id=view.worker_id, excluded=why)
            for path, view, why in rest[: room - len(kept)]
        ]
    return tuple(kept)


def _reason(
    query: PlacementQuery,
    best: list[int],
    taken: Candidate,
    options: _Options,
    wanted: _Wanted | None,
) -> str:
    """Say in one sentence what was chosen and what spoke against the other path."""
    ways = options.ways
    chosen = ways.glance(best[0])
    parts: list[str] = []
    if wanted is not None:
        taken_up = chosen.path is wanted.path
        but = "" if taken_up else f" but is impossible{_why_not(wanted.path, options)}"
        parts.append(f"{wanted.path} prefill {wanted.why}{but}")
    blocks = len(query.block_hashes)
    parts.append(
        f"worker {chosen.worker_id} holds {taken.overlap_blocks} of {blocks} blocks; "
        f"predicted TTFT {_ms(chosen.ttft_s)}"
    )
    if chosen.harm_s > 0:
        parts.append(f"it stalls {_stall(chosen)}")
    rest = _OTHER[chosen.path]
    if wanted is None or chosen.path is wanted.path:
        others = ways.of_path(best, rest) or options.best(1, rest)
        if others:
            parts.append(_against(ways.glance(others[0])))
        elif wanted is None:
            parts.append(f"{rest} is impossible{_why_not(rest, options)}")
    return f"{chosen.path}: " + "; ".join(parts)


def _against(other: Glance) -> str:
    how = "prefilling on" if other.path is Path.LOCAL else "handing over from"
    stall = f" and stall {_stall(other)}" if other.harm_s > 0 else ""
    return f"{how} {other.worker_id} would take {_ms(other.ttft_s)}{stall}"


def _why_not(path: Path, options: _Options) -> str:
    """Say why a path is closed, by the first worker that would have offered it."""
    for least in options.ways.candidates(options.best_barred(1, path)):
        what = "is full for" if options.bounds.bar(least) is Bar.FULL else "would keep it waiting for"
        return f" ({least.worker_id} {what} {least.wait_s:.1f} s)"
    excluded = sorted((v.worker_id, why) for p, v, why in options.excluded() if p is path)
    if not excluded:
        return " (no worker offers it)"
    worker_id, why = excluded[0]
    return f" ({worker_id}: {why})"


def _stall(way: Glance) -> str:
    plural = "request" if way.harmed_count == 1 else "requests"
    each = "" if way.harmed_count == 1 else " each"
    return f"{way.harmed_count} running {plural} for {_ms(way.harm_s / way.harmed_count)}{each}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
