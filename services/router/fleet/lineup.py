"""The workers of one model in columns, so that one operation looks at all of them.

Comes in: worker views as they change, departures. Goes out: for each number that a decision asks of a worker
one array over the workers that decode, then those that prefill. Invariant: a column holds what the view of
its worker holds; which place a worker has says nothing.
Not here: the numbers (`services.router.fleet.columns`), what is computed from them
(`services.router.pricing.ways`).
"""

from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np

from services.domain.ids import WorkerId
from services.domain.worker import Phase
from services.router.fleet.columns import (
    LOADS_COUNT,
    TRAITS_COUNT,
    Column,
    Fullest,
    Loads,
    Mask,
    Part,
    Places,
    Ties,
    Traits,
    loads_of,
    traits_of,
)
from services.router.fleet.worker_view import WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The lineup as one decision sees it; a window on the columns, valid until a worker comes or goes."""

    all: Part
    decoders: Part
    prefillers: Part
    worker_ids: tuple[WorkerId, ...]
    """Shape [places]."""
    seeds: Ties
    """Hash of each worker's id; shape [places]. Its own array: kept as it is."""
    places: dict[WorkerId, tuple[int, ...]]
    """Where each worker stands: once for each of its phases."""
    numbers: Places
    """Number of the worker at each place, for what is told by worker and not by place."""
    numbers_max: int
    layouts: tuple[tuple[Mask, Mask], ...]
    """For each KV layout which decoders and which prefillers have it; empty when all have the same."""
    layout_names: tuple[str, ...]
    """Of `layouts`, in their order; the one that all have where these are empty."""
    soft: Mask
    """Which decoders prefill too; shape [decoders]."""
    has_soft: bool
    """Whether any does."""
    bends: bool
    """Whether any performance model has a square of its own."""
    least_held_tokens: float
    """Length that every worker could hold; infinite without any."""

    def reads(self, layout: str, phase: Phase) -> Mask | bool:
        """Say which workers of a phase read KV of a layout."""
        if layout not in self.layout_names:
            return False
        if not self.layouts:
            return True
        decoders, prefillers = self.layouts[self.layout_names.index(layout)]
        return decoders if phase is Phase.DECODE else prefillers


