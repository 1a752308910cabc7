"""Kubernetes' Horizontal Pod Autoscaler on utilisation, one for each pool.

Comes in: observations. Goes out: decisions. Its rule, as documented for autoscaling/v2:
`desired = ceil(current x measured / target)`, nothing within a tolerance of 0.1; up at once, at most to
double or by 4, whichever is more; down to the highest recommendation of the last 300 s. Looks every 15 s.
Utilisation of prefill is the share of time in which workers prefill, of decode the share of seats within the
TPOT target that are taken: the best that it can be given.
"""

import math

from planner.decision import Decision
from planner.load import Engine
from planner.observation import Observation
from planner.proof.baselines.pace import HighestOfLate, pace, sized
from services.domain.slo import Slo
from services.domain.worker import Phase

TOLERANCE_FRAC = 0.1
DOWN_WINDOW_S = 300.0
SYNC_S = 15.0


class UtilisationHpa:
    """A `Scaler`."""

    def __init__(self, engine: Engine, slo: Slo, *, target_frac: float) -> None:
        """Begin.

        Args:
            engine: of all workers.
            slo: targets.
            target_frac: utilisation that is aimed at, in (0, 1].
        """
        self._engine, self._slo, self._target_frac = engine, slo, target_frac
        self._late = HighestOfLate(DOWN_WINDOW_S)

    def decide(self, observation: Observation) -> Decision:
        """Apply the rule to both pools."""
        demand = observation.demand
        if demand is None:
            return sized(observation, {}, look_s=SYNC_S, reason="no request")
        carried = pace(demand, self._engine, self._slo)
        busy = {
            Phase.PREFILL: demand.requests_per_s * carried.own_s + observation.backlog.waiting_count,
            Phase.DECODE: observation.backlog.running_count / carried.batch,
        }
        wanted = {}
        for pool in observation.pools:
            ready = max(1, pool.ready_count)
            ratio = min(busy[pool.phase] / ready, 2.0) / self._target_frac
            count = pool.ordered_count
            if abs(ratio - 1.0) > TOLERANCE_FRAC:
                count = min(math.ceil(ready * ratio), max(2 * pool.ordered_count, pool.ordered_count + 4))
            wanted[pool.phase] = self._late.fold(pool.phase, count, observation.at_s)
        return sized(observation, wanted, look_s=SYNC_S, reason=f"utilisation is to be {self._target_frac:g}")
