"""Any target whose pools are launched for one role, and workers that are turned over the bus besides.

Comes in: decisions by role. Goes out: pools by role, orders to workers, sizes for the target beneath.
Invariants: while a person holds a pool nobody turns; only a planner that may write turns anybody; an order is
repeated until the worker's status shows it, for `PATIENCE_S` at most, and is not given to another life of it.
Not here: who turns, and what that makes of sizes (`planner.turns`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from planner.decision import Decision
from planner.observation import PoolState
from planner.targets.port import Outcome, Target
from planner.turns import Acting, Home, acting, by_role, chosen, launched
from services.bus.fleet import Fleet
from services.bus.port import Bus
from services.domain.ids import EngineEpoch, WorkerId
from services.domain.worker import Phase, RoleOrder
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)

ORDER_AGAIN_S = 0.5
"""Between two orders that a status does not show yet: two statuses."""
PATIENCE_S = 30.0
"""How long one is repeated; later looks see that it was not obeyed, and decide anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ordered:
    """A role that a worker was ordered to take."""

    role: Phase
    epoch: EngineEpoch
    until_s: float


class Turning:
    """A target that turns running workers."""

    def __init__(
        self,
        target: Target,
        bus: Bus,
        fleet: Fleet,
        homes: Sequence[Home],
        *,
        now_s: Callable[[], float],
        may_turn: Callable[[], bool] = lambda: True,
    ) -> None:
        """Nobody is turned yet.

        Args:
            target: launches workers, all of one kind; closed with this one.
            bus: carries the orders.
            fleet: who announces itself.
            homes: one per pool of the target.
            now_s: the planner's clock.
            may_turn: whether this planner may act now.
        """
        self._target = target
        self._bus = bus
        self._fleet = fleet
        self._homes = tuple(homes)
        self._now_s = now_s
        self._may_turn = may_turn
        self._ordered: dict[WorkerId, _Ordered] = {}
        self._launched: tuple[PoolState, ...] = ()
        self._seen: tuple[PoolState, ...] = ()
        self._wake = asyncio.Event()
        self._nursery = Nursery("planner's turns")
        self._nursery.start(self._order(), "orders")

    async def pools(self) -> tuple[PoolState, ...]:
        """Read all pools, each with the workers that have its role."""
        self._launched = await self._target.pools()
        self._seen = by_role(self._launched, self._workers())
        return self._seen

    async def carry_out(self, decision: Decision) -> Outcome:
        """Turn workers, then order sizes."""
        done, left = self._turn(decision)
        # Sizes are as if all had turned: who did not is a matter of the next look, and no reason for a start.
        orders = launched(decision, self._launched, self._seen) if self._seen else decision.orders
        outcome = await self._target.carry_out(replace(decision, orders=orders, flips=()))
        return Outcome(done=(*done, *outcome.done), left=(*left, *outcome.left))

    async def close(self) -> None:
        """Stop ordering, and close the target; idempotent."""
        await self._nursery.close()
        await self._target.close()

    def _workers(self) -> tuple[Acting, ...]:
        self._forget()
        roles = {worker_id: ordered.role for worker_id, ordered in self._ordered.items()}
        return acting(self._fleet.statuses.values(), self._homes, roles)

    def _turn(self, decision: Decision) -> tuple[list[str], list[str]]:
        """Order what can turn; returns what was done and what was not, in sentences."""
        hindrance = None
        if any(pool.is_held for pool in self._launched):
            hindrance = "a pool is held by hand"
        elif not self._may_turn():
            hindrance = "this planner holds no lease"
        done: list[str] = []
        left: list[str] = []
        for flip in decision.flips:
            what = f"{flip.source.value} to {flip.source.other.value}"
            ready = () if hindrance else chosen(self._workers(), flip.source, flip.worker_count)
            for one in ready:
                self._ordered[one.status.worker_id] = _Ordered(
                    role=flip.source.other,
                    epoch=one.status.epoch,
                    until_s=self._now_s() + PATIENCE_S,
                )
            if ready:
                done.append(
                    f"{len(ready)} turned from {what}: {', '.join(w.status.worker_id for w in ready)}"
                )
            if len(ready) < flip.worker_count:
                why = hindrance or "no more workers of that role announce themselves"
                left.append(f"{flip.worker_count - len(ready)} not turned from {what}: {why}")
        self._wake.set()
        return done, left

    def _forget(self) -> None:
        """Drop orders that were obeyed, that came too late, or whose worker is another one now."""
        for worker_id, ordered in tuple(self._ordered.items()):
            status = self._fleet.statuses.get(worker_id)
            if status is None or status.epoch != ordered.epoch or status.phases == (ordered.role,):
                del self._ordered[worker_id]
            elif self._now_s() > ordered.until_s:
                log.warning("%s was not turned to %s in time", worker_id, ordered.role.value)
                del self._ordered[worker_id]

    async def _order(self) -> None:
        while True:
            self._forget()
            for worker_id, ordered in tuple(self._ordered.items()):
                order = RoleOrder(worker_id=worker_id, epoch=ordered.epoch, phases=(ordered.role,))
                await self._bus.order_role(order)
            self._wake.clear()
            try:
                async with asyncio.timeout(ORDER_AGAIN_S if self._ordered else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
