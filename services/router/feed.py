"""Keeps a router informed: fleet, queue, KV events and snapshots flow from bus and links into it.

Comes in: a bus, and the owner's way to fetch a worker's snapshot. Goes out: folds into the router, and
the news of workers seen and left, for an owner that keeps links. Invariant: a watch that ends is opened
again; at most one snapshot per worker and `SNAPSHOTS_AT_ONCE` together are under way; a snapshot that
fails is asked for again, ever more slowly, until it comes or the worker is gone.
Not here: decisions (`services.router.router`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.bus.port import Bus, FleetChange, QueueView, WorkerLeft, WorkerSeen
from services.domain.blocks import KvSnapshot
from services.domain.errors import BusUnavailable, WorkerLost
from services.domain.ids import WorkerId
from services.domain.worker import Phase, WorkerStatus
from services.router.prefixes.findings import GapFound
from services.router.router import Router
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)

SNAPSHOTS_AT_ONCE = 4
"""Snapshots fetched together: each is megabytes, and folding one holds the event loop for milliseconds."""

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 5.0
QUEUE_READ_EVERY_S = 0.05
"""Least time between two readings of the queue: a reading looks at every task, and the router counts
what it queued itself until a reading shows it."""
REVIEW_EVERY_S = 1.0
"""How often silent workers are dropped and snapshots still missing are noticed."""

Snapshot = Callable[[WorkerId], Awaitable[KvSnapshot]]
"""Fetches everything a worker's cache holds; raises `WorkerLost` when it cannot."""


def _ignore_seen(_: WorkerStatus) -> None:
    """Nobody keeps links."""


def _ignore_left(_: WorkerId) -> None:
    """Nobody keeps links."""


class Feed:
    """The shell around a router."""

    def __init__(
        self,
        router: Router,
        bus: Bus,
        *,
        snapshot: Snapshot,
        clock: Clock,
        meters: Meters,
        on_seen: Callable[[WorkerStatus], None] = _ignore_seen,
        on_left: Callable[[WorkerId], None] = _ignore_left,
    ) -> None:
        """Tie a router to its sources.

        Args:
            router: to be fed; nobody else folds fleet or KV events into it.
            bus: where statuses and events come from.
            snapshot: fetches a worker's snapshot.
            clock: by which statuses age.
            meters: of this process.
            on_seen: called after a status was folded; must not block or raise.
            on_left: called after a worker was dropped; must not block or raise.
        """
        self._router = router
        self._bus = bus
        self._snapshot = snapshot
        self._clock = clock
        self._meters = meters
        self._on_seen = on_seen
        self._on_left = on_left
        self._queue: QueueView | None = None
        self._fetching: set[WorkerId] = set()
        self._turn = asyncio.Semaphore(SNAPSHOTS_AT_ONCE)
        self._nursery = Nursery("router feed")

    def queued_count(self) -> int:
        """Tasks in the prefill queue, claimed or not; 0 while the queue does not answer."""
        return 0 if self._queue is None else len(self._queue.tasks())

    async def run(self) -> None:
        """Feed the router until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lasting(self._follow_fleet, "fleet"))
                group.create_task(self._lasting(self._follow_kv, "KV events"))
                group.create_task(self._lasting(self._follow_queue, "the prefill queue"))
                group.create_task(self._review())
        finally:
            await self._nursery.close()

    async def _lasting(self, follow: Callable[[], Awaitable[None]], what: str) -> None:
        """Follow something again whenever it ends."""
        backoff_s = BACKOFF_MIN_S
        while True:
            began_s = self._clock.now_s()
            try:
                await follow()
                log.warning("the watch of %s ended, opening it again", what)
            except BusUnavailable as error:
                log.warning("cannot watch %s: %s", what, error)
            if self._clock.now_s() - began_s > BACKOFF_MAX_S:
                backoff_s = BACKOFF_MIN_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _follow_fleet(self) -> None:
        async with self._bus.watch_fleet() as changes:
            async for change in changes:
                self._fold(change)

    async def _follow_kv(self) -> None:
        async with self._bus.watch_kv() as batches:
            async for batch in batches:
                gap = self._router.fold_kv(batch)
                if gap is not None:
                    self._mend(gap)

    async def _follow_queue(self) -> None:
        try:
            async with self._bus.queue.view() as view:
                self._queue = view
                while True:
                    self._read_queue(view)
                    await asyncio.sleep(QUEUE_READ_EVERY_S)
                    await view.changed(REVIEW_EVERY_S)
        except BusUnavailable:
            self._router.fold_bus(connected=False, now_s=self._clock.now_s())
            raise
        finally:
            self._queue = None

    def _read_queue(self, view: QueueView) -> None:
        now_s, tasks = self._clock.now_s(), view.tasks()
        self._router.fold_queue(tasks, now_s)
        self._router.fold_bus(connected=self._bus.connected, now_s=now_s)
        self._meters.set("baton_queue_tasks", len(tasks))
        self._meters.set("baton_bus_connected", float(self._bus.connected))

    def _fold(self, change: FleetChange) -> None:
        match change:
            case WorkerSeen(status=status):
                gap = self._router.fold_status(status, self._clock.now_s())
                self._on_seen(status)
                if gap is not None:
                    self._mend(gap)
            case WorkerLeft(worker_id=worker_id):
                self._router.fold_left(worker_id)
                self._on_left(worker_id)

    async def _review(self) -> None:
        while True:
            for worker_id in self._router.forget_silent(self._clock.now_s()):
                log.warning("%s has been silent for too long and is dropped", worker_id)
                self._on_left(worker_id)
            for worker_id in self._router.awaiting_snapshot():
                self._fetch(worker_id)
            self._meters.set("baton_router_index_blocks", len(self._router.index))
            for phase in Phase:
                self._meters.set("baton_fleet_workers", self._ready_count(phase), phase=phase.value)
            await asyncio.sleep(REVIEW_EVERY_S)

    def _ready_count(self, phase: Phase) -> int:
        return sum(view.ready and phase in view.status.phases for view in self._router.fleet.workers())

    def _mend(self, gap: GapFound) -> None:
        log.info("KV events of %s are missing from %d on, fetching a snapshot", gap.worker_id, gap.expected)
        self._meters.count("baton_router_index_gaps_total")
        self._fetch(gap.worker_id)

    def _fetch(self, worker_id: WorkerId) -> None:
        if worker_id not in self._fetching:
            self._fetching.add(worker_id)
            self._nursery.start(self._fetch_until_mended(worker_id), f"snapshot of {worker_id}")

    async def _fetch_until_mended(self, worker_id: WorkerId) -> None:
        backoff_s = BACKOFF_MIN_S
        try:
            while worker_id in self._router.awaiting_snapshot():
                try:
                    async with self._turn:
                        snapshot = await self._snapshot(worker_id)
                except WorkerLost as error:
                    log.info("no snapshot of %s: %s", worker_id, error)
                else:
                    self._router.fold_snapshot(snapshot)  # what is still missing is still awaited
                    if worker_id not in self._router.awaiting_snapshot():
                        return
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
        finally:
            self._fetching.discard(worker_id)
