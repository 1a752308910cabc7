"""KEDA on queue length: so many requests in a pool per worker.

Comes in: observations. Goes out: decisions. KEDA hands the metric to a Horizontal Pod Autoscaler as an
average value: `desired = ceil(requests in the pool / requests per worker)`, with the latter's tolerance and
stabilisation window. Looks every 30 s, KEDA's default. Requests of the prefill pool are those that wait and
those under way, of the decode pool those that decode.
"""

import math

from planner.decision import Decision
from planner.load import Engine
from planner.observation import Observation
from planner.proof.baselines.pace import HighestOfLate, pace, sized
from planner.proof.baselines.utilisation_hpa import DOWN_WINDOW_S, TOLERANCE_FRAC
from services.domain.slo import Slo
from services.domain.worker import Phase

POLL_S = 30.0


class QueueLength:
    """A `Scaler`."""

    def __init__(self, engine: Engine, slo: Slo, *, prompts: float, sequences: float) -> None:
        """Begin.

        Args:
            engine: of all workers.
            slo: targets.
            prompts: per prefill worker, > 0.
            sequences: per decode worker, > 0.
        """
        self._engine, self._slo = engine, slo
        self._each = {Phase.PREFILL: prompts, Phase.DECODE: sequences}
        self._late = HighestOfLate(DOWN_WINDOW_S)

    def decide(self, observation: Observation) -> Decision:
        """Apply the rule to both pools."""
        demand, backlog = observation.demand, observation.backlog
        rate = 0.0 if demand is None else demand.requests_per_s
        own_s = 0.0 if demand is None else pace(demand, self._engine, self._slo).own_s
        held = {
            Phase.PREFILL: backlog.waiting_count + rate * own_s,
            Phase.DECODE: float(backlog.running_count),
        }
        wanted = {}
        for pool in observation.pools:
            needed = held[pool.phase] / self._each[pool.phase]
            count = pool.ordered_count
            if abs(needed / max(1, count) - 1.0) > TOLERANCE_FRAC:
                count = math.ceil(needed)
            wanted[pool.phase] = self._late.fold(pool.phase, max(1, count), observation.at_s)
        return sized(observation, wanted, look_s=POLL_S, reason="so many requests per worker")
