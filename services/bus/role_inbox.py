"""The orders to one worker, between a bus that delivers and the worker that reads.

Comes in: orders, whoever is meant. Goes out: the last one to this worker that it has not taken yet.
Invariant: a role is a state: of two orders the later one counts, so that one place is enough.
Not here: obeying (`services.worker`).
"""

from typing import Self

from services.bus.inbox import LatestInbox
from services.domain.ids import WorkerId
from services.domain.worker import RoleOrder


class RoleInbox:
    """The orders to one worker; iterate it to read them."""

    def __init__(self, worker_id: WorkerId) -> None:
        self._worker_id = worker_id
        self._inbox: LatestInbox[WorkerId, RoleOrder] = LatestInbox()

    def put(self, order: RoleOrder) -> None:
        """Take an order, in place of an earlier one; orders to others are ignored."""
        if order.worker_id == self._worker_id:
            self._inbox.put(self._worker_id, order)

    def close(self) -> None:
        """End the iteration behind what is buffered now."""
        self._inbox.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RoleOrder:
        return await self._inbox.__anext__()
