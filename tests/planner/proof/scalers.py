"""Scalers that do one thing."""

from planner.decision import Decision, PoolOrder
from planner.observation import Observation
from services.domain.worker import Phase


class Fixed:
    """Wants the same for ever."""

    def __init__(self, prefill: int, decode: int) -> None:
        """Remember the sizes."""
        self._wanted = {Phase.PREFILL: prefill, Phase.DECODE: decode}

    def decide(self, observation: Observation) -> Decision:
        """Order them."""
        orders = tuple(
            PoolOrder(phase=pool.phase, kind=pool.kind, worker_count=self._wanted[pool.phase])
            for pool in observation.pools
        )
        return Decision(orders=orders, look_s=10.0)
