"""The priced ways of one query, in columns, and single ones taken out of them.

Comes in: columns from `services.router.pricing.ways`. Goes out: the best way, the best ways in their order,
and candidates for the record. Invariant: the order is by cost, then by a hash of request and worker, then by
place; the best `k` are the best of all, not of a sample. Not here: prices (`services.router.pricing.ways`).
"""

from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np

from services.domain.ids import WorkerId
from services.domain.placement import Candidate, Path
from services.router.fleet.columns import Column, Mask, Number, Ties

SPREAD = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd (D. Knuth, The Art of Computer Programming, 6.4: multiplicative hashing)."""
_SPREAD = np.array(SPREAD, dtype=np.uint64)


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

    Columns have the shape [places]. None of them changes later, so that a record can be made from them at any
    time. See `Candidate` for what the numbers mean.
    """

    worker_ids: tuple[WorkerId, ...]
    decoder_count: int
    """Places before it are local, the others remote."""
    seeds: Ties
    """Hash of each worker's id."""
    request_seed: int
    """Hash of the request's id."""
    prompt_tokens: int
    cost_s: Column
    """Infinite where there is no way."""
    overlap_blocks: Number
    cached_tokens: Number
    wait_s: Column
    prefill_s: Number
    transfer_s: Number
    """Of remote ways only; shape [prefillers] when it differs."""
    ttft_s: Column
    tpot_s: Column
    room_s: Column | None
    """Part of the wait until a decode worker has room: nothing but the gateway can hold the prompt for it.
    None when there is room everywhere."""
    harm_s: Number
    running_count: Column
    """Requests that the worker decodes."""

    def path(self, place: int) -> Path:
        """Say which path a place is on."""
        return Path.LOCAL if place < self.decoder_count else Path.REMOTE

    def first(self, *, path: Path | None = None, among: Mask | None = None) -> int | None:
        """Find the place of the best way; None when there is none.

        Args:
            path: only of this path.
            among: only of these; shape [places].
        """
        begin, end = self._part(path)
        if begin == end or (among is not None and not np.count_nonzero(among)):
            return None
        cost_s, seeds = self.cost_s[begin:end], self.seeds[begin:end]
        if among is not None:
            cost_s = np.where(among[begin:end], cost_s, inf)
        place = first_place(cost_s, seeds, self.request_seed)
        return begin + place if cost_s[place] < inf else None

    def best(self, count: int, *, path: Path | None = None, among: Mask | None = None) -> list[int]:
        """Find the places of the best ways, best first.

        Args:
            count: how many at most.
            path: only of this path.
            among: only of these; shape [places].
        """
        begin, end = self._part(path)
        if count <= 0 or begin == end:
            return []
        cost_s = self.cost_s[begin:end]
        if among is not None:
            cost_s = np.where(among[begin:end], cost_s, inf)
        order = np.lexsort((spread(self.seeds[begin:end], self.request_seed), cost_s))[:count]
        return [begin + place for place in cast(list[int], order.tolist()) if cost_s[place] < inf]

    def candidate(self, place: int, excluded: str | None = None) -> Candidate:
        """Write one of them as the domain's record.

        Args:
            place: which.
            excluded: why it cannot be chosen.
        """
        path = self.path(place)
        return Candidate(
            path=path,
            worker_id=self.worker_ids[place],
            overlap_blocks=int(number_at(self.overlap_blocks, place)),
            uncached_tokens=self.prompt_tokens - int(number_at(self.cached_tokens, place)),
            wait_s=float(self.wait_s[place]),
            prefill_s=number_at(self.prefill_s, place),
            transfer_s=0.0 if path is Path.LOCAL else self._moved_s(place),
            ttft_s=float(self.ttft_s[place]),
            tpot_s=float(self.tpot_s[place]),
            harm_s=number_at(self.harm_s, place),
            cost_s=float(self.cost_s[place]),
            excluded=excluded,
        )

    def _moved_s(self, place: int) -> float:
        return number_at(self.transfer_s, place - self.decoder_count)

    def _part(self, path: Path | None) -> tuple[int, int]:
        """First and last place of a path, or of both; the last one is excluded."""
        first, count = self.decoder_count, len(self.worker_ids)
        if path is None:
            return 0, count
        return (0, first) if path is Path.LOCAL else (first, count)


def number_at(column: Number, place: int) -> float:
    """Take one number."""
    return float(column[place]) if isinstance(column, np.ndarray) else column


def first_place(cost_s: Column, seeds: Ties, request_seed: int) -> int:
    """Find the place of least cost; of equal ones that of the least hash. Any place when all are infinite.

    Args:
        cost_s: shape [places], at least one.
        seeds: hash of each worker's id.
        request_seed: hash of the request's id.
    """
    place = int(cost_s.argmin())
    least_s = cost_s[place]
    equal = (cost_s == least_s).nonzero()[0]
    if len(equal) == 1 or least_s == inf:
        return place
    return int(equal[spread(seeds[equal], request_seed).argmin()])
