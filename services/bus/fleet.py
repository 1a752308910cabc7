"""The fleet as workers announce themselves on a bus, for whoever needs the last status and not each change.

Comes in: a bus. Goes out: the last status of each worker. Invariant: who left, or was silent for its status'
time to live, is not listed. Not here: what is made of it (`planner`, `services.cluster`).
"""

import asyncio
from collections.abc import Mapping

from services.bus.port import Bus, WorkerLeft, WorkerSeen
from services.domain.errors import BusUnavailable
from services.domain.ids import WorkerId
from services.domain.worker import WorkerStatus
from services.runtime.tasks import Nursery

BACKOFF_S = 1.0
"""Pause before a watch that ended is opened again; seconds."""


class Fleet:
    """Follows all workers."""

    def __init__(self, bus: Bus) -> None:
        """Begin to follow."""
        self._bus = bus
        self._statuses: dict[WorkerId, WorkerStatus] = {}
        self._nursery = Nursery("fleet")
        self._nursery.start(self._follow(), "watch")

    @property
    def statuses(self) -> Mapping[WorkerId, WorkerStatus]:
        """The last status of each worker."""
        return self._statuses

    async def close(self) -> None:
        """Stop following; idempotent."""
        await self._nursery.close()

    async def _follow(self) -> None:
        while True:
            try:
                async with self._bus.watch_fleet() as changes:
                    self._statuses.clear()
                    async for change in changes:
                        match change:
                            case WorkerSeen(status=status):
                                self._statuses[status.worker_id] = status
                            case WorkerLeft(worker_id=worker_id):
                                self._statuses.pop(worker_id, None)
            except BusUnavailable:
                pass
            await asyncio.sleep(BACKOFF_S)
