"""The server of the memory bus: one truth about queue and fleet, and the faults between it and clients.

Comes in: writes of connected clients. Goes out: deliveries to the views, feeds and inboxes that they
opened. Invariant: writes happen one after another in the order of arrival; without faults a delivery
is in order and at once; nothing is random, so equal calls give equal runs. Time is the running loop's.
Not here: waiting for answers (`services.bus.memory.client`).
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from services.bus.fleet_feed import FleetFeed
from services.bus.inbox import Inbox
from services.bus.live_view import LiveQueueView
from services.bus.memory.delay_line import DelayLine
from services.bus.mirror import age
from services.bus.role_inbox import RoleInbox
from services.bus.settings import BusLimits
from services.domain.blocks import KvEventBatch
from services.domain.errors import BodyTooLarge, DeadlineExceeded, Saturated
from services.domain.ids import TaskId, WorkerId
from services.domain.task import Claim, PrefillTask, TaskRecord
from services.domain.worker import RoleOrder, WorkerStatus

R = TypeVar("R")

UNDER_WAY_MAX = 65_536
"""Most deliveries delayed on the way to one client."""

TOKEN_BYTES = 4
"""A prompt token in an encoded body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How one message reaches one client."""

    copies: int = 1
    """0 loses it, 2 repeats it."""
    delay_s: float = 0.0
    """Later messages of the same kind to the same client wait behind it, unless they may overtake it."""
    in_order: bool = True
    """False lets messages sent later arrive before it."""


def _unwatched(_change: str, _record: TaskRecord, _claim: Claim | None) -> None:
    """Nobody watches the queue."""


def deliver_plainly(client: str, batch: KvEventBatch) -> Delivery:
    """Deliver once and at once: the absence of faults."""
    del client, batch
    return Delivery()


@dataclass(slots=True, kw_only=True)
class StoredTask:
    """A task as the broker keeps it."""

    task: PrefillTask
    enqueued_s: float
    expires_s: float
    written_s: float
    revision: int
    claim: Claim | None = None
    attempts: int = 0

    def record(self) -> TaskRecord:
        """The record with the times that were left at the last write."""
        return age(self.task.record, self.written_s - self.enqueued_s)


@dataclass(slots=True, kw_only=True)
class _Presence:
    status: WorkerStatus
    expiry: asyncio.TimerHandle
    lost: bool = False
    """The broker forgot it; watchers still believe in it until it expires."""


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """One client's wires and what it has open."""

    name: str
    partitioned: bool = False
    replies_to_lose: int = 0
    views: list[LiveQueueView] = field(default_factory=list)
    feeds: list[FleetFeed] = field(default_factory=list)
    kv_inboxes: list[Inbox[KvEventBatch]] = field(default_factory=list)
    role_inboxes: list[RoleInbox] = field(default_factory=list)
    state: DelayLine = field(default_factory=lambda: DelayLine(UNDER_WAY_MAX))
    events: DelayLine = field(default_factory=lambda: DelayLine(UNDER_WAY_MAX))


