"""When a worker looks at the queue, and what it does about it.

Comes in: the queue's view, whether there is room. Goes out: tasks to take and to drop, orphans removed.
Invariant: a change wakes it at once, and so do a job that ended and a patience that is over; while nothing is
known to change it looks again after `LOOK_AGAIN_S`. Nothing is claimed while it is shut.
Not here: which task to take (`services.prefill.ordering`), what becomes of it (`services.prefill.phase`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence, Set
from typing import Protocol

from services.bus.port import Bus, QueueView
from services.domain.errors import BusUnavailable, DeadlineUnmeetable
from services.domain.ids import GatewayId, TaskId
from services.domain.task import QueuedTask
from services.link.port import GatewayLink
from services.prefill.claims import Claims
from services.prefill.ordering import Claimant, Drop, Leave, Take, order
from services.prefill.orphans import orphans
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""Longest wait without a look at the queue; changes wake it at once."""

LOOK_AGAIN_S_MIN = 0.0001
"""Least wait between two looks: a remainder of a patience may be smaller than the clock can tell."""

CLAIM_RETRY_S = 0.1
"""Wait after a claim that the bus did not confirm: it may be away for long, and says so at once."""


class Desk(Protocol):
    """Who works on what is claimed."""

    def has_room(self) -> bool:
        """Whether another task should be claimed."""
        ...

    def at_work(self) -> Set[TaskId]:
        """Name the tasks that it has, whatever the queue says of their claims."""
        ...

    async def take(self, taken: Take) -> None:
        """Claim a task and begin it."""
        ...

    async def drop(self, queued: QueuedTask, error: DeadlineUnmeetable) -> None:
        """Claim a hopeless task and give it up."""
        ...

    def removed(self, task_id: TaskId) -> None:
        """A task left the queue."""
        ...


class Lookout:
    """Follows the queue for one desk."""

    def __init__(
        self,
        bus: Bus,
        claims: Claims,
        desk: Desk,
        *,
        links: dict[GatewayId, GatewayLink],
        claimant: Callable[[], Claimant],
        nursery: Nursery,
    ) -> None:
        """Stand open, and look at nothing yet.

        Args:
            bus: with the queue.
            claims: of this worker, to remove orphans.
            desk: who works.
            links: to gateways, as they are now.
            claimant: describes this worker at the moment of a look.
            nursery: where the watch over the queue runs.
        """
        self._bus = bus
        self._claims = claims
        self._desk = desk
        self._links = links
        self._claimant = claimant
        self._nursery = nursery
        self._open = asyncio.Event()
        self._open.set()
        self._wake = asyncio.Event()

    def open(self) -> None:
        """Claim again; at first it does."""
        self._open.set()

    def shut(self) -> None:
        """Claim nothing from now on."""
        self._open.clear()
        self._wake.set()

    def wake(self) -> None:
        """Look again now."""
        self._wake.set()

    async def run(self) -> None:
        """Claim tasks whenever open, until cancelled."""
        while True:
            await self._open.wait()
            try:
                async with self._bus.queue.view() as view:
                    await self._follow(view)
            except BusUnavailable as error:
                log.warning("the prefill queue does not answer, trying again: %s", error)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _follow(self, view: QueueView) -> None:
        view.on_removed(self._removed)
        pump = self._nursery.start(self._pump(view), "watch")
        try:
            while self._open.is_set():
                self._wake.clear()
                retry_s = await self._claim_while_room(view)
                try:
                    async with asyncio.timeout(retry_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                if pump.done():
                    return
        finally:
            pump.cancel()

    async def _pump(self, view: QueueView) -> None:
        while True:
            if await view.changed(LOOK_AGAIN_S):
                self._wake.set()
            for task_id in orphans(view.tasks(), self._links.keys()):
                await self._claims.remove(task_id)

    def _removed(self, task_id: TaskId) -> None:
        self._wake.set()
        self._desk.removed(task_id)

    async def _claim_while_room(self, view: QueueView) -> float:
        """Claim until nothing fits; returns after how long to look again, s."""
        while self._open.is_set() and self._desk.has_room():
            choice = order(self._not_mine(view.tasks()), self._claimant())
            try:
                match choice:
                    case Leave(retry_s=retry_s):
                        wait_s = LOOK_AGAIN_S if retry_s is None else max(retry_s, LOOK_AGAIN_S_MIN)
                        return min(wait_s, LOOK_AGAIN_S)
                    case Take() as taken:
                        await self._desk.take(taken)
                    case Drop(queued=queued, error=error):
                        await self._desk.drop(queued, error)
            except BusUnavailable as silence:
                log.warning("a claim is not confirmed: %s", silence)
                return CLAIM_RETRY_S
        return LOOK_AGAIN_S

    def _not_mine(self, tasks: Sequence[QueuedTask]) -> Sequence[QueuedTask]:
        """Leave out what the engine has already: a claim that looks ended here is for others to take."""
        mine = self._desk.at_work()
        return [queued for queued in tasks if queued.record.task_id not in mine] if mine else tasks
