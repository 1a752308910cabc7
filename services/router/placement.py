"""Where a prompt is prefilled: by a decode worker, or by a prefill worker through the queue.

Comes in: a query, the fleet, overlaps, the queue, now. Goes out: a placement with its reason and the
candidates' numbers, or why the request is rejected: what is predicted to miss its deadline, to wait too
long, or to find no room at a decode worker is refused; what has begun never is.
Invariant: a function of its inputs; equal costs are ordered by a hash of request and worker, so the same
inputs give the same decision on any machine.
Not here: prices (`services.router.ways`), who decodes a handoff (`services.router.decode_placement`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.domain.errors import Rejected
from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path, PathPreference, Placement, PlacementQuery
from services.domain.worker import Phase
from services.router.bounds import Bounds
from services.router.filters import Need
from services.router.fleet import FleetView, WorkerView
from services.router.queue_load import QueueLoad
from services.router.refusal import Bar, Barred, refuse
from services.router.settings import RouterSettings
from services.router.sifting import sift
from services.router.ways import Pricing, Way

_WANTED = {PathPreference.LOCAL: Path.LOCAL, PathPreference.REMOTE: Path.REMOTE}


@dataclass(slots=True, kw_only=True)
class _Options:
    """Everything looked at for one query."""

    ways: list[Way]
    barred: list[tuple[Way, Bar]]
    """Could be gone, but not well: the first thing wrong with each."""
    excluded: list[tuple[Path, WorkerView, str]]


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
    if not options.ways:
        return refuse(
            query,
            fleet=fleet,
            settings=settings,
            room_max_s=bounds.wait_max_s(0.0),
            barred=[
                Barred(
                    bar=bar,
                    wait_s=way.wait_s,
                    wait_max_s=bounds.wait_max_s(way.ttft_s - way.wait_s),
                    room_s=way.room_s,
                    predicted_s=bounds.predicted_s(way),
                )
                for way, bar in options.barred
            ],
            excluded=[(view, why) for _, view, why in options.excluded],
        )
    preference = settings.preference if query.preference is PathPreference.AUTO else query.preference
    wanted = _WANTED.get(preference)
    options.ways.sort()
    chosen = next((way for way in options.ways if way.path is wanted), options.ways[0])
    return Placement(
        request_id=query.request_id,
        path=chosen.path,
        worker_id=chosen.worker_id,
        overlap_blocks=chosen.overlap_blocks,
        predicted_ttft_s=chosen.ttft_s,
        predicted_tpot_s=chosen.tpot_s,
        predicted_s=bounds.predicted_s(chosen),
        reason=_reason(query, chosen, options, wanted),
        candidates=_record(chosen, options, bounds, wanted, settings),
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
    model = query.scope.model
    avoid = frozenset(query.avoid_worker_ids)
    aged_s = fleet.aged_now_s(now_s)

    def need(tokens: int) -> Need:
        return Need(tokens=tokens, avoid=avoid, now_s=aged_s, stale_after_s=settings.stale_after_s)

    decoders, no_decoders = sift(
        fleet.serving(model, Phase.DECODE), need(query.prompt_tokens + query.output_tokens_max)
    )
    prefillers, no_prefillers = sift(fleet.serving(model, Phase.PREFILL), need(query.prompt_tokens + 1))
    excluded = [(Path.LOCAL, view, why) for view, why in no_decoders]
    excluded += [(Path.REMOTE, view, why) for view, why in no_prefillers]
    if not queue.reachable:
        excluded += [(Path.REMOTE, view, "the prefill queue does not answer") for view in prefillers]
        prefillers = []
    pricing = Pricing(
        query,
        overlaps=overlaps,
        queue=queue,
        prefiller_count=len(prefillers),
        decoder_count=len(decoders),
        tpot_s=settings.tpot_target_s,
        step_max_s=bounds.step_max_s,
    )
    priced, alone = pricing.ways(decoders=decoders, prefillers=prefillers)
    excluded += [(Path.REMOTE, view, "no other worker could decode what it prefills") for view in alone]
    if query.begun or not settings.early_rejection:
        return _Options(ways=priced, barred=[], excluded=excluded)
    ways, barred = bounds.judge(priced)
    return _Options(ways=ways, barred=barred, excluded=excluded)


def _record(
    chosen: Way, options: _Options, bounds: Bounds, wanted: Path | None, settings: RouterSettings
) -> tuple[Candidate, ...]:
    """Turn the best ways, and as far as there is room the others, into candidates."""
    room = settings.candidates_kept
    restricted = chosen.path is wanted
    free = [way for way in options.ways if not restricted or way.path is wanted]
    unwanted = [way for way in options.ways if restricted and way.path is not wanted]
    kept = [way.candidate() for way in free[:room]]
    kept += [way.candidate(f"{wanted} prefill was asked for") for way in unwanted[: max(0, room - len(kept))]]
    kept += [
        way.candidate(bounds.objection(way, bar))
        for way, bar in sorted(options.barred)[: max(0, room - len(kept))]
    ]
    if len(kept) < room:
        rest = sorted(options.excluded, key=lambda e: (e[1].worker_id, e[0]))
        kept += [
            Candidate(path=path, worker_id=view.worker_id, excluded=why)
            for path, view, why in rest[: room - len(kept)]
        ]
    return tuple(kept)


def _reason(query: PlacementQuery, chosen: Way, options: _Options, wanted: Path | None) -> str:
    """Say in one sentence what was chosen and what spoke against the other path."""
    parts: list[str] = []
    if wanted is not None:
        asked = "was asked for" if chosen.path is wanted else "was asked for but is impossible"
        why = "" if chosen.path is wanted else _why_not(wanted, options)
        parts.append(f"{wanted} prefill {asked}{why}")
    blocks = len(query.block_hashes)
    parts.append(
        f"worker {chosen.worker_id} holds {chosen.overlap_blocks} of {blocks} blocks; "
        f"predicted TTFT {_ms(chosen.ttft_s)}"
    )
    if chosen.harm_s > 0:
        parts.append(f"it stalls {_stall(chosen)}")
    other = next((way for way in options.ways if way.path is not chosen.path), None)
    if other is not None and (wanted is None or chosen.path is wanted):
        parts.append(_against(other))
    elif other is None and wanted is None:
        rest = Path.REMOTE if chosen.path is Path.LOCAL else Path.LOCAL
        parts.append(f"{rest} is impossible{_why_not(rest, options)}")
    return f"{chosen.path}: " + "; ".join(parts)


def _against(other: Way) -> str:
    how = "prefilling on" if other.path is Path.LOCAL else "handing over from"
    stall = f" and stall {_stall(other)}" if other.harm_s > 0 else ""
    return f"{how} {other.worker_id} would take {_ms(other.ttft_s)}{stall}"


def _why_not(path: Path, options: _Options) -> str:
    """Say why a path is closed, by the first worker that would have offered it."""
    barred = [(way, bar) for way, bar in options.barred if way.path is path]
    if barred:
        least, bar = min(barred)
        what = "is full for" if bar is Bar.FULL else "would keep it waiting for"
        return f" ({least.worker_id} {what} {least.wait_s:.1f} s)"
    excluded = sorted((v.worker_id, why) for p, v, why in options.excluded if p is path)
    if not excluded:
        return " (no worker offers it)"
    worker_id, why = excluded[0]
    return f" ({worker_id}: {why})"


def _stall(way: Way) -> str:
    plural = "request" if way.harmed_count == 1 else "requests"
    each = "" if way.harmed_count == 1 else " each"
    return f"{way.harmed_count} running {plural} for {_ms(way.harm_s / way.harmed_count)}{each}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
