"""The adapter's own book of leases: which blocks wait for a pull.

Comes in: finished prefills, early ends, what the engine process still holds.
Goes out: counts, and the engine's names of leases to end. Invariant: a lease leaves the book once.
Not here: the leases themselves; vLLM's NIXL connector holds the blocks and their clock.
"""

from collections.abc import Collection
from dataclasses import dataclass

from services.domain.ids import TicketId


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLease:
    """Blocks of one finished prefill."""

    engine_request_id: str
    block_count: int


class LeaseBook:
    """Open leases by ticket."""

    def __init__(self) -> None:
        self._open: dict[TicketId, KeptLease] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def block_count(self) -> int:
        """Blocks under all open leases together (a shared prefix counts once per lease)."""
        return sum(lease.block_count for lease in self._open.values())

    def open(self, ticket_id: TicketId, lease: KeptLease) -> None:
        """Note a new lease."""
        self._open[ticket_id] = lease

    def end(self, ticket_id: TicketId) -> KeptLease | None:
        """Take a lease out because its holder gives it up; None if it ended before."""
        return self._open.pop(ticket_id, None)

    def end_all(self) -> list[KeptLease]:
        """Take all leases out."""
        ended = list(self._open.values())
        self._open.clear()
        return ended

    def tickets(self) -> frozenset[TicketId]:
        """List open leases; pass it to `keep_only` to spare leases opened since."""
        return frozenset(self._open)

    def keep_only(self, held: Collection[str], *, among: Collection[TicketId]) -> None:
        """Close those leases among the given ones that the engine holds no more: pulled or expired."""
        for ticket_id in among:
            lease = self._open.get(ticket_id)
            if lease is not None and lease.engine_request_id not in held:
                del self._open[ticket_id]
