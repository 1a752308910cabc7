"""The target that does nothing: it says what it would do.

Comes in: pools, decisions. Goes out: sentences. Invariant: nothing outside this object changes.
Not here: real targets.
"""

from collections.abc import Awaitable, Callable

from planner.decision import Decision
from planner.observation import PoolState
from planner.targets.port import Outcome


class DryRun:
    """Says what it would do."""

    def __init__(
        self,
        read: Callable[[], Awaitable[tuple[PoolState, ...]]],
        *,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take a way to see the pools.

        Args:
            read: reads them, from workers or from a real target.
            close: lets go of that target.
        """
        self._read = read
        self._close = close
        self._pools: tuple[PoolState, ...] = ()

    async def pools(self) -> tuple[PoolState, ...]:
        """Read all pools."""
        self._pools = await self._read()
        return self._pools

    async def carry_out(self, decision: Decision) -> Outcome:
        """Say what would be done."""
        counts = {(pool.phase, pool.kind): pool.ordered_count for pool in self._pools}
        said = [
            f"would turn {flip.worker_count} of {flip.source.value} ({flip.kind}) over"
            for flip in decision.flips
        ]
        said += [
            f"would set {order.phase.value} ({order.kind}) to {order.worker_count}"
            for order in decision.orders
            if counts.get((order.phase, order.kind), 0) != order.worker_count
        ]
        return Outcome(left=tuple(said))

    async def close(self) -> None:
        """Let go of what is read."""
        if self._close is not None:
            await self._close()
