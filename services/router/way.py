"""The priced ways of one query, in columns, and single ones taken out of them.

Comes in: columns from `services.router.ways`. Goes out: the best ways in their order, and copies of some for
the record. Invariant: the order is by cost, then by a hash of request and worker, then by name; the best `k`
are the best of all, not of a sample. Not here: prices (`services.router.ways`).
"""

from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np

from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path
from services.router.columns import Column, Mask, Number, Places, Ties
from services.router.lineup import Lineup, Sight

SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd (D. Knuth, The Art of Computer Programming, 6.4: multiplicative hashing)."""
_SPREAD = np.uint64(SPREAD)
SORTED_MAX = 256
"""Ways up to which sorting all of them is cheaper than finding the best ones first."""


def spread(seeds: Ties, request_seed: int) -> Ties:
    """Order equal costs by a hash of request and worker, so that equal workers share equal requests.

    Multiplying spreads the difference of two seeds over all bits, so each worker comes first for an equal
    share of requests.
    """
    return (seeds ^ np.uint64(request_seed)) * _SPREAD


def tie(worker_seed: int, request_seed: int) -> int:
    """Do what `spread` does for one worker."""
    return ((worker_seed ^ request_seed) * SPREAD) & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(slots=True, kw_only=True)
class Ways:
    """All ways of one query: local ones first, in the order of the lineup's places.

    Columns have the shape [places].
    """

    lineup: Lineup
    sight: Sight
    request_seed: int
    cost_s: Column
    """Infinite where there is no way."""
    overlap_blocks: Column | None
    """None when nobody holds anything."""
    uncached_tokens: Number
    wait_s: Column
    prefill_s: Number
    transfer_s: Number
    """Of prefillers only; shape [prefillers] when it differs."""
    ttft_s: Column
    tpot_s: Column
    room_s: Column | None
    """Part of the wait until a decode worker has room: nothing but the gateway can hold the prompt for it.
    None when there is room everywhere."""
    harm_s: Column | None
    """None when nobody runs anything."""
    alone: Mask | None
    """Prefillers whose KV no other worker could decode; shape [prefillers]; None when there is none."""

    def part(self, path: Path | None) -> slice:
        """Places of a path, or of both."""
        count = self.sight.decoders.count
        if path is None:
            return slice(0, self.sight.all.count)
        return slice(0, count) if path is Path.LOCAL else slice(count, self.sight.all.count)

    def best(self, count: int, *, path: Path | None = None, among: Mask | None = None) -> list[int]:
        """Find the places of the best ways, best first.

        Args:
            count: how many at most.
            path: only of this path.
            among: only of these; shape [places].
        """
        part = self.part(path)
        if count <= 0 or part.start == part.stop:
            return []
        cost_s, seeds = self.cost_s[part], self.sight.seeds[part]
        if among is not None:
            cost_s = np.where(among[part], cost_s, inf)
        if count == 1:
            place = first_place(cost_s, seeds, self.request_seed)
            return [place + part.start] if cost_s[place] < inf else []
        places = _least(cost_s, seeds, self.request_seed, count)
        if cost_s[places[-1]] == inf:
            places = places[cost_s[places] < inf]
        return cast(list[int], (places + part.start).tolist())

    def path(self, place: int) -> Path:
        """Say which path a place is on."""
        return Path.LOCAL if place < self.sight.decoders.count else Path.REMOTE

    def of_path(self, places: list[int], path: Path) -> list[int]:
        """Keep the places of a path."""
        count, local = self.sight.decoders.count, path is Path.LOCAL
        return [place for place in places if (place < count) is local]

    def take(self, at: list[int]) -> "Taken":
        """Copy the numbers of some ways.

        Args:
            at: their places.
        """
        first, places = self.sight.decoders.count, np.array(at, dtype=np.intp)
        moved_s = self.transfer_s
        if isinstance(moved_s, np.ndarray):
            moved_s = np.concatenate((np.zeros(first), moved_s))
        columns = (
            self.overlap_blocks,
            self.uncached_tokens,
            self.wait_s,
            self.prefill_s,
            moved_s,
            self.ttft_s,
            self.tpot_s,
            self.harm_s,
            self.cost_s,
            self.sight.all.loads.running_count,
            self.room_s,
        )
        return Taken(
            [Path.LOCAL if place < first else Path.REMOTE for place in at],
            [self.sight.worker_ids[place] for place in at],
            *[column[places] if isinstance(column, np.ndarray) else column or 0.0 for column in columns],
        )


@dataclass(slots=True)
class Taken:
    """Some ways taken out of all: copies, that stay as they are whatever becomes of the fleet.

    Numbers have the shape [ways], or are one number when it is the same for all. See `Candidate`.
    """

    paths: list[Path]
    worker_ids: list[WorkerId]
    overlap_blocks: Number
    uncached_tokens: Number
    wait_s: Number
    prefill_s: Number
    transfer_s: Number
    """Of remote ways; it says nothing of local ones when it is one number."""
    ttft_s: Number
    tpot_s: Number
    harm_s: Number
    cost_s: Number
    running_count: Number
    """Requests that the worker decodes."""
    room_s: Number
    """See `Ways.room_s`."""

    def harmed_count(self, index: int) -> int:
        """How many requests of its worker a way would stall."""
        return int(number_at(self.running_count, index))

    def candidate(self, index: int, excluded: str | None = None) -> Candidate:
        """Write one of them as the domain's record.

        Args:
            index: which.
            excluded: why it cannot be chosen.
        """
        path = self.paths[index]
        return Candidate(
            path=path,
            worker_id=self.worker_ids[index],
            overlap_blocks=int(number_at(self.overlap_blocks, index)),
            uncached_tokens=int(number_at(self.uncached_tokens, index)),
            wait_s=number_at(self.wait_s, index),
            prefill_s=number_at(self.prefill_s, index),
            transfer_s=0.0 if path is Path.LOCAL else number_at(self.transfer_s, index),
            ttft_s=number_at(self.ttft_s, index),
            tpot_s=number_at(self.tpot_s, index),
            harm_s=number_at(self.harm_s, index),
            cost_s=number_at(self.cost_s, index),
            excluded=excluded,
        )


def number_at(column: Number | None, index: int) -> float:
    """Take one number; 0 where there are none."""
    if column is None:
        return 0.0
    return float(column[index]) if isinstance(column, np.ndarray) else column


def first_place(cost_s: Column, seeds: Ties, request_seed: int) -> int:
    """Find the place of least cost; of equal ones that of the least hash.

    Args:
        cost_s: shape [places], at least one.
        seeds: hash of each worker's id.
        request_seed: hash of the request's id.
    """
    place = int(cost_s.argmin())
    equal = (cost_s == cost_s[place]).nonzero()[0]
    return place if len(equal) == 1 else int(equal[spread(seeds[equal], request_seed).argmin()])


def _least(cost_s: Column, seeds: Ties, request_seed: int, count: int) -> Places:
    """Find the places of least cost, best first; of equal costs the least hash, then the first place."""
    if len(cost_s) <= max(count, SORTED_MAX):
        first: Places = np.lexsort((spread(seeds, request_seed), cost_s))[:count]
        return first
    ordered = cost_s.copy()
    ordered.partition(count)
    places: Places = (cost_s <= ordered[count]).nonzero()[0]
    ties = spread(seeds[places], request_seed)
    if len(places) > SORTED_MAX:  # many cost the same
        ranks = ties.copy()
        ranks[cost_s[places] < ordered[count]] = 0
        least = ranks.copy()
        least.partition(count)
        kept = ranks <= least[count]
        places, ties = places[kept], ties[kept]
    best: Places = places[np.lexsort((ties, cost_s[places]))[:count]]
    return best
