"""Token velocity: the ratio of the tokens that come to the tokens that a worker can take, every few seconds.

Comes in: observations. Goes out: decisions. After TokenScale (2025): each role has a velocity, tokens per
second and worker within its target; a pool has as many workers as tokens come per velocity, with head-room,
grows at once and shrinks after a delay. What waits counts as coming within the TTFT target.
"""

import math

from planner.decision import Decision
from planner.load import Engine
from planner.observation import Observation
from planner.proof.baselines.pace import HighestOfLate, pace, sized
from services.domain.slo import Slo
from services.domain.worker import Phase

LOOK_S = 10.0


class TokenVelocity:
    """A `Scaler`."""

    def __init__(self, engine: Engine, slo: Slo, *, headroom: float, down_s: float) -> None:
        """Begin.

        Args:
            engine: of all workers.
            slo: targets.
            headroom: so many times the workers that the tokens need, >= 1.
            down_s: a pool shrinks to the most that it needed in so long.
        """
        self._engine, self._slo, self._headroom = engine, slo, headroom
        self._late = HighestOfLate(down_s)

    def decide(self, observation: Observation) -> Decision:
        """Divide tokens by velocities."""
        demand = observation.demand
        if demand is None:
            return sized(observation, {}, look_s=LOOK_S, reason="no request")
        carried = pace(demand, self._engine, self._slo)
        waiting_per_s = observation.backlog.waiting_count / max(self._slo.ttft_s, LOOK_S)
        needs = {
            Phase.PREFILL: (demand.requests_per_s + waiting_per_s) * carried.packed_s,
            Phase.DECODE: demand.requests_per_s * demand.output_tokens * carried.decode_s / carried.batch,
        }
        wanted = {
            phase: self._late.fold(phase, max(1, math.ceil(need * self._headroom)), observation.at_s)
            for phase, need in needs.items()
        }
        return sized(observation, wanted, look_s=LOOK_S, reason="tokens that come over token velocity")
