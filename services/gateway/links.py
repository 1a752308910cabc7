"""The gateway's links: one to every worker of the fleet, opened again when it breaks.

Comes in: statuses of workers. Goes out: their messages, and the news that a link broke.
Invariant: at most one link per worker; a worker that left the fleet is not dialled again, but a link
that still stands is kept: it knows more than a status that came late.
Not here: what messages mean (`services.gateway.conductor`).
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from services.domain.errors import WorkerLost
from services.domain.ids import GatewayId, WorkerId
from services.domain.link import ToGateway, ToWorker
from services.domain.worker import WorkerStatus
from services.link.port import Dialer, WorkerLink
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0

OnMessage = Callable[[WorkerId, ToGateway], None]
OnLost = Callable[[WorkerId], None]
OnLinked = Callable[[frozenset[WorkerId]], None]
"""Called with all workers that are linked, whenever they change; must not block or raise."""


class LinkPool:
    """Links of one gateway, by worker."""

    def __init__(
        self,
        dialer: Dialer,
        gateway_id: GatewayId,
        *,
        on_message: OnMessage,
        on_lost: OnLost,
        on_linked: OnLinked,
    ) -> None:
        self._on_linked = on_linked
        self._dialer = dialer
        self._gateway_id = gateway_id
        self._on_message = on_message
        self._on_lost = on_lost
        self._links: dict[WorkerId, WorkerLink] = {}
        self._addresses: dict[WorkerId, str] = {}
        self._keepers: dict[WorkerId, asyncio.Task[None]] = {}
        self._nursery = Nursery("links")
        self._change = asyncio.Event()

    def seen(self, status: WorkerStatus) -> None:
        """Keep a link to this worker from now on."""
        self._addresses[status.worker_id] = status.address
        if status.worker_id not in self._keepers:
            keeper = self._nursery.start(self._keep(status.worker_id), status.worker_id)
            self._keepers[status.worker_id] = keeper

    def left(self, worker_id: WorkerId) -> None:
        """Do not dial this worker again."""
        self._addresses.pop(worker_id, None)

    def get(self, worker_id: WorkerId) -> WorkerLink | None:
        """The open link to a worker, if there is one."""
        return self._links.get(worker_id)

    def unlinked(self, worker_ids: tuple[WorkerId, ...]) -> frozenset[WorkerId]:
        """Which of these workers have no open link."""
        return frozenset(w for w in worker_ids if w not in self._links)

    def send(self, worker_id: WorkerId, message: ToWorker) -> bool:
        """Send to a worker; False when it could not be sent."""
        link = self._links.get(worker_id)
        return link is not None and link.send(message)

    async def changed(self) -> None:
        """Wait until a link opens or breaks."""
        await self._change.wait()

    async def wait_changed(self, timeout_s: float) -> None:
        """Wait until a link opens or breaks, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.changed()

    def _tell_change(self) -> None:
        self._on_linked(frozenset(self._links))
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _keep(self, worker_id: WorkerId) -> None:
        backoff_s = BACKOFF_MIN_S
        try:
            while (address := self._addresses.get(worker_id)) is not None:
                try:
                    link = await self._dialer.connect(
                        address, gateway_id=self._gateway_id, timeout_s=CONNECT_TIMEOUT_S
                    )
                except WorkerLost as error:
                    log.info("no link to %s at %s: %s", worker_id, address, error)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
                    continue
                backoff_s = BACKOFF_MIN_S
                await self._read(worker_id, link)
                await asyncio.sleep(backoff_s)
        finally:
            self._keepers.pop(worker_id, None)

    async def _read(self, worker_id: WorkerId, link: WorkerLink) -> None:
        self._links[worker_id] = link
        self._tell_change()
        try:
            async for message in link.messages():
                self._on_message(worker_id, message)
        finally:
            del self._links[worker_id]
            self._tell_change()
            await link.close()
            self._on_lost(worker_id)

    async def close(self) -> None:
        """Close all links; idempotent."""
        self._addresses.clear()
        await self._nursery.close()
