"""How much slower or faster an engine really is than its performance model says.

Comes in: what was computed between two outputs of an engine, and how long it took. Goes out: one factor
for prefill and one for decode, and the model corrected by them. Invariant: a function of what was folded; a
factor changes only when the measurement has left it by more than noise, so that workers of equal hardware
keep equal models and prices made for one hold for all of them.
Not here: the measurement (engines do it, by the model that they announce), the model (`performance`).
"""

import math
from dataclasses import dataclass

from services.domain.performance import PerformanceModel

MEMORY_S = 5.0
"""Predicted compute time after which a span counts for 1/e: some hundred steps."""
PRIOR_S = 0.05
"""Weight, in predicted compute time, of the belief that the model is right: a few steps."""
FACTOR_MAX = 10.0
"""Largest factor, and the most that one span may speak for: what took longer was no computing (a stopped
process, a machine that swaps)."""
GRID = 1.1
"""Ratio of neighbouring factors that are announced."""
STAY = 0.75
"""Distance in grid steps, by logarithm, within which the announced factor stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpan:
    """Steps of an engine that was busy all the while.

    Attributes:
        took_s: from begin to end, s.
        prefill_s: what the announced model predicts for the prompts computed in it, s.
        decode_s: what it predicts for the decode parts of these steps, s.
    """

    took_s: float
    prefill_s: float
    decode_s: float

    def __add__(self, other: "StepSpan") -> "StepSpan":
        return StepSpan(
            took_s=self.took_s + other.took_s,
            prefill_s=self.prefill_s + other.prefill_s,
            decode_s=self.decode_s + other.decode_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Factors on the times of a performance model; 1 is as predicted."""

    prefill: float = 1.0
    decode: float = 1.0


class PaceRecord:
    """Least squares of `took = prefill_factor * prefill + decode_factor * decode` over the last spans.

    Each span weighs as much as the compute time predicted for it, and both factors are drawn to 1 by
    `PRIOR_S`: what an engine never does stays as announced.
    """

    def __init__(self) -> None:
        self._prefill = self._mixed = self._decode = self._took_prefill = self._took_decode = 0.0
        self.pace = Pace()
        """As announced: on the grid."""

    def fold(self, span: StepSpan) -> None:
        """Take a span."""
        p, d = span.prefill_s, span.decode_s
        predicted_s = p + d
        if predicted_s <= 0.0:
            return
        took = min(span.took_s, FACTOR_MAX * predicted_s) / predicted_s
        keep = math.exp(-predicted_s / MEMORY_S)
        self._prefill = self._prefill * keep + p * p / predicted_s
        self._mixed = self._mixed * keep + p * d / predicted_s
        self._decode = self._decode * keep + d * d / predicted_s
        self._took_prefill = self._took_prefill * keep + took * p
        self._took_decode = self._took_decode * keep + took * d
        before = self.pace
        prefill, decode = self._solve()
        self.pace = Pace(prefill=_on_grid(before.prefill, prefill), decode=_on_grid(before.decode, decode))

    def _solve(self) -> tuple[float, float]:
        pp, dd, pd = self._prefill + PRIOR_S, self._decode + PRIOR_S, self._mixed
        tp, td = self._took_prefill + PRIOR_S, self._took_decode + PRIOR_S
        determinant = pp * dd - pd * pd  # above 0: Cauchy-Schwarz, and the prior
        return _bounded((tp * dd - td * pd) / determinant), _bounded((td * pp - tp * pd) / determinant)


def correct(performance: PerformanceModel, pace: Pace) -> PerformanceModel:
    """Apply what was measured; the model itself where nothing was off."""
    if pace == Pace():
        return performance
    return performance.paced(prefill=pace.prefill, decode=pace.decode)


def _bounded(factor: float) -> float:
    return min(max(factor, 1.0 / FACTOR_MAX), FACTOR_MAX)


def _on_grid(announced: float, measured: float) -> float:
    step_log = math.log(GRID)
    if abs(math.log(measured / announced)) <= STAY * step_log:
        return announced
    return GRID ** round(math.log(measured) / step_log)
