"""The prefill queue as a router sees it: what it was read to hold, and what was sent to it since.

Comes in: readings of the queue, own prompts sent to it. Goes out: what waits ahead of a prompt, and which
tasks workers took or are done with. Invariant: a prompt that was sent counts until a reading must show it.
Not here: the mirror (`services.bus`), what workers have taken on (`fleet`).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from services.domain.ids import RequestId, TaskId, WorkerId
from services.domain.placement import PlacementQuery
from services.domain.task import QueuedTask
from services.router.fleet.ledger import Burden, Ledger
from services.router.pricing.queue_load import (
    ClaimedWork,
    QueueClass,
    QueueLoad,
    bound_tokens,
    queue_class,
    read_queue,
)
from services.router.settings import RouterSettings


class ClaimsChanged(NamedTuple):
    """What a reading tells of claims."""

    begun: tuple[ClaimedWork, ...]
    """Not in the reading before."""
    ended: frozenset[str]
    """Ids of claims that are in it no more."""


class QueueAccount:
    """Readings, and a ledger of what they may not show yet."""

    def __init__(self, settings: RouterSettings) -> None:
        """Know of nothing that waits; the queue is taken to be within reach."""
        self.reachable = True
        """Whether a prompt could be queued now."""
        self._settle_s = settings.placement_settle_s
        self._waiting: dict[QueueClass, tuple[int, int]] = {}
        self._bound: dict[QueueClass, dict[WorkerId, float]] = {}
        self._sent: Ledger[QueueClass] = Ledger(settings.placements_max)
        self._named: Ledger[WorkerId] = Ledger(settings.placements_max)
        """What of them waits for one worker in particular."""
        self._claims: dict[TaskId, ClaimedWork] = {}

    def fold(
        self,
        tasks: Iterable[QueuedTask],
        block_size_tokens: Callable[[WorkerId], int | None],
        now_s: float,
    ) -> ClaimsChanged:
        """Take everything that is in the queue now; returns what that says of claims.

        Args:
            tasks: all of it.
            block_size_tokens: block size of a worker, None when it is not known.
            now_s: the moment.
        """
        reading = read_queue(tasks, block_size_tokens)
        self._waiting, self._bound = reading.waiting, reading.bound
        for place in self._sent.places():
            self._sent.settle(place, now_s - self._settle_s)
        for worker_id in self._named.places():
            self._named.settle(worker_id, now_s - self._settle_s)
        before, self._claims = self._claims, {work.task_id: work for work in reading.claimed}
        known = {work.claim_id for work in before.values()}
        claimed = {work.claim_id for work in reading.claimed}
        return ClaimsChanged(
            begun=tuple(work for work in reading.claimed if work.claim_id not in known),
            ended=frozenset(known - claimed),
        )

    def claim_of(self, task_id: TaskId) -> ClaimedWork | None:
        """Say who has a task, as the last reading has it; None where nobody does."""
        return self._claims.get(task_id)

    def send(self, query: PlacementQuery, worker_id: WorkerId, uncached_tokens: int, now_s: float) -> None:
        """Remember a prompt sent to the queue.

        Args:
            query: what was placed.
            worker_id: named for it.
            uncached_tokens: of it, at that worker.
            now_s: the moment.
        """
        if uncached_tokens < query.prompt_tokens:
            own = bound_tokens(prompt_tokens=query.prompt_tokens, uncached_tokens=uncached_tokens)
            self._named.add(query.request_id, worker_id, Burden(prefill_tokens=int(own)), now_s)
        place = queue_class(query.scope.model, query.priority)
        burden = Burden(waiting_count=1, prefill_tokens=uncached_tokens)
        self._sent.add(query.request_id, place, burden, now_s)

    def forget(self, request_id: RequestId) -> None:
        """Forget a prompt: it ended, or a worker has it."""
        self._sent.end(request_id)
        self._named.end(request_id)

    def load(self, model: str, priority: int = 0) -> QueueLoad:
        """What waits for any prefill worker of a model and goes before a task of this priority.

        Own placements on their way are included. Batch work waits for everybody, interactive work for
        its own kind only.
        """
        interactive, batch = (model, False), (model, True)
        waiting_tokens = waiting_count = 0
        bound = {named: float(self._named.at(named).prefill_tokens) for named in self._named.places()}
        for place in (interactive, batch) if queue_class(model, priority) == batch else (interactive,):
            tokens, count = self._waiting.get(place, (0, 0))
            sent = self._sent.at(place)
            waiting_tokens += tokens + sent.prefill_tokens
            waiting_count += count + sent.waiting_count
            for worker_id, own_tokens in self._bound.get(place, {}).items():
                bound[worker_id] = bound.get(worker_id, 0.0) + own_tokens
        return QueueLoad(
            waiting_tokens=waiting_tokens,
            waiting_count=waiting_count,
            bound_tokens=bound,
            reachable=self.reachable,
        )
