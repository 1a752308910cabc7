"""What an observer sees, and the port to it.

Comes in: nothing. Goes out: the port. Invariant: an observer says how old its news is; what it cannot see is
None. Not here: observers themselves (`gateways`, `prometheus`), the scale targets that pools are read from
(`targets`).
"""

from dataclasses import dataclass
from typing import Protocol

from planner.observation import Attainment, Backlog, Demand, PoolState


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Everything but the pools that a scale target knows better.

    Attributes:
        age_s: of the oldest part.
        demand: of the last window; None while nothing is known of any request.
        backlog: work not done.
        attainment: of the last window.
        pools: workers as they announce themselves; None where nobody listened.
    """

    age_s: float
    demand: Demand | None
    backlog: Backlog
    attainment: Attainment
    pools: tuple[PoolState, ...] | None = None


class ObservationFailed(Exception):
    """Nothing can be seen now; the next look may see again."""


class Observer(Protocol):
    """Sees a running cluster."""

    async def look(self) -> Sight:
        """Look once.

        Raises:
            ObservationFailed: the source did not answer, or not sensibly.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; idempotent."""
        ...
