"""Notices that the index of a worker is wrong, from what its engine reports afterwards.

Comes in: per placed request, leading blocks the index promised and tokens the engine really reused.
Goes out: an alarm when promise and report disagree again and again. Invariant: one number of each kind
per worker; an alarm is given once, then counting starts anew.
Not here: what is done about it (`services.router.router` drops the worker's index and asks for a snapshot).
"""

from dataclasses import dataclass

from services.domain.ids import WorkerId

MISSES_MAX = 4
"""Times in a row that a promise may fail before it is no coincidence: a block can be evicted between
placement and start, but hardly all of them four times running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexWrong:
    """A worker's index cannot be believed."""

    worker_id: WorkerId
    reason: str


class HitRecord:
    """Failed promises in a row, per worker."""

    def __init__(self) -> None:
        self._empty: dict[WorkerId, int] = {}
        self._unseen: dict[WorkerId, int] = {}

    def fold(self, worker_id: WorkerId, *, promised_tokens: int, reused_tokens: int) -> IndexWrong | None:
        """Take what one request found.

        Args:
            worker_id: who computed the prompt.
            promised_tokens: tokens of the leading blocks that the index said it holds.
            reused_tokens: prompt tokens that its engine did not compute.
        """
        if promised_tokens > 0 and reused_tokens > 0:
            self.forget(worker_id)
            return None
        if promised_tokens > 0:
            return self._count(
                self._empty, worker_id, "the index promised cached blocks, its engine reused none"
            )
        if reused_tokens > 0:
            return self._count(
                self._unseen, worker_id, "its engine reused cached blocks, the index knew of none"
            )
        return None

    def forget(self, worker_id: WorkerId) -> None:
        """Drop a worker's counts."""
        self._empty.pop(worker_id, None)
        self._unseen.pop(worker_id, None)

    def _count(self, misses: dict[WorkerId, int], worker_id: WorkerId, what: str) -> IndexWrong | None:
        count = misses.get(worker_id, 0) + 1
        if count < MISSES_MAX:
            misses[worker_id] = count
            return None
        self.forget(worker_id)
        return IndexWrong(worker_id=worker_id, reason=f"{worker_id}: {count} times in a row {what}")