class MemoryBroker:
    """State shared by the clients of one process.

    Attributes:
        latency_s: time of each request and of each delivery on its way.
        request_timeout_s: time until a request whose reply was lost counts as failed.
        kv_fault: decides, per client's name and batch, how a KV event batch is delivered.
        witness: told of every change of the queue ("written", "removed"), with the claim then held.
    """

    def __init__(self, limits: BusLimits | None = None) -> None:
        self.limits = limits or BusLimits()
        self.latency_s = 0.0
        self.request_timeout_s = 2.0
        self.kv_fault: Callable[[str, KvEventBatch], Delivery] = deliver_plainly
        self.witness: Callable[[str, TaskRecord, Claim | None], None] = _unwatched
        self._connections: dict[str, Connection] = {}
        self._tasks: dict[TaskId, StoredTask] = {}
        self._expiries: list[tuple[float, TaskId]] = []
        self._fleet: dict[WorkerId, _Presence] = {}
        self._revision = 0

    # Faults

    def partition(self, client: str, *, cut: bool) -> None:
        """Cut a client off, or let it back: it then learns the present state."""
        connection = self._connections[client]
        if connection.partitioned == cut:
            return
        connection.partitioned = cut
        connection.state.cut()
        connection.events.cut()
        if not cut:
            for view in connection.views:
                self.fill_view(view)
            for feed in connection.feeds:
                self.fill_feed(feed)

    def lose_replies(self, client: str, count: int = 1) -> None:
        """Let the client's next requests take effect without the client learning of it."""
        self._connections[client].replies_to_lose += count

    def lose_state(self) -> None:
        """Forget queue and fleet, as a server restarted on an empty disk.

        Watchers learn at once that tasks are gone; workers stay in their eyes until their time to
        live is over, so that those who renew are not missed.
        """
        for task_id in list(self._tasks):
            self._remove(task_id)
        for presence in self._fleet.values():
            presence.lost = True

    # Clients

    def connect(self, name: str) -> Connection:
        """Add a client.

        Raises:
            ValueError: the name is in use.
        """
        if name in self._connections:
            raise ValueError(f"client {name!r} is connected already")
        connection = Connection(name=name)
        self._connections[name] = connection
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Remove a client; unknown ones are ignored."""
        connection.state.cut()
        connection.events.cut()
        self._connections.pop(connection.name, None)

    def fill_view(self, view: LiveQueueView) -> None:
        """Bring a view to the present state."""
        self._forget_expired()
        view.keep_only(self._tasks.keys())
        for stored in self._tasks.values():
            _show(view, stored)

    def fill_feed(self, feed: FleetFeed) -> None:
        """Bring a watcher of the fleet to the present state."""
        for worker_id in feed.known():
            if worker_id not in self._fleet:
                feed.left(worker_id)
        for presence in self._fleet.values():
            if not presence.lost:
                feed.seen(presence.status)

    # Queue

    def add(self, task: PrefillTask) -> None:
        """Store a task and show it.

        Raises:
            Saturated: no room.
            BodyTooLarge: the prompt is longer than a message may be.
            DeadlineExceeded: no time is left.
        """
        self._forget_expired()
        body_bytes = TOKEN_BYTES * task.request.prompt_tokens
        if body_bytes > self.limits.body_bytes_max:
            raise BodyTooLarge(
                limit_bytes=self.limits.body_bytes_max,
                message=f"the prompt takes {body_bytes} bytes on the queue, "
                f"which takes {self.limits.body_bytes_max}",
            )
        if len(self._tasks) >= self.limits.queue_tasks_max:
            raise Saturated(
                retry_after_s=self.limits.saturated_retry_s,
                message=f"the prefill queue holds {self.limits.queue_tasks_max} tasks",
            )
        now_s = asyncio.get_running_loop().time()
        life_s = self.limits.task_age_max_s
        if task.record.deadline_s is not None:
            life_s = min(life_s, task.record.deadline_s)
        if life_s <= 0:
            raise DeadlineExceeded(deadline_s=life_s, message="the deadline passed before the queue")
        expires_s = now_s + life_s
        heapq.heappush(self._expiries, (expires_s, task.record.task_id))
        self._write(StoredTask(task=task, enqueued_s=now_s, expires_s=expires_s, written_s=now_s, revision=0))

    def compare_and_set(
        self, task_id: TaskId, revision: int, *, claim: Claim | None, attempts: int
    ) -> StoredTask | None:
        """Write claim and attempts; None when the task is gone or its revision is another."""
        self._forget_expired()
        stored = self._tasks.get(task_id)
        if stored is None or stored.revision != revision:
            return None
        stored.claim, stored.attempts = claim, attempts
        stored.written_s = asyncio.get_running_loop().time()
        self._write(stored)
        return stored

    def remove(self, task_id: TaskId, revision: int | None = None) -> bool:
        """Remove a task; False when it is gone or its revision is not the one given."""
        self._forget_expired()
        stored = self._tasks.get(task_id)
        if stored is None or revision not in (None, stored.revision):
            return False
        self._remove(task_id)
        return True

    def tasks_count(self) -> int:
        """Tasks stored now."""
        self._forget_expired()
        return len(self._tasks)

    def task_ids(self) -> tuple[TaskId, ...]:
        """Tasks stored now, in the order of their arrival."""
        self._forget_expired()
        return tuple(self._tasks)

    def _write(self, stored: StoredTask) -> None:
        self._revision += 1
        stored.revision = self._revision
        self._tasks[stored.task.record.task_id] = stored
        record, revision = stored.record(), stored.revision
        claim, attempts = stored.claim, stored.attempts
        self.witness("written", record, claim)
        self._to_views(lambda view: view.put(record, claim=claim, attempts=attempts, revision=revision))

    def _remove(self, task_id: TaskId) -> None:
        stored = self._tasks.pop(task_id)
        self.witness("removed", stored.task.record, stored.claim)
        self._to_views(lambda view: view.remove(task_id))

    def _forget_expired(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while self._expiries and self._expiries[0][0] <= now_s:
            _, task_id = heapq.heappop(self._expiries)
            stored = self._tasks.get(task_id)
            if stored is not None and stored.expires_s <= now_s:
                self._remove(task_id)

    def _to_views(self, tell: Callable[[LiveQueueView], None]) -> None:
        for connection in self._reachable():
            connection.state.send(self.latency_s, partial(_tell, connection.views, tell))

    # Fleet and events

    def announce(self, status: WorkerStatus, ttl_s: float) -> None:
        """Store a status and show it.

        Raises:
            Saturated: the fleet is as large as it may be.
        """
        old = self._fleet.get(status.worker_id)
        if old is not None:
            old.expiry.cancel()
        elif len(self._fleet) >= self.limits.workers_max:
            raise Saturated(
                retry_after_s=self.limits.saturated_retry_s,
                message=f"the fleet holds {self.limits.workers_max} workers",
            )
        expiry = asyncio.get_running_loop().call_later(ttl_s, self.withdraw, status.worker_id)
        self._fleet[status.worker_id] = _Presence(status=status, expiry=expiry)
        self._to_feeds(lambda feed: feed.seen(status))

    def withdraw(self, worker_id: WorkerId) -> None:
        """Remove a status; unknown ones are ignored."""
        presence = self._fleet.pop(worker_id, None)
        if presence is not None:
            presence.expiry.cancel()
            self._to_feeds(lambda feed: feed.left(worker_id))

    def order_role(self, order: RoleOrder) -> None:
        """Deliver an order to every client that watches for its worker."""
        for connection in self._reachable():
            arrive = partial(_tell, connection.role_inboxes, lambda inbox: inbox.put(order))
            connection.state.send(self.latency_s, arrive)

    def publish_kv(self, batch: KvEventBatch) -> None:
        """Deliver a batch to every client that watches."""
        for connection in self._reachable():
            if not connection.kv_inboxes:
                continue
            delivery = self.kv_fault(connection.name, batch)
            arrive = partial(_tell, connection.kv_inboxes, lambda inbox: inbox.put(batch))
            for _ in range(delivery.copies):
                delay_s = self.latency_s + delivery.delay_s
                if delivery.in_order:
                    connection.events.send(delay_s, arrive)
                else:
                    asyncio.get_running_loop().call_later(delay_s, self._arrive_late, connection, arrive)

    def _arrive_late(self, connection: Connection, arrive: Callable[[], None]) -> None:
        if not connection.partitioned:
            arrive()

    def _to_feeds(self, tell: Callable[[FleetFeed], None]) -> None:
        for connection in self._reachable():
            connection.state.send(self.latency_s, partial(_tell, connection.feeds, tell))

    def _reachable(self) -> list[Connection]:
        return [c for c in self._connections.values() if not c.partitioned]


def _show(view: LiveQueueView, stored: StoredTask) -> None:
    view.put(stored.record(), claim=stored.claim, attempts=stored.attempts, revision=stored.revision)


def _tell(receivers: list[R], tell: Callable[[R], None]) -> None:
    for receiver in list(receivers):
        tell(receiver)
