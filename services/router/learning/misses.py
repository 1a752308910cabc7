"""How much of each target a prediction may use up, so that the truth is in time too: learned from misses.

Comes in: what became of requests that were let in under overload. Goes out: margins.
Invariant: each margin is in [`MARGIN_MIN_FRAC`, 1] and begins at 1; one request moves it by a bounded step.
At most `MODELS_MAX` models are remembered.
Form: the wanted margin is one over a high quantile of "measured time over the time it was let in for",
followed as requests end (`services.domain.quantiles`). Since a time is held against the margin that the
request itself was let in with, many requests under way do not push it too far.
Not here: what is decided with it (`services.router.pricing.bounds`).
"""

from collections import OrderedDict
from dataclasses import dataclass

from services.domain.quantiles import FollowedQuantile
from services.domain.slo import WHOLE, Margins, Slo

MODELS_MAX = 256
"""Models remembered; the one that was under overload longest ago goes first."""

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


def _excess(miss_frac: float) -> FollowedQuantile:
    """By how much measured times exceed what they were let in for: a high quantile, >= 1."""
    return FollowedQuantile(beyond_frac=miss_frac, value=1.0, least=1.0, most=1 / MARGIN_MIN_FRAC)


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
        self._models: OrderedDict[str, tuple[FollowedQuantile, FollowedQuantile]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def fold(self, model: str, outcome: Outcome) -> None:
        """Learn from a request.

        One that was let in although its prediction was beyond the bound (a prompt longer than the target
        allows, an engine slower than it) says nothing: no margin would have kept it in time.
        """
        ttft, tpot = self._models.setdefault(model, (_excess(self._miss_frac), _excess(self._miss_frac)))
        self._models.move_to_end(model)
        if len(self._models) > MODELS_MAX:
            self._models.popitem(last=False)
        let_in_s = self._targets.ttft_s * outcome.margins.ttft_frac
        if outcome.ttft_s is not None and outcome.predicted_ttft_s <= let_in_s:
            ttft.fold(outcome.ttft_s / let_in_s)
        # That margin is of the part that others share, so the bound itself was at least this.
        let_in_s = self._targets.tpot_s * outcome.margins.tpot_frac
        if outcome.tpot_s is not None and outcome.predicted_tpot_s <= self._targets.tpot_s:
            tpot.fold(outcome.tpot_s / let_in_s)

    def margins(self, model: str) -> Margins:
        """Say how much of each target predictions of a model may use up."""
        found = self._models.get(model)
        if found is None:
            return WHOLE
        ttft, tpot = found
        return Margins(ttft_frac=1 / ttft.value, tpot_frac=1 / tpot.value)
