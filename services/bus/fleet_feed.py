"""What one watcher of the fleet has been told, so that it is told each change once.

Comes in: statuses, departures and complete lists, as a bus finds them. Goes out: the watcher's changes.
Invariant: `WorkerLeft` follows only a `WorkerSeen` of the same worker; a watcher that is slow gets the
newest change of each worker, so that the buffer is bounded by the fleet.
Not here: who is alive (the bus decides).
"""

from typing import Self

from services.bus.inbox import LatestInbox
from services.bus.port import FleetChange, WorkerLeft, WorkerSeen
from services.domain.ids import WorkerId
from services.domain.worker import WorkerStatus


class FleetFeed:
    """The changes for one watcher; iterate it to read them."""

    def __init__(self) -> None:
        self._inbox: LatestInbox[WorkerId, FleetChange] = LatestInbox()
        self._known: set[WorkerId] = set()

    def seen(self, status: WorkerStatus) -> None:
        """Tell that a worker joined or renewed its status."""
        self._known.add(status.worker_id)
        self._inbox.put(status.worker_id, WorkerSeen(status=status))

    def left(self, worker_id: WorkerId) -> None:
        """Tell that a worker is gone, unless the watcher knows of none."""
        if worker_id in self._known:
            self._known.remove(worker_id)
            self._inbox.put(worker_id, WorkerLeft(worker_id=worker_id))

    def known(self) -> tuple[WorkerId, ...]:
        """Workers that the watcher takes for present, sorted."""
        return tuple(sorted(self._known))

    def close(self) -> None:
        """End the iteration behind what is buffered now."""
        self._inbox.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FleetChange:
        return await self._inbox.__anext__()
