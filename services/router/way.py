"""The priced ways of one query, in columns, and single ones taken out of them.

Comes in: columns from `services.router.ways`. Goes out: the best ways in their order, and candidates for the
record. Invariant: the order is by cost, then by a hash of request and worker, then by name; the best `k` are
the best of all, not of a sample. Not here: prices (`services.router.ways`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, make_dataclass
from itertools import repeat
from math import inf
from typing import NamedTuple, cast

import numpy as np

from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path
from services.router.lineup import Column, Lineup, Mask, Number, Places, Sight, Ties

SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd (D. Knuth, The Art of Computer Programming, 6.4: multiplicative hashing)."""
_SPREAD = np.uint64(SPREAD)
SORTED_MAX = 256
"""Ways up to which sorting all of them is cheaper than finding the best ones first."""

_Draft = make_dataclass("_Draft", [field.name for field in fields(Candidate)], slots=True)
"""A candidate not yet frozen. A frozen class sets each field through a call, and a decision makes sixteen of
twelve fields each: filling a draft and then naming its class takes a sixth of the time."""


class Glance(NamedTuple):
    """A way in the numbers that a reason names."""

    path: Path
    worker_id: WorkerId
    ttft_s: float
    harm_s: float
    harmed_count: int


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

    def of_path(self, places: list[int], path: Path) -> list[int]:
        """Keep the places of a path."""
        count, local = self.sight.decoders.count, path is Path.LOCAL
        return [place for place in places if (place < count) is local]

    def glance(self, place: int) -> Glance:
        """Take of a way what a reason says of it."""
        return Glance(
            Path.LOCAL if place < self.sight.decoders.count else Path.REMOTE,
            self.sight.worker_ids[place],
            float(self.ttft_s[place]),
            0.0 if self.harm_s is None else float(self.harm_s[place]),
            int(self.sight.all.loads.running_count[place]),
        )

    def candidates(self, at: list[int], excluded: Sequence[str | None] | None = None) -> list[Candidate]:
        """Turn ways into the domain's records.

        Args:
            at: their places.
            excluded: for each why it cannot be chosen; none by default.
        """
        first, names, places = self.sight.decoders.count, self.sight.worker_ids, np.array(at, dtype=np.intp)
        held = self.overlap_blocks
        drafts = map(
            _Draft,
            [Path.LOCAL if place < first else Path.REMOTE for place in at],
            [names[place] for place in at],
            repeat(0) if held is None else map(int, held[places].tolist()),
            map(int, _at(self.uncached_tokens, places)),
            self.wait_s[places].tolist(),
            _at(self.prefill_s, places),
            self._transfers_s(at),
            self.ttft_s[places].tolist(),
            self.tpot_s[places].tolist(),
            repeat(0.0) if self.harm_s is None else self.harm_s[places].tolist(),
            self.cost_s[places].tolist(),
            excluded or repeat(None),
        )
        candidates = list(drafts)
        for candidate in candidates:
            candidate.__class__ = Candidate
        return cast(list[Candidate], candidates)

    def _transfers_s(self, at: list[int]) -> list[float]:
        first, moved_s = self.sight.decoders.count, self.transfer_s
        if isinstance(moved_s, np.ndarray):
            return [float(moved_s[place - first]) if place >= first else 0.0 for place in at]
        return [moved_s if place >= first else 0.0 for place in at]


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


def _at(column: Number, places: Places) -> Iterable[float]:
    """Take the numbers at some places."""
    return (
        cast(list[float], column[places].tolist())
        if isinstance(column, np.ndarray)
        else repeat(float(column))
    )