class Lineup:
    """Decoders grow from the middle to the left, prefillers to the right, so that both are one stretch."""

    def __init__(self) -> None:
        self._reach = 8  # places on either side of the middle
        self._table = np.zeros((LOADS_COUNT + TRAITS_COUNT, 2 * self._reach))
        self._seeds = np.zeros(2 * self._reach, dtype=np.uint64)
        self._numbers_at = np.zeros(2 * self._reach, dtype=np.intp)
        self._views: dict[Phase, list[WorkerView]] = {Phase.DECODE: [], Phase.PREFILL: []}
        """By distance from the middle."""
        self._ranks: dict[Phase, dict[WorkerId, int]] = {Phase.DECODE: {}, Phase.PREFILL: {}}
        self._fullest = {Phase.DECODE: Fullest(), Phase.PREFILL: Fullest()}
        self._numbers: dict[WorkerId, int] = {}
        self._numbers_free: list[int] = []
        self._oldest_s = inf  # no status is older; minus infinity when a worker is not ready
        self._sight: Sight | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def numbers(self) -> dict[WorkerId, int]:
        """Number of each worker, below `Sight.numbers_max`."""
        return self._numbers

    def view(self, place: int) -> WorkerView:
        """The worker at a place of `Sight.all`."""
        decoders = self._views[Phase.DECODE]
        if place < len(decoders):
            return decoders[len(decoders) - 1 - place]
        return self._views[Phase.PREFILL][place - len(decoders)]

    def views(self) -> tuple[WorkerView, ...]:
        """The workers at all places of `Sight.all`."""
        return (*reversed(self._views[Phase.DECODE]), *self._views[Phase.PREFILL])

    def place(self, worker_id: WorkerId, phase: Phase) -> int | None:
        """Place of a worker in `Sight.all`, None when it does not serve the phase."""
        rank = self._ranks[phase].get(worker_id)
        if rank is None:
            return None
        count = len(self._views[Phase.DECODE])
        return count - 1 - rank if phase is Phase.DECODE else count + rank

    def fold(self, view: WorkerView) -> None:
        """Take a view; one of the same worker is replaced."""
        for phase in view.status.phases:
            rank = self._ranks[phase].get(view.worker_id)
            if rank is None:
                rank = self._enter(view, phase)
            elif self._views[phase][rank].speed != view.speed:
                self._fill(view, phase, rank)
            self._views[phase][rank] = view
            self._table[:LOADS_COUNT, self._slot(phase, rank)] = loads_of(view)
            self._fullest[phase].fold(view)
        self._oldest_s = min(self._oldest_s, view.seen_at_s if view.ready else -inf)

    def drop(self, view: WorkerView) -> None:
        """Forget a worker; the outermost of each phase takes its place."""
        for phase in view.status.phases:
            views, ranks = self._views[phase], self._ranks[phase]
            rank, last = ranks.pop(view.worker_id), views.pop()
            if last.worker_id != view.worker_id:
                ranks[last.worker_id] = rank
                views[rank] = last
                here, there = self._slot(phase, rank), self._slot(phase, len(views))
                for rows in (self._table, self._seeds, self._numbers_at):
                    rows[..., here] = rows[..., there]
        self._numbers_free.append(self._numbers.pop(view.worker_id))
        self._sight = None

    def fresh(self, now_s: float, stale_after_s: float) -> bool:
        """Whether all workers are ready, and no status is older than allowed."""
        if now_s - self._oldest_s > stale_after_s:
            seen_at_s = self.sight().all.loads.seen_at_s
            self._oldest_s = float(np.nan_to_num(seen_at_s, nan=-inf).min(initial=inf))
        return now_s - self._oldest_s <= stale_after_s

    def sight(self) -> Sight:
        """Show the columns."""
        if self._sight is None:
            self._sight = self._look()
        return self._sight

    def _slot(self, phase: Phase, rank: int) -> int:
        return self._reach - 1 - rank if phase is Phase.DECODE else self._reach + rank

    def _enter(self, view: WorkerView, phase: Phase) -> int:
        rank = len(self._views[phase])
        if rank == self._reach:
            pad = self._reach
            self._reach *= 2
            self._table = np.pad(self._table, ((0, 0), (pad, pad)))
            self._seeds, self._numbers_at = np.pad(self._seeds, pad), np.pad(self._numbers_at, pad)
        if view.worker_id not in self._numbers:
            free = self._numbers_free
            self._numbers[view.worker_id] = free.pop() if free else len(self._numbers)
        self._views[phase].append(view)
        self._ranks[phase][view.worker_id] = rank
        slot = self._slot(phase, rank)
        self._seeds[slot] = view.tie_seed
        self._numbers_at[slot] = self._numbers[view.worker_id]
        self._fill(view, phase, rank)
        return rank

    def _fill(self, view: WorkerView, phase: Phase, rank: int) -> None:
        traits = traits_of(view.limits, view.status.performance)
        self._table[LOADS_COUNT:, self._slot(phase, rank)] = traits
        self._sight = None

    def _look(self) -> Sight:
        decoder_count, prefiller_count = (len(self._views[p]) for p in (Phase.DECODE, Phase.PREFILL))
        begin, middle, end = self._reach - decoder_count, self._reach, self._reach + prefiller_count
        views = [view for phase in self._views.values() for view in phase]
        equal = len({view.speed for view in views}) == 1

        def part(first: int, last: int, fullest: Fullest) -> Part:
            rows = cast(list[Column], list(self._table[:, first:last]))
            return Part(
                last - first,
                Loads(*rows[:LOADS_COUNT]),
                Traits(*(self._table[LOADS_COUNT:, begin].tolist() if equal else rows[LOADS_COUNT:])),
                fullest,
            )

        everyone = part(begin, end, Fullest())
        traits = everyone.traits
        prefill = self._ranks[Phase.PREFILL]
        soft = [view.worker_id in prefill for view in reversed(self._views[Phase.DECODE])]
        return Sight(
            all=everyone,
            decoders=part(begin, middle, self._fullest[Phase.DECODE]),
            prefillers=part(middle, end, self._fullest[Phase.PREFILL]),
            worker_ids=tuple(view.worker_id for view in self.views()),
            seeds=self._seeds[begin:end].copy(),
            places=self._places(),
            numbers=self._numbers_at[begin:end],
            numbers_max=len(self._numbers) + len(self._numbers_free),
            layouts=self._layouts(),
            layout_names=tuple(sorted({view.limits.compatibility for view in views})),
            soft=np.array(soft, dtype=bool),
            has_soft=any(soft),
            bends=bool(np.any(traits.prefill_square_s) or np.any(traits.decode_context_square_s)),
            least_held_tokens=min((view.holds_tokens_max for view in views), default=inf),
        )

    def _places(self) -> dict[WorkerId, tuple[int, ...]]:
        places: dict[WorkerId, tuple[int, ...]] = {}
        for place, view in enumerate(self.views()):
            places[view.worker_id] = (*places.get(view.worker_id, ()), place)
        return places

    def _layouts(self) -> tuple[tuple[Mask, Mask], ...]:
        decoders = [v.limits.compatibility for v in reversed(self._views[Phase.DECODE])]
        prefillers = [v.limits.compatibility for v in self._views[Phase.PREFILL]]
        names = sorted({*decoders, *prefillers})
        if len(names) < 2:
            return ()
        return tuple(
            (np.array([n == name for n in decoders], bool), np.array([n == name for n in prefillers], bool))
            for name in names
        )
