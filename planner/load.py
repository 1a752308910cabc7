"""The load that a plan is made for, and the engine that is to carry it.

Comes in: moments of requests, a forecast's interval. Goes out: frozen values and the scenarios that stand for
the interval. Invariant: a share of requests that is averaged over scenarios weighs each by the requests that
would arrive in it. Not here: where the load comes from (`forecasting`), what follows from it (`sizing`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.polynomial.hermite_e import hermegauss

from services.domain.performance import PerformanceModel

Array = npt.NDArray[np.float64]

_SCENARIOS = 7
_NODES, _WEIGHTS = hermegauss(_SCENARIOS)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Gauss-Hermite quadrature: seven rates stand for a normal forecast error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One worker's engine, as far as sizing goes."""

    performance: PerformanceModel
    kv_tokens: int
    sequences_max: int
    step_tokens_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How sure a forecast is.

    Attributes:
        prefill_frac: standard error of the work of that role, as a share of it.
        decode_frac: standard error of the work of that role, as a share of it.
    """

    prefill_frac: float = 0.0
    decode_frac: float = 0.0

    def within(self, other: "Spread") -> bool:
        """Whether both roles are at least as sure as in another."""
        return self.prefill_frac <= other.prefill_frac and self.decode_frac <= other.decode_frac


SURE = Spread()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLoad:
    """Requests at one moment, as expected.

    Attributes:
        requests_per_s: arrivals expected.
        spread: how sure their work is.
        prompt_tokens: mean of a prompt.
        uncached_tokens: mean of what has to be computed of it.
        uncached_square_tokens: mean of the square of that, in tokens squared.
        output_tokens: mean of an output.
        context_tokens: mean KV of one sequence while it decodes.
        dispersion: index of dispersion of the arrivals; 1 for independent ones.
    """

    requests_per_s: float
    spread: Spread = SURE
    prompt_tokens: float
    uncached_tokens: float
    uncached_square_tokens: float
    output_tokens: float
    context_tokens: float
    dispersion: float = 1.0


def scenarios(requests_per_s: float, spread_frac: float) -> tuple[Array, Array]:
    """Spread a rate over its interval.

    Returns:
        Rates in requests per second, and the share of all requests that arrives in each; shapes [n], [n].
    """
    rates = requests_per_s * np.maximum(0.0, 1.0 + spread_frac * _NODES)
    shares = rates * _WEIGHTS
    total = float(shares.sum())
    return rates, shares / total if total > 0.0 else _WEIGHTS


def upper_tail(z: Array) -> Array:
    """Probability that a standard normal variable exceeds `z`, within 1.4e-4 (E. Page, 1977)."""
    bounded = np.minimum(np.maximum(z, -8.0), 8.0)
    return np.asarray(1.0 / (1.0 + np.exp(bounded * (1.5976 + 0.070565992 * bounded * bounded))))
