"""The memory bus as one process sees it: the port over a `MemoryBroker`.

Comes in: calls of the port. Goes out: the same effects and errors as over NATS. Invariant: a client
that is cut off fails at once and takes no effect; one whose reply is lost fails after the timeout and
has taken effect. Not here: state and faults (`services.bus.memory.broker`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from services.bus.fleet_feed import FleetFeed
from services.bus.inbox import Inbox, ignore_drop
from services.bus.live_view import LiveQueueView
from services.bus.memory.broker import Connection, MemoryBroker
from services.bus.port import FleetChange, QueueView
from services.bus.role_inbox import RoleInbox
from services.domain.blocks import KvEventBatch
from services.domain.errors import BusUnavailable
from services.domain.ids import TaskId, WorkerId
from services.domain.task import Claim, ClaimedTask, PrefillTask, QueuedTask
from services.domain.worker import RoleOrder, WorkerStatus

T = TypeVar("T")


class _Wire:
    """Requests of one client to the broker."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.broker = broker
        self.connection: Connection = broker.connect(name)
        self.closed = False

    @property
    def connected(self) -> bool:
        return not self.closed and not self.connection.partitioned

    def check(self) -> None:
        if not self.connected:
            raise BusUnavailable(message=f"{self.connection.name} is cut off from the bus")

    async def request(self, effect: Callable[[], T]) -> T:
        self.check()
        await asyncio.sleep(self.broker.latency_s)
        self.check()
        answer = effect()
        if self.connection.replies_to_lose > 0:
            self.connection.replies_to_lose -= 1
            await asyncio.sleep(self.broker.request_timeout_s)
            raise BusUnavailable(message="the bus did not answer in time")
        await asyncio.sleep(self.broker.latency_s)
        return answer


class MemoryQueue:
    """The prefill queue of one client."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._broker = wire.broker

    async def enqueue(self, task: PrefillTask) -> None:
        """Put a task in the queue; errors as the port says."""
        await self._wire.request(lambda: self._broker.add(task))

    @asynccontextmanager
    async def view(self) -> AsyncIterator[QueueView]:
        """Open a mirror; it is complete when entered."""
        view = LiveQueueView(self._broker.limits)
        views = self._wire.connection.views

        def open_view() -> None:
            self._broker.fill_view(view)
            views.append(view)

        try:
            await self._wire.request(open_view)
            yield view
        finally:
            view.close()
            if view in views:
                views.remove(view)

    async def claim(self, queued: QueuedTask, worker_id: WorkerId) -> ClaimedTask | None:
        """Take a task by compare-and-set on its revision; None when someone else was first."""
        attempt = queued.attempts + 1
        claim = Claim(worker_id=worker_id, attempt=attempt)
        stored = await self._wire.request(
            lambda: self._broker.compare_and_set(
                queued.record.task_id, queued.revision, claim=claim, attempts=attempt
            )
        )
        if stored is None:
            return None
        return ClaimedTask(
            task=PrefillTask(record=queued.record, request=stored.task.request),
            claim=claim,
            revision=stored.revision,
            waited_s=queued.waited_s,
        )

    async def renew(self, claimed: ClaimedTask) -> ClaimedTask | None:
        """Prolong a claim; None when it was lost."""
        stored = await self._wire.request(
            lambda: self._broker.compare_and_set(
                claimed.task.record.task_id,
                claimed.revision,
                claim=claimed.claim,
                attempts=claimed.claim.attempt,
            )
        )
        return None if stored is None else replace(claimed, revision=stored.revision)

    async def complete(self, claimed: ClaimedTask) -> bool:
        """Remove a task because its handoff is done; False when the claim was lost before."""
        return await self._wire.request(
            lambda: self._broker.remove(claimed.task.record.task_id, claimed.revision)
        )

    async def cancel(self, task_id: TaskId) -> bool:
        """Remove a task in whatever state; False when it is not in the queue."""
        return await self._wire.request(lambda: self._broker.remove(task_id))

    async def waiting_count(self) -> int:
        """Tasks in the queue, claimed or not."""
        return await self._wire.request(self._broker.tasks_count)


class MemoryBus:
    """One process's connection to a broker."""

    def __init__(self, broker: MemoryBroker, name: str, on_drop: Callable[[str], None] = ignore_drop) -> None:
        """Connect.

        Args:
            broker: the server.
            name: unique among the broker's clients; faults are addressed by it.
            on_drop: told the name of a bound whenever a message is dropped at it.

        Raises:
            ValueError: the name is in use.
        """
        self._wire = _Wire(broker, name)
        self._broker = broker
        self._queue = MemoryQueue(self._wire)
        self._on_drop = on_drop

    @property
    def queue(self) -> MemoryQueue:
        """The prefill queue."""
        return self._queue

    @property
    def connected(self) -> bool:
        """Whether the bus answers."""
        return self._wire.connected

    async def announce(self, status: WorkerStatus, *, ttl_s: float) -> None:
        """Publish or renew a worker's status; errors as the port says."""
        await self._wire.request(lambda: self._broker.announce(status, ttl_s))

    async def withdraw(self, worker_id: WorkerId) -> None:
        """Remove a worker's status at once; errors as the port says."""
        await self._wire.request(lambda: self._broker.withdraw(worker_id))

    @asynccontextmanager
    async def watch_fleet(self) -> AsyncIterator[AsyncIterator[FleetChange]]:
        """Follow the fleet: first one `WorkerSeen` per known worker, then every change."""
        feed = FleetFeed()
        feeds = self._wire.connection.feeds
        if self.connected:
            self._broker.fill_feed(feed)
        feeds.append(feed)
        try:
            yield feed
        finally:
            feed.close()
            if feed in feeds:
                feeds.remove(feed)

    async def publish_kv(self, batch: KvEventBatch) -> None:
        """Publish a batch of KV events, at most once; lost silently while the bus is away."""
        if self.connected:
            self._broker.publish_kv(batch)
        else:
            self._on_drop("kv_publish")

    @asynccontextmanager
    async def watch_kv(self) -> AsyncIterator[AsyncIterator[KvEventBatch]]:
        """Follow all workers' KV events from now on."""
        inbox: Inbox[KvEventBatch] = Inbox(
            self._broker.limits.kv_batches_max, lambda: self._on_drop("kv_inbox")
        )
        inboxes = self._wire.connection.kv_inboxes
        inboxes.append(inbox)
        try:
            yield inbox
        finally:
            inbox.close()
            if inbox in inboxes:
                inboxes.remove(inbox)

    async def order_role(self, order: RoleOrder) -> None:
        """Tell a worker its role, at most once; lost silently while it or the bus is away."""
        if self.connected:
            self._broker.order_role(order)
        else:
            self._on_drop("role_publish")

    @asynccontextmanager
    async def watch_roles(self, worker_id: WorkerId) -> AsyncIterator[AsyncIterator[RoleOrder]]:
        """Follow the orders to one worker from now on."""
        inbox = RoleInbox(worker_id)
        inboxes = self._wire.connection.role_inboxes
        inboxes.append(inbox)
        try:
            yield inbox
        finally:
            inbox.close()
            if inbox in inboxes:
                inboxes.remove(inbox)

    async def close(self) -> None:
        """Leave the bus: watches end, views stand still; idempotent."""
        self._wire.closed = True
        self._broker.disconnect(self._wire.connection)
        connection = self._wire.connection
        for feed in connection.feeds:
            feed.close()
        for inbox in connection.kv_inboxes:
            inbox.close()
        for orders in connection.role_inboxes:
            orders.close()
