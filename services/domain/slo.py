"""Service level objectives: what a request is promised."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Targets of one class of requests."""

    ttft_s: float
    """Gateway accept to first token sent."""
    tpot_s: float
    """Per output token after the first, mean over the request."""
