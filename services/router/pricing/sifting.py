"""From all workers of a model to those that can be chosen, and why the others cannot.

Comes in: a lineup, or views, and needs. Goes out: the able ones; the rest with reasons, to whoever asks.
Invariant: nothing is refused that a worker could serve: when all able workers fell silent (the bus is
slow, not the workers), the last known statuses are used. The columns say of each worker what the filters say.
Not here: the single filters (`services.router.fleet.filters`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from services.domain.blocks import blocks_for
from services.domain.ids import WorkerId
from services.domain.placement import Path
from services.domain.worker import Phase
from services.router.fleet.columns import Mask, Part
from services.router.fleet.filters import FILTERS_OF_ENGINE, FILTERS_OF_WORKER, Filter, Need
from services.router.fleet.lineup import Lineup
from services.router.fleet.prices import room_wait_s
from services.router.fleet.worker_view import WorkerView

_OF_WORKER = tuple(FILTERS_OF_WORKER.values())
_OF_ENGINE = tuple(FILTERS_OF_ENGINE.values())


def sift(views: Sequence[WorkerView], need: Need) -> tuple[list[WorkerView], list[tuple[WorkerView, str]]]:
    """Split workers into those that can be chosen and those that cannot, with the reason."""
    able, excluded = _split(views, need)
    if not able and excluded:
        able_if_silent, others = _split(views, replace(need, stale_after_s=inf))
        if able_if_silent:
            return able_if_silent, others
    return able, excluded


def _split(views: Sequence[WorkerView], need: Need) -> tuple[list[WorkerView], list[tuple[WorkerView, str]]]:
    able: list[WorkerView] = []
    excluded: list[tuple[WorkerView, str]] = []
    of_engine: dict[int, str | None] = {}
    now_s, stale_after_s, avoid = need.now_s, need.stale_after_s, need.avoid
    for view in views:
        # Nearly every worker passes: asked in one expression, at a fraction of the price of each filter.
        if view.ready and now_s - view.seen_at_s <= stale_after_s and view.worker_id not in avoid:
            why = None
        else:
            why = _objection(view, need, _OF_WORKER)
        if why is None:
            if view.speed not in of_engine:
                of_engine[view.speed] = _objection(view, need, _OF_ENGINE)
            why = of_engine[view.speed]
        if why is None:
            able.append(view)
        else:
            excluded.append((view, why))
    return able, excluded


def _objection(view: WorkerView, need: Need, filters: tuple[Filter, ...]) -> str | None:
    """First reason why a worker cannot be chosen, or None."""
    for check in filters:
        why = check(view, need)
        if why is not None:
            return why
    return None


def wait_for_room_s(view: WorkerView, *, tokens: int, output_tokens: int) -> float:
    """Time until a worker has memory and a place in its step for one more sequence; mostly 0.

    Args:
        view: the worker.
        tokens: tokens whose KV the sequence brings.
        output_tokens: most tokens that sequences write; how long they are expected to run.
    """
    limits = view.limits
    shortage_blocks = blocks_for(tokens + 1, limits.block_size_tokens) - view.free_blocks
    shortage_sequences = view.sequence_count + 1 - limits.sequences_max
    if shortage_blocks <= 0 and shortage_sequences <= 0:
        return 0.0
    return room_wait_s(
        view.status.performance,
        shortage_blocks=shortage_blocks,
        shortage_sequences=shortage_sequences,
        used_blocks=view.used_blocks,
        running_count=view.running_count,
        step_s=view.step_s,
        output_tokens=output_tokens,
    )


@dataclass(slots=True, kw_only=True)
class Able:
    """Who of a lineup may be chosen.

    Attributes:
        lineup: the workers.
        queue_reachable: whether a prompt could be queued now at all.
        decoder_count: decoders that may be chosen.
        prefiller_count: prefillers that may be chosen.
        decode: what a worker that decodes is asked; None when all workers may be chosen.
        prefill: what a worker that prefills is asked; None when all workers may be chosen.
        mask: shape [places]; None when all may be chosen.
    """

    lineup: Lineup
    queue_reachable: bool
    decoder_count: int
    prefiller_count: int
    decode: Need | None = None
    prefill: Need | None = None
    mask: Mask | None = None

    def closed(self, alone: Mask | None) -> "Closed":
        """Tell which ways cannot be gone.

        Args:
            alone: prefillers whose KV no other worker could decode; shape [prefillers].
        """
        first = self.lineup.sight().decoders.count
        mask = np.zeros(self.lineup.sight().all.count, bool) if self.mask is None else ~self.mask
        if alone is not None:
            mask[first:] |= alone
        return Closed(
            mask=mask,
            views=self.lineup.views(),
            decoder_count=first,
            decode=self.decode,
            prefill=self.prefill,
            queue_reachable=self.queue_reachable,
        )


@dataclass(slots=True, kw_only=True)
class Closed:
    """Ways that cannot be gone.

    Attributes:
        mask: shape [places].
        views: workers as they were at the decision; shape [places].
        decoder_count: places before it are local.
        decode: what a worker that decodes is asked; None when all may be chosen.
        prefill: what a worker that prefills is asked; None when all may be chosen.
        queue_reachable: whether a prompt could be queued at all.
    """

    mask: Mask
    views: tuple[WorkerView, ...]
    decoder_count: int
    decode: Need | None
    prefill: Need | None
    queue_reachable: bool

    def reasons(self) -> list[tuple[Path, WorkerView, str]]:
        """Say of each why it cannot be gone."""
        found: list[tuple[Path, WorkerView, str]] = []
        for place in self.mask.nonzero()[0].tolist():
            view = self.views[place]
            if place < self.decoder_count:
                found.append((Path.LOCAL, view, _why(view, self.decode) or "cannot be chosen"))
            elif why := _why(view, self.prefill):
                found.append((Path.REMOTE, view, why))
            elif not self.queue_reachable:
                found.append((Path.REMOTE, view, "the prefill queue does not answer"))
            else:
                found.append((Path.REMOTE, view, "no other worker could decode what it prefills"))
        return found


def sift_lineup(
    lineup: Lineup,
    *,
    decode_tokens: int,
    prefill_tokens: int,
    avoid: Collection[WorkerId],
    now_s: float,
    stale_after_s: float,
    queue_reachable: bool,
) -> Able:
    """Find out who may be chosen.

    Args:
        lineup: workers of the model.
        decode_tokens: KV tokens that a worker that decodes would come to hold.
        prefill_tokens: KV tokens that a worker that prefills would come to hold.
        avoid: workers that failed the request before.
        now_s: moment to which statuses have aged.
        stale_after_s: age up to which a status is trusted.
        queue_reachable: whether a prompt could be queued now at all.
    """
    sight = lineup.sight()
    first, count = sight.decoders.count, sight.all.count
    fits = max(decode_tokens, prefill_tokens) <= sight.least_held_tokens
    if fits and queue_reachable and not avoid and lineup.fresh(now_s, stale_after_s):
        return Able(lineup=lineup, queue_reachable=True, decoder_count=first, prefiller_count=count - first)

    def need(tokens: int) -> Need:
        return Need(tokens=tokens, avoid=frozenset(avoid), now_s=now_s, stale_after_s=stale_after_s)

    decode = _trusting(lineup, sight.decoders, Phase.DECODE, need(decode_tokens))
    prefill = _trusting(lineup, sight.prefillers, Phase.PREFILL, need(prefill_tokens))
    decoders = _mask(lineup, sight.decoders, Phase.DECODE, decode)
    prefillers = _mask(lineup, sight.prefillers, Phase.PREFILL, prefill) & queue_reachable
    return Able(
        lineup=lineup,
        queue_reachable=queue_reachable,
        decoder_count=int(np.count_nonzero(decoders)),
        prefiller_count=int(np.count_nonzero(prefillers)),
        decode=decode,
        prefill=prefill,
        mask=np.concatenate((decoders, prefillers)),
    )


def sift_decoders(
    lineup: Lineup,
    *,
    tokens: int,
    avoid: Collection[WorkerId],
    now_s: float,
    stale_after_s: float,
    compatibility: str,
) -> Closed | None:
    """Find out who may continue a sequence.

    Args:
        lineup: workers of the model.
        tokens: KV tokens that a worker would come to hold.
        avoid: workers that failed the request before.
        now_s: moment to which statuses have aged.
        stale_after_s: age up to which a status is trusted.
        compatibility: layout of its KV.

    Returns:
        Who may not; None where all may.
    """
    sight = lineup.sight()
    readable = sight.layout_names == (compatibility,)
    if readable and not avoid and tokens <= sight.least_held_tokens and lineup.fresh(now_s, stale_after_s):
        return None
    need = Need(
        tokens=tokens,
        avoid=frozenset(avoid),
        now_s=now_s,
        stale_after_s=stale_after_s,
        compatibility=compatibility,
    )
    need = _trusting(lineup, sight.decoders, Phase.DECODE, need)
    first = sight.decoders.count
    mask = ~_mask(lineup, sight.decoders, Phase.DECODE, need)
    if not np.count_nonzero(mask):
        return None
    return Closed(
        mask=mask,
        views=lineup.views()[:first],
        decoder_count=first,
        decode=need,
        prefill=None,
        queue_reachable=True,
    )


def _trusting(lineup: Lineup, part: Part, phase: Phase, need: Need) -> Need:
    """Trust old statuses when no younger one is left of those who could serve."""
    if part.count and not np.count_nonzero(_mask(lineup, part, phase, need)):
        aged = replace(need, stale_after_s=inf)
        if np.count_nonzero(_mask(lineup, part, phase, aged)):
            return aged
    return need


def _mask(lineup: Lineup, part: Part, phase: Phase, need: Need) -> Mask:
    """Ask all filters of all workers; shape [places of the part]."""
    able: Mask = need.now_s - part.loads.seen_at_s <= need.stale_after_s
    able &= part.traits.holds_tokens_max >= need.tokens
    if need.compatibility is not None:
        able &= lineup.sight().reads(need.compatibility, phase)
    first = lineup.sight().decoders.count if phase is Phase.PREFILL else 0
    for worker_id in need.avoid:
        place = lineup.place(worker_id, phase)
        if place is not None:
            able[place - first] = False
    return able


def _why(view: WorkerView, need: Need | None) -> str | None:
    if need is None:
        return None
    return _objection(view, need, _OF_WORKER) or _objection(view, need, _OF_ENGINE)
