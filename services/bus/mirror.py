"""The prefill queue as one reader sees it: pure folding of entries and of time.

Comes in: entries with their revisions, removals, the reader's time. Goes out: `QueuedTask`s.
Invariant: ages are counted from this reader's first sight of a task by its own clock; a claim ends when
the revision has not changed for `claim_ttl_s`, a task ends at its deadline or greatest age, whether the
bus says so or not. So no two processes need clocks that agree.
Not here: waiting and waking (`services.bus.live_view`), storage.
"""

import heapq
from collections.abc import Set
from dataclasses import dataclass, replace

from services.domain.ids import TaskId
from services.domain.task import Claim, QueuedTask, TaskRecord


def age(record: TaskRecord, elapsed_s: float) -> TaskRecord:
    """Shorten a record's remaining times by what passed since it was read."""
    deadline_s = None if record.deadline_s is None else record.deadline_s - elapsed_s
    return replace(record, deadline_s=deadline_s, ttft_target_s=record.ttft_target_s - elapsed_s)


@dataclass(slots=True, kw_only=True)
class _Row:
    record: TaskRecord
    """As first seen: its remaining times count from `seen_s`."""
    seen_s: float
    expires_s: float
    revision: int
    changed_s: float
    claim: Claim | None
    attempts: int

    def lapses_s(self, claim_ttl_s: float) -> float:
        return self.changed_s + claim_ttl_s

    def show(self, now_s: float, claim_ttl_s: float) -> QueuedTask:
        return QueuedTask(
            record=self.record,
            revision=self.revision,
            claim=self.claim if now_s < self.lapses_s(claim_ttl_s) else None,
            attempts=self.attempts,
            waited_s=now_s - self.seen_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What the passing of time changed."""

    removed: tuple[TaskId, ...]
    """Tasks that reached their deadline or greatest age."""
    lapsed: bool
    """Whether a claim ended."""


class QueueMirror:
    """Rows by task, and a heap of the moments at which one may change by itself."""

    def __init__(self, *, claim_ttl_s: float, task_age_max_s: float) -> None:
        self._claim_ttl_s = claim_ttl_s
        self._task_age_max_s = task_age_max_s
        self._rows: dict[TaskId, _Row] = {}
        self._due: list[tuple[float, TaskId]] = []
        self._expired: set[TaskId] = set()
        """Ended by our clock and not yet by the bus: a late write must not bring them back."""

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._rows

    def put(
        self, record: TaskRecord, *, claim: Claim | None, attempts: int, revision: int, now_s: float
    ) -> bool:
        """Fold an entry in; one of the same revision changes nothing.

        The bus delivers in order; a lower revision comes only from a bus that lost its state.

        Returns:
            Whether a reader sees a difference; the renewal of a running claim is none.
        """
        if record.task_id in self._expired:
            return False
        row = self._rows.get(record.task_id)
        if row is None:
            life_s = self._task_age_max_s
            if record.deadline_s is not None:
                life_s = min(life_s, record.deadline_s)
            row = _Row(
                record=record,
                seen_s=now_s,
                expires_s=now_s + life_s,
                revision=revision,
                changed_s=now_s,
                claim=claim,
                attempts=attempts,
            )
            self._rows[record.task_id] = row
            heapq.heappush(self._due, (row.expires_s, record.task_id))
            differs = True
        elif revision == row.revision:
            return False
        else:
            lapsed = now_s >= row.lapses_s(self._claim_ttl_s)
            differs = lapsed or claim != row.claim or attempts != row.attempts
            row.revision, row.changed_s, row.claim, row.attempts = revision, now_s, claim, attempts
        if claim is not None:
            heapq.heappush(self._due, (row.lapses_s(self._claim_ttl_s), record.task_id))
        return differs

    def remove(self, task_id: TaskId) -> bool:
        """Forget a task; False when it is not known."""
        self._expired.discard(task_id)
        return self._rows.pop(task_id, None) is not None

    def keep_only(self, present: Set[TaskId]) -> tuple[TaskId, ...]:
        """Forget all tasks that a complete list does not hold; returns those that were shown."""
        self._expired &= present
        gone = tuple(task_id for task_id in self._rows if task_id not in present)
        for task_id in gone:
            del self._rows[task_id]
        return gone

    def due_s(self) -> float | None:
        """The next moment at which `pass_time` may change something."""
        return self._due[0][0] if self._due else None

    def pass_time(self, now_s: float) -> Passed:
        """Remove what has expired and find claims that have ended."""
        removed: list[TaskId] = []
        lapsed = False
        while self._due and self._due[0][0] <= now_s:
            _, task_id = heapq.heappop(self._due)
            row = self._rows.get(task_id)
            if row is None:
                continue
            if row.expires_s <= now_s:
                del self._rows[task_id]
                self._expired.add(task_id)
                removed.append(task_id)
            elif row.claim is not None and row.lapses_s(self._claim_ttl_s) <= now_s:
                lapsed = True
        return Passed(removed=tuple(removed), lapsed=lapsed)

    def tasks(self, now_s: float) -> tuple[QueuedTask, ...]:
        """All tasks whose time is not over, in the order of first sight."""
        return tuple(
            row.show(now_s, self._claim_ttl_s) for row in self._rows.values() if now_s < row.expires_s
        )

    def get(self, task_id: TaskId, now_s: float) -> QueuedTask | None:
        """One task, or None when it is not there or its time is over."""
        row = self._rows.get(task_id)
        if row is None or row.expires_s <= now_s:
            return None
        return row.show(now_s, self._claim_ttl_s)
