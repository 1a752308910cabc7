"""The bus port: what the rooms ask of messaging, whatever carries it.

Comes in: statuses, KV event batches, prefill tasks, orders to workers. Goes out: the same to whoever watches.
Invariant: subscribers see a publisher's messages in order, each at most once (a gap shows in the
message's own sequence number); a status disappears `ttl_s` after its last renewal; a prefill task is
in the queue until it is completed, cancelled or expired, whatever happens to workers.
All buffers are bounded: a subscriber that falls behind loses the oldest messages and is told so.
Not here: what the values mean.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from services.domain.blocks import KvEventBatch
from services.domain.ids import TaskId, WorkerId
from services.domain.task import ClaimedTask, PrefillTask, QueuedTask
from services.domain.worker import RoleOrder, WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A worker joined or renewed its status."""

    status: WorkerStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLeft:
    """A worker said goodbye, or its status was not renewed in time."""

    worker_id: WorkerId


FleetChange = WorkerSeen | WorkerLeft


class QueueView(Protocol):
    """A live, local mirror of the queue's records; reading it does no I/O."""

    def tasks(self) -> tuple[QueuedTask, ...]:
        """All tasks in the queue, in the order of first sight; expired claims are shown as no claim."""
        ...

    def get(self, task_id: TaskId) -> QueuedTask | None:
        """One task, or None when it is completed, cancelled or expired."""
        ...

    async def changed(self, timeout_s: float) -> bool:
        """Wait until something differs from the last call to `changed`; False after the timeout.

        A claim that expires counts as a change, the renewal of a claim does not. For one caller at a time.
        """
        ...

    def on_removed(self, callback: Callable[[TaskId], None]) -> None:
        """Be called when a task leaves the queue for any reason; must not block or raise."""
        ...


class PrefillQueue(Protocol):
    """The global prefill queue: ordered by whoever claims, late-bound, durable.

    Every coroutine raises `BusUnavailable` when the bus does not confirm in time: the effect may or may
    not have happened. A claim that was written without its claimant knowing ends by itself.
    """

    async def enqueue(self, task: PrefillTask) -> None:
        """Put a task in the queue.

        Raises:
            Saturated: the queue holds as many tasks as it may.
            BodyTooLarge: the task is larger than a message of the bus may be.
            DeadlineExceeded: no time is left.
            BusUnavailable: the bus did not confirm in time; the task may not be in the queue.
        """
        ...

    def view(self) -> AbstractAsyncContextManager[QueueView]:
        """Open a mirror; it is complete (everything that waits now) when entered.

        Raises:
            BusUnavailable: on entering, when the bus does not answer in time.
        """
        ...

    async def claim(self, queued: QueuedTask, worker_id: WorkerId) -> ClaimedTask | None:
        """Take a task by compare-and-set on its revision; None when someone else was first."""
        ...

    async def renew(self, claimed: ClaimedTask) -> ClaimedTask | None:
        """Prolong a claim; None when it was lost (expired and taken, cancelled, completed)."""
        ...

    async def complete(self, claimed: ClaimedTask) -> bool:
        """Remove a task because its handoff is done; False when the claim was lost before."""
        ...

    async def cancel(self, task_id: TaskId) -> bool:
        """Remove a task in whatever state; False when it is not in the queue."""
        ...

    async def waiting_count(self) -> int:
        """Tasks in the queue, claimed or not."""
        ...


class Bus(Protocol):
    """Everything that is not a request's own stream."""

    @property
    def queue(self) -> PrefillQueue:
        """The prefill queue."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the bus answers, as far as is known now."""
        ...

    async def announce(self, status: WorkerStatus, *, ttl_s: float) -> None:
        """Publish or renew a worker's status.

        Raises:
            BusUnavailable: not confirmed in time.
            Saturated: the fleet is as large as it may be.
        """
        ...

    async def withdraw(self, worker_id: WorkerId) -> None:
        """Remove a worker's status at once.

        Raises:
            BusUnavailable: not confirmed in time.
        """
        ...

    def watch_fleet(self) -> AbstractAsyncContextManager[AsyncIterator[FleetChange]]:
        """Follow the fleet: first one `WorkerSeen` per known worker, then every change."""
        ...

    async def publish_kv(self, batch: KvEventBatch) -> None:
        """Publish a batch of KV events, at most once; lost silently while the bus is away."""
        ...

    def watch_kv(self) -> AbstractAsyncContextManager[AsyncIterator[KvEventBatch]]:
        """Follow all workers' KV events from now on."""
        ...

    async def order_role(self, order: RoleOrder) -> None:
        """Tell a worker its role, at most once; lost silently while it or the bus is away.

        Whoever orders looks at the worker's status, and orders again until it says so.
        """
        ...

    def watch_roles(self, worker_id: WorkerId) -> AbstractAsyncContextManager[AsyncIterator[RoleOrder]]:
        """Follow the orders to one worker from now on; of those not read yet the last one counts."""
        ...

    async def close(self) -> None:
        """Leave the bus; idempotent."""
        ...
