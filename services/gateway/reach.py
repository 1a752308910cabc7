"""What a journey can reach: router, queue, links, clock; one of these per gateway.

Comes in: the gateway's parts. Goes out: the few actions a journey takes, each bounded in time.
Not here: the order of actions (`services.gateway.journey`).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.bus.port import Bus
from services.domain.errors import BusUnavailable
from services.domain.ids import GatewayId, RequestId, TaskId, WorkerId
from services.domain.link import Cancel, HandoffAnswer
from services.gateway.life import Life
from services.gateway.links import LinkPool
from services.gateway.settings import ConductorSettings
from services.gateway.waiting_room import WaitingRoom
from services.router.placer import Placer
from services.router.router import Router
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.runtime.tasks import Nursery


@dataclass(slots=True, kw_only=True)
class Reach:
    """The parts of one gateway that requests use."""

    gateway_id: GatewayId
    settings: ConductorSettings
    router: Router
    """What is known of fleet, caches and queue."""
    placer: Placer
    """Who decides: that router, or one in another process."""
    bus: Bus
    links: LinkPool
    room: WaitingRoom
    """Where new requests wait while decode is full."""
    clock: Clock
    meters: Meters
    nursery: Nursery
    attempts: dict[RequestId, Life] = field(default_factory=dict)
    """Lives by the id of their present attempt: how mail finds them."""

    def unlinked(self) -> frozenset[WorkerId]:
        """Workers of the fleet that cannot be spoken to now."""
        return self.links.unlinked(tuple(v.worker_id for v in self.router.fleet.workers()))

    def unreliable(self) -> tuple[WorkerId, ...]:
        """Workers of the fleet that cannot be spoken to now, that drain, or whose engine just failed."""
        router = self.router
        return (*self.unlinked(), *router.leaving(), *router.quarantined(self.clock.now_s()))

    def answer_offer(self, life: Life, *, taken: bool, pulled: bool) -> None:
        """Tell the prefill worker what became of its handoff, if it waits for that."""
        offer, life.offer = life.offer, None
        life.ticket_is_out = False
        if offer is None:
            return
        ticket = offer.handoff.ticket
        self.links.send(
            offer.worker_id,
            HandoffAnswer(
                task_id=offer.handoff.task_id,
                request_id=offer.handoff.request_id,
                ticket_id=None if ticket is None else ticket.ticket_id,
                taken=taken,
                pulled=pulled,
            ),
        )

    def close_offer(self, life: Life) -> None:
        """Answer a handoff of a way that ends: blocks that may be read are left to their lease."""
        self.answer_offer(life, taken=life.ticket_is_out, pulled=life.ticket_is_out)

    def drop_attempt(self, life: Life, *, cancel: bool) -> None:
        """Forget the present attempt and, if asked, stop it wherever it is."""
        attempt_id, life.attempt_id = life.attempt_id, None
        if attempt_id is None:
            return
        self.attempts.pop(attempt_id, None)
        task_id, life.task_id = life.task_id, None
        if cancel:
            for worker_id in {life.prefill_worker_id, life.decode_worker_id}:
                if worker_id is not None:
                    self.links.send(worker_id, Cancel(request_id=attempt_id))
            if task_id is not None:
                self.later(self._cancel_task(task_id), "cancel task")
        life.prefill_worker_id = life.decode_worker_id = None

    async def _cancel_task(self, task_id: TaskId) -> None:
        try:
            await self.bus.queue.cancel(task_id)
        except BusUnavailable:
            self.meters.count("baton_dropped_total", what="task_cancel")  # the task ends with its deadline

    @asynccontextmanager
    async def in_time(self, life: Life) -> AsyncIterator[None]:
        """Bound a wait that no mail ends by a request's deadline.

        Raises:
            DeadlineExceeded: it passed first.
        """
        try:
            async with asyncio.timeout(life.deadline_at_s - self.clock.now_s()):
                yield
        except TimeoutError:
            raise life.too_late() from None

    def later(self, work: Coroutine[None, None, None], name: str) -> None:
        """Do something without waiting for it; nothing while the gateway stops."""
        try:
            self.nursery.start(work, name)
        except RuntimeError:
            return
