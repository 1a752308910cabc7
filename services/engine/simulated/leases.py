"""Leases: blocks of finished prefills that wait for their puller.

Comes in: holdings of prompts. Goes out: the promise to keep each for a duration. A puller on its way
holds a lease past its duration, as vLLM's heartbeats do; one that gives up lets it run again.
Invariant: every lease ends once (pulled, released or expired), and its blocks then go back.
Not here: tickets, transfers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.domain.ids import TicketId
from services.engine.simulated.pool import BlockPool, Holding


@dataclass(slots=True, eq=False)
class _Lease:
    holding: Holding
    timer: asyncio.TimerHandle | None


class LeaseDesk:
    """All leases of one engine, timed by the running loop."""

    def __init__(self, pool: BlockPool, lease_s: float, on_freed: Callable[[], None]) -> None:
        """Make a desk without leases.

        Args:
            pool: where blocks go back to.
            lease_s: how long each lease runs, s.
            on_freed: called after blocks went back.
        """
        self._pool = pool
        self._lease_s = lease_s
        self._on_freed = on_freed
        self._leases: dict[TicketId, _Lease] = {}

    @property
    def blocks(self) -> int:
        """Blocks under lease."""
        return sum(lease.holding.blocks for lease in self._leases.values())

    def grant(self, ticket_id: TicketId, holding: Holding) -> None:
        """Keep a holding for the lease's duration from now."""
        self._leases[ticket_id] = _Lease(holding, self._expire_later(ticket_id))

    def hold(self, ticket_id: TicketId) -> Holding | None:
        """Stop the lease from expiring because its puller has come; None when it ended."""
        lease = self._leases.get(ticket_id)
        if lease is None:
            return None
        if lease.timer is not None:
            lease.timer.cancel()
            lease.timer = None
        return lease.holding

    def resume(self, ticket_id: TicketId) -> None:
        """Let a held lease run again, for its whole duration, because its puller is gone."""
        lease = self._leases.get(ticket_id)
        if lease is not None and lease.timer is None:
            lease.timer = self._expire_later(ticket_id)

    def end(self, ticket_id: TicketId) -> bool:
        """Give the blocks back; False when the lease ended before."""
        lease = self._leases.pop(ticket_id, None)
        if lease is None:
            return False
        if lease.timer is not None:
            lease.timer.cancel()
        self._pool.release(lease.holding)
        self._on_freed()
        return True

    def end_all(self) -> None:
        """Give all blocks back."""
        for ticket_id in list(self._leases):
            self.end(ticket_id)

    def _expire_later(self, ticket_id: TicketId) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._lease_s, self.end, ticket_id)
