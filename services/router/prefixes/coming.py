"""Which beginnings of prompts workers will hold soon, since they compute them now or are about to.

Comes in: the queue's records. Goes out: overlaps with a prompt, lengthened by that. What is ahead of a prompt
at such a worker counts as its wait anyway, so a prefix that comes is worth as much as one that is there.
Invariant: a claimed prompt counts where it was claimed; a waiting one at the worker named for it, where that
holds most of it and so will be left it; one of which nobody holds much is anybody's and does not count. Of
several that begin alike the one claimed first counts: it is done first, and its worker then holds it.
Not here: what workers hold (`index`), the wait (`services.router.pricing`).
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from services.domain.blocks import BlockHash
from services.domain.ids import TaskId, WorkerId
from services.domain.task import QueuedTask, TaskRecord, mark_depths, mark_hashes


class Coming(NamedTuple):
    """The beginning of a prompt that a worker will hold."""

    worker_id: WorkerId
    blocks: int
    """Leading blocks."""


class _Place(NamedTuple):
    """Where a prompt in the queue is computed."""

    task_id: TaskId
    worker_id: WorkerId
    claimed: bool


class ComingPrefixes:
    """Marks of the prompts in the queue, and where each is computed. A reading costs what changed since."""

    def __init__(self) -> None:
        self._places: dict[_Place, TaskRecord] = {}
        self._marks: dict[BlockHash, _Place] = {}

    def fold(self, tasks: Iterable[QueuedTask]) -> None:
        """Take everything that is in the queue now."""
        places: dict[_Place, TaskRecord] = {}
        for task in tasks:
            record, claim = task.record, task.claim
            if claim is not None:
                places[_Place(record.task_id, claim.worker_id, True)] = record
            elif record.preferred_worker_id is not None and _holds_most(record):
                places[_Place(record.task_id, record.preferred_worker_id, False)] = record
        for place in self._places.keys() - places.keys():
            for mark in self._places[place].marks:
                if self._marks.get(mark.block_hash) == place:
                    del self._marks[mark.block_hash]
        for place, record in places.items():
            if place not in self._places:
                self._enter(place, record)
        self._places = places

    def _enter(self, place: _Place, record: TaskRecord) -> None:
        for _, block_hash in record.marks:
            known = self._marks.get(block_hash)
            if known is None or (place.claimed and not known.claimed):
                self._marks[block_hash] = place

    def lengthen(self, overlaps: dict[WorkerId, int], hashes: Sequence[BlockHash]) -> Coming | None:
        """Count at its worker the longest beginning of a prompt that comes.

        Args:
            overlaps: leading blocks that each worker holds; lengthened in place.
            hashes: shape [full blocks of the prompt].

        Returns:
            What was counted; None when nothing comes that its worker does not hold.
        """
        if not self._marks or not hashes:
            return None
        marks, count = mark_hashes(hashes), len(hashes)
        if self._marks.keys().isdisjoint(marks):
            return None
        depths = mark_depths(count)
        for depth, block_hash in zip(chain((count,), reversed(depths)), reversed(marks), strict=True):
            place = self._marks.get(block_hash)
            if place is not None:
                if overlaps.get(place.worker_id, 0) >= depth:
                    return None
                overlaps[place.worker_id] = depth
                return Coming(place.worker_id, depth)
        return None


def _holds_most(record: TaskRecord) -> bool:
    """Whether the named worker holds at least half of a prompt's full blocks."""
    return bool(record.marks) and 2 * record.preferred_overlap_blocks >= record.marks[-1].depth_blocks
