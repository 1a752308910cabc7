"""How much of each target a prediction may use up, so that the truth is in time too: learned from misses.

Comes in: what became of requests that were let in under overload. Goes out: margins.
Invariant: each margin is in [`MARGIN_MIN_FRAC`, 1] and begins at 1; one request moves it by a bounded step.
At most `MODELS_MAX` models are remembered.
Form: the wanted margin is one over a high quantile of "measured time over the time it was let in for". The
quantile is followed by stochastic approximation (H. Robbins, S. Monro, 1951) of its logarithm: up by `STEP`
times (1 - share) when a request is beyond it, else down by `STEP` times share. That settles where just the
share is beyond, whatever the distribution is, and it forgets. Since a time is held against the margin that
the request itself was let in with, many requests under way do not push it too far.
Not here: what is decided with it (`services.router.bounds`).
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import exp, inf, log

from services.domain.slo import WHOLE, Margins, Slo

MODELS_MAX = 256
"""Models remembered; the one that was under overload longest ago goes first."""

STEP = 0.02
"""Width of a step. With half of the requests late, forty of them bring the bound down by a third; in balance
it stays within a few percent of its place. Larger ones follow faster and scatter more."""

MARGIN_MIN_FRAC = 0.25
"""Smallest margin: whatever went wrong, a quarter of the target is still given away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an interactive request that was let in under overload.

    Attributes:
        margins: those it was let in with.
        predicted_ttft_s: as predicted when it was placed, but from accept on.
        predicted_tpot_s: as predicted when it was placed.
        ttft_s: measured, or the time after which it ended without a token; None when it ended before the
            target without one.
        tpot_s: measured; None below two tokens.
    """

    margins: Margins
    predicted_ttft_s: float
    predicted_tpot_s: float
    ttft_s: float | None
    tpot_s: float | None


@dataclass(slots=True)
class _Excess:
    """By how much measured times exceed what they were let in for: a high quantile, >= 1."""

    log_quantile: float = 0.0

    def fold(self, ratio: float, miss_frac: float) -> None:
        beyond = (log(ratio) if ratio > 0 else -inf) > self.log_quantile
        moved = self.log_quantile + STEP * (1.0 - miss_frac if beyond else -miss_frac)
        self.log_quantile = min(max(moved, 0.0), -log(MARGIN_MIN_FRAC))

    @property
    def margin_frac(self) -> float:
        return max(MARGIN_MIN_FRAC, exp(-self.log_quantile))


class Misses:
    """Margins of all models."""

    def __init__(self, targets: Slo, miss_frac: float) -> None:
        """Begin with nothing kept.

        Args:
            targets: what requests are held against.
            miss_frac: share of requests that may miss, half of it each target, in (0, 1]; 1 keeps nothing.
        """
        self._targets = targets
        self._miss_frac = miss_frac / 2 if miss_frac < 1 else 1.0
        self._models: OrderedDict[str, tuple[_Excess, _Excess]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def fold(self, model: str, outcome: Outcome) -> None:
        """Learn from a request.

        One that was let in although its prediction was beyond the bound (a prompt longer than the target
        allows, an engine slower than it) says nothing: no margin would have kept it in time.
        """
        ttft, tpot = self._models.setdefault(model, (_Excess(), _Excess()))
        self._models.move_to_end(model)
        if len(self._models) > MODELS_MAX:
            self._models.popitem(last=False)
        let_in_s = self._targets.ttft_s * outcome.margins.ttft_frac
        if outcome.ttft_s is not None and outcome.predicted_ttft_s <= let_in_s:
            ttft.fold(outcome.ttft_s / let_in_s, self._miss_frac)
        # That margin is of the part that others share, so the bound itself was at least this.
        let_in_s = self._targets.tpot_s * outcome.margins.tpot_frac
        if outcome.tpot_s is not None and outcome.predicted_tpot_s <= self._targets.tpot_s:
            tpot.fold(outcome.tpot_s / let_in_s, self._miss_frac)

    def margins(self, model: str) -> Margins:
        """Say how much of each target predictions of a model may use up."""
        found = self._models.get(model)
        if found is None:
            return WHOLE
        ttft, tpot = found
        return Margins(ttft_frac=ttft.margin_frac, tpot_frac=tpot.margin_frac)
