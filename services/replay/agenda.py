"""What will happen when: the events of one replay, and its clock.

Comes in: events. Goes out: the next one. Events of one moment come in the order of their kinds, then of
their keys, whatever order they were noted in: a step that begins at a moment sees all that arrived by then.
Invariant: time never goes back. Not here: what an event does (`cluster`, `journeys`).
"""

from enum import IntEnum
from heapq import heappop, heappush

from services.replay.worker import Worker


class Happening(IntEnum):
    """Kinds of events, first to last within a moment."""

    STEP_END = 0
    HANDOFF_END = 1
    FETCH_END = 2
    MOVE_END = 3
    ARRIVAL = 4
    STATUS = 5
    DISPATCH = 6
    PLAN = 7


class Agenda:
    """All events to come."""

    def __init__(self, worker_count: int) -> None:
        """Begin at 0 with nothing to come."""
        self.now_s = 0.0
        self._events: list[tuple[float, int, int, int]] = []
        self._planned = [False] * worker_count
        self._news = [False] * worker_count

    @property
    def is_over(self) -> bool:
        """Nothing will happen but statuses."""
        return not self._events or (len(self._events) == 1 and self._events[0][1] == Happening.STATUS)

    def note(self, at_s: float, kind: Happening, key: int, extra: int = 0) -> None:
        """Note an event."""
        heappush(self._events, (at_s, kind, key, extra))

    def pop(self) -> tuple[int, int, int]:
        """Go on to the next event: its kind, key and extra."""
        self.now_s, kind, key, extra = heappop(self._events)
        return kind, key, extra

    def touch(self, worker: Worker) -> None:
        """Let a worker plan as soon as it can: something of it changed."""
        self._news[worker.index] = True
        if not worker.stepping:
            self.go_on(worker)
            return
        end_s = worker.interrupt(self.now_s)
        if end_s is not None:
            self.note(end_s, Happening.STEP_END, worker.index, worker.cuts)

    def go_on(self, worker: Worker) -> None:
        """Let a worker that is between two steps plan."""
        if not self._planned[worker.index]:
            self._planned[worker.index] = True
            self.note(self.now_s, Happening.PLAN, worker.index)

    def has_news(self, worker: Worker) -> bool:
        """Say whether a worker was touched since its last plan: another step like the last one is no news."""
        return self._news[worker.index]

    def plans(self, worker: Worker) -> None:
        """Learn that a worker plans now: what touches it from here on is for its next plan."""
        self._planned[worker.index] = self._news[worker.index] = False
