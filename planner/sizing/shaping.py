"""From what was observed to what sizing works with: the shape of requests, the load, the engine.

Comes in: demand, backlog, a forecast, a kind of worker. Goes out: values of `load`. Invariant: work is the
forecast's; the shape only says how it falls into requests. Not here: forecasts (`forecasting`).
"""

import math
from dataclasses import dataclass

from planner.forecasting.ensemble import Forecast
from planner.load import Engine, ExpectedLoad
from planner.observation import Attainment, Backlog, Demand
from planner.settings import KindSettings

SHAPE_S = 120.0
"""Constant by which the shape of requests (not their work) is smoothed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What requests look like beside their rate and mean work; smoothed.

    Attributes:
        square: mean square of uncached tokens over their squared mean.
        cached_tokens: prompt tokens that need no computing, mean.
        context: mean KV of a decoding sequence over prompt and half an output.
        dispersion: of the arrivals.
    """

    square: float
    cached_tokens: float
    context: float
    dispersion: float

    def moved(self, seen: "Shape", dt_s: float) -> "Shape":
        """Follow what was seen after so many seconds."""
        gain = 1.0 - math.exp(-dt_s / SHAPE_S)
        return Shape(
            square=self.square + gain * (seen.square - self.square),
            cached_tokens=self.cached_tokens + gain * (seen.cached_tokens - self.cached_tokens),
            context=self.context + gain * (seen.context - self.context),
            dispersion=self.dispersion + gain * (seen.dispersion - self.dispersion),
        )


def shape_of(demand: Demand, backlog: Backlog) -> Shape:
    """Read the shape off what was seen."""
    plain = demand.prompt_tokens + demand.output_tokens / 2.0
    context = 1.0
    if backlog.running_count > 0 and backlog.running_context_tokens > 0:
        context = backlog.running_context_tokens / backlog.running_count / max(1.0, plain)
    return Shape(
        square=max(1.0, demand.uncached_square_tokens / max(1.0, demand.uncached_tokens) ** 2),
        cached_tokens=max(0.0, demand.prompt_tokens - demand.uncached_tokens),
        context=context,
        dispersion=max(1.0, demand.dispersion),
    )


def load_of(forecast: Forecast, shape: Shape) -> ExpectedLoad:
    """Make the load of a forecast."""
    rate = max(forecast.requests_per_s, 1e-9)
    uncached = max(1.0, forecast.prefill_tokens_per_s / rate)
    output = max(1.0, forecast.decode_tokens_per_s / rate)
    prompt = uncached + shape.cached_tokens
    return ExpectedLoad(
        requests_per_s=forecast.requests_per_s,
        spread=forecast.spread,
        prompt_tokens=prompt,
        uncached_tokens=uncached,
        uncached_square_tokens=shape.square * uncached * uncached,
        output_tokens=output,
        context_tokens=shape.context * (prompt + output / 2.0),
        dispersion=shape.dispersion,
    )


def engine_of(kind: KindSettings, attainment: Attainment) -> Engine:
    """Make the engine of a kind, at the pace that was measured."""
    prefill_pace, decode_pace = attainment.prefill_pace, attainment.decode_pace
    model = kind.model()
    if prefill_pace != 1.0 or decode_pace != 1.0:
        model = model.paced(prefill=prefill_pace, decode=decode_pace)
    return Engine(
        performance=model,
        kv_tokens=kind.kv_tokens,
        sequences_max=kind.sequences_max,
        step_tokens_max=kind.step_tokens_max,
    )
