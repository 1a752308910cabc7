"""Service level objectives: what a request is promised."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Targets of one class of requests."""

    ttft_s: float
    """Gateway accept to first token sent."""
    tpot_s: float
    """Per output token after the first, mean over the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """How much of each target a prediction may use up under overload, so that the truth is in time too."""

    ttft_frac: float = 1.0
    """Of the target, in (0, 1]; 1 where predictions come true."""
    tpot_frac: float = 1.0
    """Of what the target leaves beside a step of the request alone, which is the part that others share;
    in (0, 1]."""


WHOLE = Margins()
"""Predictions may use up the whole target."""
