"""The throughput mode of NVIDIA Dynamo's SLA planner (1.6, read in its documentation and source).

Comes in: observations. Goes out: decisions. Each interval it predicts the next interval's request rate and
mean lengths from the window averages, divides the tokens by what one worker carries within the targets by its
profile (prefill: one prompt at a time; decode: the largest batch within the ITL target), multiplies by a
correction factor (measured over expected) and rounds up. Prediction: the last value, or its linear trend.
Its correction factors come from TTFT and ITL averages; with a profile without error they stay at 1 here.
"""

import math

from planner.decision import Decision
from planner.load import Engine
from planner.observation import Demand, Observation
from planner.proof.baselines.pace import pace, sized
from services.domain.slo import Slo
from services.domain.worker import Phase


class DynamoThroughput:
    """A `Scaler`."""

    def __init__(
        self, engine: Engine, slo: Slo, *, interval_s: float, headroom: float, follows_trend: bool
    ) -> None:
        """Begin.

        Args:
            engine: of all workers.
            slo: targets.
            interval_s: between two adjustments.
            headroom: so many times what the prediction needs, >= 1.
            follows_trend: predicts the last value plus its change; else the last value.
        """
        self._engine, self._slo = engine, slo
        self._interval_s, self._headroom, self._follows_trend = interval_s, headroom, follows_trend
        self._last_per_s: float | None = None

    def decide(self, observation: Observation) -> Decision:
        """Size both pools for the next interval."""
        demand, look_s = observation.demand, self._interval_s
        if demand is None:
            return sized(observation, {}, look_s=look_s, reason="no request")
        carried = pace(demand, self._engine, self._slo)
        rate = self._predicted(demand) * self._headroom
        measured = observation.attainment
        prefill = rate * carried.own_s * min(1.0, measured.prefill_pace)
        decode = rate * demand.output_tokens * carried.decode_s / carried.batch * measured.decode_pace
        wanted = {Phase.PREFILL: math.ceil(prefill), Phase.DECODE: math.ceil(decode)}
        return sized(observation, wanted, look_s=look_s, reason="predicted tokens over profiled throughput")

    def _predicted(self, demand: Demand) -> float:
        last, self._last_per_s = self._last_per_s, demand.requests_per_s
        if last is None or not self._follows_trend:
            return demand.requests_per_s
        return max(0.0, 2 * demand.requests_per_s - last)
