"""What waits in the prefill queue, in the numbers a placement needs.

Comes in: the queue's records as its mirror shows them. Goes out: waiting tokens per model, and who
claimed what. Invariant: every task is counted once, as waiting or as claimed.
Not here: the mirror (`services.bus`), the order of claims (`services.prefill`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from services.domain.ids import TaskId, WorkerId
from services.domain.request import is_batch
from services.domain.task import QueuedTask, TaskRecord

QueueClass = tuple[str, bool]
"""Work that is served alike: its model, and whether it is batch work."""


def queue_class(model: str, priority: int) -> QueueClass:
    """Say among whom a task waits."""
    return (model, is_batch(priority))


class QueueLoad(NamedTuple):
    """Prompts of one model that wait for any prefill worker and go before a new one.

    Attributes:
        waiting_tokens: uncached tokens of all of them.
        waiting_count: how many.
        bound_tokens: of the tokens, those that wait for one worker in particular; see `bound_tokens`.
        reachable: whether a prompt could be queued now at all.
    """

    waiting_tokens: int = 0
    waiting_count: int = 0
    bound_tokens: Mapping[WorkerId, float] = MappingProxyType({})
    reachable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedWork:
    """A task that a worker took."""

    task_id: TaskId
    claim_id: str
    """Of this claim: a task that is taken again has another."""
    worker_id: WorkerId
    prompt_tokens: int
    uncached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReading:
    """The queue at one moment."""

    waiting: dict[QueueClass, tuple[int, int]]
    """By class: uncached tokens and count of unclaimed tasks."""
    bound: dict[QueueClass, dict[WorkerId, float]]
    """By class and named worker: how much of those tokens waits for it; see `bound_tokens`."""
    claimed: tuple[ClaimedWork, ...]


def bound_tokens(*, prompt_tokens: int, uncached_tokens: int) -> float:
    """Say how much of a task's work waits for the worker that was named for it, in tokens.

    Others leave a task to that worker for as long as its prefix saves more than they gain, so the larger the
    cached share of the prompt, the surer it stays there; without any it is anybody's.
    """
    return uncached_tokens * (1.0 - uncached_tokens / prompt_tokens)


def read_queue(
    tasks: Iterable[QueuedTask], block_size_tokens: Callable[[WorkerId], int | None]
) -> QueueReading:
    """Sum up the queue.

    Args:
        tasks: all tasks in the queue.
        block_size_tokens: block size of a worker, None when it is not known.
    """
    waiting: dict[QueueClass, tuple[int, int]] = {}
    bound: dict[QueueClass, dict[WorkerId, float]] = {}
    claimed: list[ClaimedWork] = []
    for task in tasks:
        record = task.record
        uncached = _uncached_tokens(record, block_size_tokens)
        if task.claim is None:
            place = queue_class(record.model, record.priority)
            tokens, count = waiting.get(place, (0, 0))
            waiting[place] = (tokens + uncached, count + 1)
            named = record.preferred_worker_id
            if named is not None and uncached < record.prompt_tokens:
                mine = bound.setdefault(place, {})
                mine[named] = mine.get(named, 0.0) + bound_tokens(
                    prompt_tokens=record.prompt_tokens, uncached_tokens=uncached
                )
        else:
            claimed.append(
                ClaimedWork(
                    task_id=record.task_id,
                    claim_id=f"{record.task_id}/{task.claim.attempt}",
                    worker_id=task.claim.worker_id,
                    prompt_tokens=record.prompt_tokens,
                    uncached_tokens=uncached,
                )
            )
    return QueueReading(waiting=waiting, bound=bound, claimed=tuple(claimed))


def _uncached_tokens(record: TaskRecord, block_size_tokens: Callable[[WorkerId], int | None]) -> int:
    if record.preferred_worker_id is None or record.preferred_overlap_blocks == 0:
        return record.prompt_tokens
    size = block_size_tokens(record.preferred_worker_id) or 0
    return max(1, record.prompt_tokens - record.preferred_overlap_blocks * size)
